"""Cut times, a number of segments and a maximum duration on the job row, through both functions and both engines."""

import json
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from media_worker.jobs import JobStatus
from media_worker.keys import build_plan_key
from media_worker.operations import NewSettings, retry_job
from media_worker.plan import Plan, PlannedCut, parse_plan

from tests.functional.conftest import ClipMaker
from tests.functional.stack import INPUT, Stack
from tests.media.clips import ffmpeg


def numbers(*seconds: str) -> dict[str, Any]:
    return {"L": [{"N": each} for each in seconds]}


# The sync samples of the clips are at 0, 1, ... 9 s.
WANTED: dict[str, Any] = {"cut_times_s": numbers("0.2", "2.4", "2.3", "5.5", "8.7"), "cut_tolerance_sec": {"N": "0.4"}}


def split(stack: Stack, source: Path, **attributes: Any) -> Plan:
    stack.add_job(**attributes)
    stack.upload(source)
    assert stack.chunk() == []
    assert stack.job().error is None
    return parse_plan(stack.read(INPUT, build_plan_key("job-1")))


def digests(path: Path) -> list[str]:
    """A digest of each frame of the video."""
    listed = ffmpeg("-i", str(path), "-map", "0:v:0", "-fps_mode", "passthrough", "-f", "framemd5", "-")
    return [line.rsplit(",", 1)[1].strip() for line in listed.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize(("extension", "engine"), [("mp4", "copy"), ("mkv", "remux")])
def test_segments_start_near_the_wanted_times(
    stack: Stack, clip: ClipMaker, tmp_path: Path, extension: str, engine: str
) -> None:
    """Plan and notice name the time that got no cut, two times share one cut, and the join has every frame."""
    source = tmp_path / f"source.{extension}"
    ffmpeg("-i", str(clip("plain")), "-map", "0", "-c", "copy", str(source))
    plan = split(stack, source, **WANTED)
    assert (plan.engine, plan.segment_duration_s, plan.cut_tolerance_s) == (engine, None, Fraction(2, 5))
    assert [round(each) for each in plan.starts_s] == [0, 2, 9]
    first_s, two_s, nine_s = plan.starts_s
    wanted = map(Fraction, ("0.2", "2.3", "2.4", "5.5", "8.7"))
    got = (first_s, two_s, two_s, None, nine_s)
    assert plan.cut_times == tuple(PlannedCut(*each) for each in zip(wanted, got, strict=True))
    assert "within 0.4 s of 1 of 5 wanted cut times: 5.5 s" in str(plan.notice)
    assert plan.notice == stack.job().notice
    stack.process_segments()
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.COMPLETED
    assert digests(stack.save_final(tmp_path / "final.mp4")) == digests(source)


def test_cut_times_with_a_maximum_and_context_frames(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """Wanted cuts stay; further ones keep every segment within the maximum."""
    source = clip("open_gop")
    plan = split(
        stack, source, cut_times_s=numbers("3", "8.2"), max_segment_duration_sec={"N": "4"}, context_frames={"N": "3"}
    )
    assert [float(each) for each in plan.starts_s] == [0, 3.2, 6.4, 8]
    assert [each.context for each in plan.segments] == [3, 6, 6, 3]
    stack.process_segments()
    assert stack.reassemble() == []
    assert digests(stack.save_final(tmp_path / "final.mp4")) == digests(source)


@pytest.mark.parametrize(("wanted", "starts_s"), [("1", [0]), ("3", [0, 3, 7]), ("5", [0, 2, 4, 6, 8])])
def test_a_number_of_segments(stack: Stack, clip: ClipMaker, wanted: str, starts_s: list[int]) -> None:
    """They are of about equal duration. The row keeps what was wanted, so that another source is cut likewise."""
    plan = split(stack, clip("plain"), segments={"N": wanted})
    assert [float(each) for each in plan.starts_s] == starts_s
    assert (plan.wanted_segments, plan.notice) == (int(wanted), None)
    assert "segment_duration_sec" not in stack.row("Jobs")


def test_a_maximum_that_no_sync_sample_allows_is_a_notice(stack: Stack, clip: ClipMaker) -> None:
    """The stack's duration does not count if it is longer."""
    plan = split(stack, clip("plain"), max_segment_duration_sec={"N": "0.5"})
    assert len(plan.segments) == 10
    assert "more than the maximum of 0.5 s" in str(plan.notice)


def test_a_retry_carries_out_the_plan_that_is_there(stack: Stack, clip: ClipMaker) -> None:
    """Cut times that were changed later do not count."""
    plan = split(stack, clip("plain"), **WANTED)
    keys = stack.segment_keys()
    stack.store_plan(stack.read(INPUT, build_plan_key("job-1")))
    stack.set_job(cut_times_s=numbers("4"))
    stack.aws.s3.delete_object(Bucket=INPUT, Key=keys[1])
    assert stack.chunk() == []
    assert stack.segment_keys() == keys
    assert stack.job().plan == plan.digest


def test_a_retry_with_a_duration_replaces_the_cut_times(stack: Stack, clip: ClipMaker) -> None:
    """Otherwise the two would exclude each other."""
    split(stack, clip("plain"), **WANTED)
    stack.set_job(status={"S": "failed"})
    aws = replace(stack.aws, settings=replace(stack.aws.settings, segment_queue_url="https://sqs/segments"))
    retry_job(aws, "job-1", settings=NewSettings(Decimal(5)))
    assert stack.chunk() == []
    plan = parse_plan(stack.read(INPUT, build_plan_key("job-1")))
    assert [float(each) for each in plan.starts_s] == [0, 5]
    assert plan.cut_times == ()
    assert json.loads(plan.to_json())["version"] == 1


def test_settings_that_exclude_each_other_fail_the_job(stack: Stack, clip: ClipMaker) -> None:
    """The error says which, and what to do."""
    stack.add_job(segment_duration_sec={"N": "2"}, **WANTED)
    stack.upload(clip("plain"))
    assert stack.chunk() == []
    assert stack.row("Jobs")["status"]["S"] == "failed"
    error = stack.row("Jobs")["error"]["S"]
    assert "segment_duration_sec and cut_times_s exclude each other: set only one of them" in error
