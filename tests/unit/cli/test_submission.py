"""The row of a new job."""

import re
from decimal import Decimal
from pathlib import Path

from media_worker_cli.submission import Submission, build_row, new_job_id


def test_a_row_has_the_attributes_of_the_contract() -> None:
    """Options that were not given are not in it, so the stack's settings apply."""
    row = build_row(Submission("holiday-1", Path("/home/me/Holiday.mp4")), 1_700_000_000, 42)
    assert row == {
        "job_id": "holiday-1",
        "mode": "sbs",
        "status": "created",
        "created_at": 1_700_000_000,
        "uploaded_at": 1_700_000_000,
        "title": "Holiday.mp4",
        "source_file_size_bytes": 42,
    }


def test_a_row_has_the_options_of_its_job() -> None:
    """The engine, and the segment length exactly as typed."""
    submission = Submission("holiday-1", Path("f.mp4"), "anaglyph", "ffmpeg", Decimal("2.5"), "any")
    row = build_row(submission, 0, 0)
    assert (row["mode"], row["engine"], row["segment_duration_sec"]) == ("anaglyph", "ffmpeg", Decimal("2.5"))
    assert row["frame_check"] == "any"


def test_job_ids_are_unique_and_begin_with_the_source_name() -> None:
    """A name without ASCII letters or digits becomes `video`."""
    first, second = (new_job_id(Path("/x/My Häuser & Co.final.mp4")) for _ in range(2))
    assert first != second
    assert re.fullmatch(r"my-h-user-co-final-[0-9a-f]{8}", first)
    assert re.fullmatch(r"video-[0-9a-f]{8}", new_job_id(Path("/x/動画.mp4")))
    assert len(new_job_id(Path("x" * 200))) == 49
