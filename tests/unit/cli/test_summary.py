"""The summary of a finished run."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from media_worker_cli.summary import StepCost, Summary, costs_of, describe_frames


def test_steps_are_in_the_order_in_which_they_ran() -> None:
    """DynamoDB maps have no order. An unknown step comes last. A row without steps has none."""
    row = {
        "reassembly_steps": {"join": {"seconds": Decimal("0.5"), "bytes": Decimal(7)}},
        "chunking_steps": {"rest": {}, "split": {"seconds": 2}, "plan": {"seconds": 1, "bytes": Decimal(9)}},
    }
    assert costs_of(row) == (
        StepCost("chunking: plan", 1.0, 9),
        StepCost("chunking: split", 2.0, None),
        StepCost("chunking: rest", 0.0, None),
        StepCost("reassembly: join", 0.5, 7),
    )
    assert costs_of({}) == ()


def test_a_lost_frame_is_reported() -> None:
    """Equal counts, different counts, and a file whose frames cannot be counted."""
    assert describe_frames(1800, 1800) == "frames in = frames out: 1800"
    assert describe_frames(1800, 1799) == "frames in: 1800, frames out: 1799 (different)"
    assert describe_frames(None, 1) == "frames: could not be counted"


def test_a_summary_as_lines_and_as_json() -> None:
    """Seconds and megabytes of each step, then the totals."""
    steps = (StepCost("upload", 1.5, 2_000_000), StepCost("chunking: plan", 0.25))
    summary = Summary("job", Path("out/final.mp4"), 3_000_000, 6, 10, 10, steps, 12.5)
    assert summary.as_lines() == [
        "step             seconds         MB",
        "upload              1.50        2.0",
        "chunking: plan      0.25           ",
        "6 segments, 12.5 s in total",
        "frames in = frames out: 10",
        "the final is out/final.mp4 (3.0 MB)",
    ]
    assert summary.as_json()["final"] == "out/final.mp4"
    assert "1 segment, 12.5 s in total" in replace(summary, segments=1).as_lines()
    assert "notice: one keyframe" in replace(summary, notice="one keyframe").as_lines()
    assert summary.as_json()["steps"][1] == {"step": "chunking: plan", "seconds": 0.25, "size_bytes": None}
