"""Every frame back, or the job fails and says which segment is wrong: the plan, the frame contract, the final."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from media_worker.completions import is_processed, record_segment
from media_worker.errors import StaleSegment
from media_worker.jobs import JobStatus
from media_worker.keys import build_final_key, build_output_segment_key, build_plan_key
from media_worker.plan import parse_plan

from tests.functional.conftest import ClipMaker
from tests.functional.logs import Logs
from tests.functional.stack import INPUT, OUTPUT, Stack
from tests.media import clips, look

type Change = Callable[[int, bytes], bytes]


def reencode(folder: Path, *options: str) -> Change:
    """A worker that re-encodes each segment with ffmpeg."""

    def change(index: int, body: bytes) -> bytes:
        source, target = folder / f"in-{index}.mp4", folder / f"out-{index}.mp4"
        source.write_bytes(body)
        clips.ffmpeg("-i", str(source), "-c:v", "libx264", "-preset", "ultrafast", *options, str(target))
        return target.read_bytes()

    return change


def dropping(folder: Path, index: int, frames: int = 1) -> Change:
    """A worker that loses the last frames of one segment."""

    def change(number: int, body: bytes) -> bytes:
        if number != index:
            return body
        source = folder / "whole.mp4"
        source.write_bytes(body)
        kept = look.count_frames(source) - frames
        return reencode(folder, "-frames:v", str(kept), "-an")(number, body)

    return change


class Dying:
    """An S3 client whose process dies at the n-th write of a segment."""

    def __init__(self, client: Any, at: int) -> None:
        self._client, self._left = client, at

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def put_object(self, **arguments: Any) -> Any:
        if arguments["Key"].endswith(".mp4"):
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt
        return self._client.put_object(**arguments)


def test_a_retry_with_another_engine_carries_out_the_plan(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """The copy engine dies after one segment; the retry is told to use ffmpeg. The segments are of one plan."""
    source = clip("late_video")
    stack.add_job(engine={"S": "copy"})
    stack.upload(source)
    dying = Stack(replace(stack.aws, s3=cast("Any", Dying(stack.aws.s3, 1))), stack.temporary)
    with pytest.raises(KeyboardInterrupt):
        dying.chunk()
    planned = parse_plan(stack.read(INPUT, build_plan_key("job-1")))
    stack.set_job(engine={"S": "ffmpeg"}, segment_duration_sec={"N": "3"}, lease_expires_at={"N": "1"})
    assert stack.chunk() == []
    assert stack.job().plan == planned.digest
    assert len(stack.segment_keys()) == len(planned.segments)
    stack.process_segments()
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.COMPLETED
    assert look.count_frames(stack.save_final(tmp_path / "final.mp4")) == look.count_frames(source)


def test_a_plan_written_by_other_code_is_carried_out(stack: Stack, clip: ClipMaker) -> None:
    """A version with another cut rule wrote the plan: a retry cuts where that plan says."""
    stack.add_job()
    stack.upload(clip("plain"))
    stack.chunk()
    document = json.loads(stack.read(INPUT, build_plan_key("job-1")))
    first, second = document["segments"][0], document["segments"][1]
    merged = first | {"frames": first["frames"] + second["frames"], "duration_s": "8"}
    document["segments"] = [merged, document["segments"][2] | {"index": 1}]
    stack.store_plan(json.dumps(document).encode())
    for key in stack.segment_keys():
        stack.aws.s3.delete_object(Bucket=INPUT, Key=key)
    assert stack.chunk() == []
    assert [key.split("/")[-1] for key in stack.segment_keys()] == ["00000_00002_sbs.mp4", "00001_00002_sbs.mp4"]
    assert stack.head(INPUT, stack.segment_keys()[0])["Metadata"]["frames"] == str(merged["frames"])


def test_a_plan_that_does_not_fit_the_source_fails_the_job(stack: Stack, clip: ClipMaker) -> None:
    """The plan cuts where the source has no sync sample: nothing is guessed."""
    stack.add_job()
    stack.upload(clip("plain"))
    stack.chunk()
    document = json.loads(stack.read(INPUT, build_plan_key("job-1")))
    document["segments"][0] |= {"frames": 99, "duration_s": "99/25"}
    document["segments"][1] |= {"first_frame": 99, "frames": 101, "start_s": "99/25", "duration_s": "101/25"}
    stack.store_plan(json.dumps(document).encode())
    stack.chunk()
    assert stack.job().status is JobStatus.FAILED
    assert "the plan cannot be carried out" in (stack.job().error or "")


def test_another_source_is_another_plan(stack: Stack, clip: ClipMaker) -> None:
    """A re-upload is planned again; completions of the old plan do not count."""
    stack.add_job()
    stack.upload(clip("plain"))
    stack.chunk()
    old = stack.job().plan
    stack.process_segments()
    stack.set_job(status={"S": "failed"})
    stack.upload(clip("ntsc"))
    assert stack.chunk() == []
    assert stack.job().plan != old
    stack.reassembly_messages()
    assert stack.reassemble() == ["message-0"]
    assert stack.job().status is not JobStatus.COMPLETED


def test_an_explicit_retry_with_other_settings_is_a_new_plan(stack: Stack, clip: ClipMaker) -> None:
    """Whoever wants another duration removes `plan` from the row."""
    stack.add_job()
    stack.upload(clip("plain"))
    stack.chunk()
    old = stack.job().plan
    stack.set_job(status={"S": "failed"}, segment_duration_sec={"N": "2"}, plan=None)
    assert stack.chunk() == []
    assert stack.job().plan != old
    assert stack.job().total_segments == 5


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_lost_frame_fails_the_job(stack: Stack, clip: ClipMaker, tmp_path: Path, index: int) -> None:
    """299 frames of 300 are not `completed`."""
    stack.add_job()
    stack.upload(clip("no_audio"))
    stack.chunk()
    planned = int(stack.head(INPUT, stack.segment_keys()[index])["Metadata"]["frames"])
    stack.process_segments(change=dropping(tmp_path, index))
    stack.reassemble()
    assert stack.job().status is JobStatus.FAILED
    assert f"segment {index} has {planned - 1} frames, {planned} expected" in (stack.job().error or "")


def test_frame_check_any_accepts_other_frames(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """`frame_check: any` on the row switches the comparison off."""
    stack.add_job(frame_check={"S": "any"})
    stack.upload(clip("no_audio"))
    stack.chunk()
    stack.process_segments(change=dropping(tmp_path, 1))
    stack.reassemble()
    assert stack.job().status is JobStatus.COMPLETED


@pytest.mark.parametrize("name", ["plain", "variable_rate", "ntsc", "late_video", "long_audio", "hevc", "open_gop"])
@pytest.mark.parametrize("options", [(), ("-video_track_timescale", "90000"), ("-bf", "3", "-g", "7")])
def test_no_false_alarm(stack: Stack, clip: ClipMaker, tmp_path: Path, name: str, options: tuple[str, ...]) -> None:
    """Re-encoded segments, of whatever timescale and GOP structure, have their planned frames."""
    source = clip(name)
    stack.add_job()
    stack.upload(source)
    stack.chunk()
    stack.process_segments(change=reencode(tmp_path, *options))
    stack.reassemble()
    assert stack.job().error is None
    assert stack.job().status is JobStatus.COMPLETED
    assert look.count_frames(stack.save_final(tmp_path / "final.mp4")) == look.count_frames(source)


def test_a_doubled_frame_rate_is_accepted(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """Frame interpolation: every segment has twice its frames."""
    source = clip("no_audio")
    stack.add_job()
    stack.upload(source)
    stack.chunk()
    stack.process_segments(change=reencode(tmp_path, "-vf", "fps=50"))
    stack.reassemble()
    assert stack.job().error is None
    assert look.count_frames(stack.save_final(tmp_path / "final.mp4")) == 2 * look.count_frames(source)


def test_a_slow_worker_of_an_old_plan_is_refused(stack: Stack, clip: ClipMaker) -> None:
    """It can neither record its segment nor take it for processed."""
    stack.add_job()
    stack.upload(clip("plain"))
    stack.chunk()
    old = stack.job().plan
    stack.set_job(status={"S": "failed"}, segment_duration_sec={"N": "2"}, plan=None)
    stack.chunk()
    stack.process_segments()
    uri = f"s3://{OUTPUT}/{build_output_segment_key('job-1', 0)}"
    with pytest.raises(StaleSegment):
        record_segment(stack.aws, job_id="job-1", segment_index=0, output_s3_uri=uri, plan=old)
    assert not is_processed(stack.aws, job_id="job-1", segment_index=0, plan=old)
    assert is_processed(stack.aws, job_id="job-1", segment_index=0, plan=stack.job().plan)


def test_a_processed_segment_of_another_plan_is_noticed(stack: Stack, clip: ClipMaker) -> None:
    """A slow worker overwrote a good processed segment: the join names it."""
    stack.add_job()
    stack.upload(clip("plain"))
    stack.chunk()
    stack.process_segments()
    key = build_output_segment_key("job-1", 1)
    stack.aws.s3.put_object(Bucket=OUTPUT, Key=key, Body=stack.read(OUTPUT, key), Metadata={"plan": "another"})
    stack.reassemble()
    assert stack.job().status is JobStatus.FAILED
    assert "segment 1 was overwritten by one of another plan" in (stack.job().error or "")


def test_a_bad_final_is_replaced_by_a_redrive(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """An earlier attempt's final lacks a segment: the next attempt overwrites it."""
    source = clip("plain")
    stack.add_job()
    stack.upload(source)
    stack.chunk()
    stack.process_segments()
    stack.reassemble()
    key = build_final_key("job-1")
    metadata = stack.head(OUTPUT, key)["Metadata"]
    first = stack.read(INPUT, stack.segment_keys()[0])
    stack.aws.s3.put_object(Bucket=OUTPUT, Key=key, Body=first, Metadata=metadata)
    stack.set_job(status={"S": "failed"})
    stack.aws.dynamodb.delete_item(TableName="ReassemblyTriggered", Key={"job_id": {"S": "job-1"}})
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.COMPLETED
    assert look.count_frames(stack.save_final(tmp_path / "final.mp4")) == look.count_frames(source)


def test_replaced_segments_are_joined_again(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """A processed segment was replaced after the final was written: a retry does not deliver the old final."""
    stack.add_job()
    stack.upload(clip("no_audio"))
    stack.chunk()
    stack.process_segments()
    stack.reassemble()
    before = stack.head(OUTPUT, build_final_key("job-1"))["ETag"]
    stack.set_job(status={"S": "failed"})
    stack.process_segments(change=reencode(tmp_path, "-vf", "negate"))
    stack.aws.dynamodb.delete_item(TableName="ReassemblyTriggered", Key={"job_id": {"S": "job-1"}})
    assert stack.reassemble() == []
    assert stack.head(OUTPUT, build_final_key("job-1"))["ETag"] != before


def test_timescales_without_a_common_multiple_join(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """Timescales of 10240, 10002 and 19996: the final is as long as the source."""
    source = clip("no_audio")
    stack.add_job()
    stack.upload(source)
    stack.chunk()

    def change(index: int, body: bytes) -> bytes:
        timescale = ("10240", "10002", "19996")[index % 3]
        return reencode(tmp_path, "-video_track_timescale", timescale)(index, body)

    stack.process_segments(change=change)
    stack.reassemble()
    assert stack.job().error is None
    final = stack.save_final(tmp_path / "final.mp4")
    assert look.count_frames(final) == look.count_frames(source)
    assert look.duration_s(final) == pytest.approx(look.duration_s(source), abs=0.04)


def test_a_row_of_another_implementation_is_an_expired_lease(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """`reassembly_started_at` without a lease is not "done": the join is done, and the log says why."""
    stack.add_job()
    stack.upload(clip("plain"))
    stack.chunk()
    stack.process_segments()
    stack.aws.dynamodb.put_item(
        TableName="ReassemblyTriggered",
        Item={
            "job_id": {"S": "job-1"},
            "triggered_at": {"N": "1"},
            "ttl": {"N": "9"},
            "reassembly_started_at": {"N": "2"},
        },
    )
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.COMPLETED
    assert logs.one("lease_taken_over")["reason"] == "reassembly_started_at had no lease"


def test_a_failing_job_is_written_once(stack: Stack) -> None:
    """Releasing the lease is part of the write that sets `failed`: subscribers of the stream see one change."""
    stack.add_job()
    stack.upload(b"this is not a video")
    seen: list[tuple[str, bool]] = []

    def look_at(**_: Any) -> None:
        row = stack.row("Jobs")
        seen.append((row["status"]["S"], "lease_holder" in row))

    stack.aws.dynamodb.meta.events.register("after-call.dynamodb.UpdateItem", look_at)
    stack.chunk()
    assert stack.job().status is JobStatus.FAILED
    assert seen.count(("failed", False)) == len([entry for entry in seen if entry[0] == "failed"])
    changes = [after for before, after in pairwise(seen) if before != after]
    assert changes.count(("failed", False)) == 1
