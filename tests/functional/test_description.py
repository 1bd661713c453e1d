"""The description of a job, and the command that prints it."""

import json
from argparse import Namespace
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from media_worker import jobs
from media_worker.attempts import Attempt, AttemptState
from media_worker.completions import Completion
from media_worker.description import describe_job, remaining_s, summarize_source
from media_worker.errors import NoSuchJob
from media_worker.jobs import Job, JobStatus
from media_worker.keys import build_output_segment_key
from media_worker_cli import job_commands
from media_worker_cli.local.ffmpeg import count_frames
from media_worker_cli.stack import Stack as CliStack

from tests.functional.conftest import ClipMaker
from tests.functional.stack import OUTPUT, Stack, create_table
from tests.media import clips


@pytest.fixture
def split(stack: Stack, clip: ClipMaker) -> Stack:
    """A job whose source is split in three, with the table of attempts."""
    create_table(stack.aws, "SegmentAttempts", job_id="S", segment_index="N")
    settings = replace(stack.aws.settings, segment_attempts_table_name="SegmentAttempts")
    stack.aws = replace(stack.aws, settings=settings)
    stack.add_job(engine={"S": "copy"}, title={"S": "holiday.mp4"})
    stack.upload(clip("plain"))
    assert stack.chunk() == []
    return stack


def attempt(stack: Stack, index: int, state: AttemptState, **attributes: Any) -> None:
    latest = Attempt(
        job_id="job-1",
        segment_index=index,
        attempt=2,
        worker="gpu-7",
        run_id="message/2",
        state=state,
        plan=stack.job().plan,
        **attributes,
    )
    stack.aws.dynamodb.put_item(TableName="SegmentAttempts", Item=latest.to_item())


def complete(stack: Stack, index: int) -> None:
    stack.put_processed(index, b"processed")
    assert build_output_segment_key("job-1", index)


def test_each_segment_has_a_state(split: Stack) -> None:
    """Done counts more than an attempt; an attempt without a heartbeat has failed."""
    soon, past = jobs.now_s() + 60, 1
    complete(split, 0)
    attempt(split, 0, AttemptState.DONE)
    attempt(split, 1, AttemptState.RUNNING, expires_at=soon, progress=0.42)
    attempt(split, 2, AttemptState.FAILED, error="CUDA out of memory")
    described = describe_job(split.aws, "job-1")
    assert [segment.state for segment in described.segments] == ["done", "running", "failed"]
    assert described.processed == 1
    assert [segment.frames for segment in described.segments] == [100, 100, 50]
    running = described.segments[1].attempt
    assert running
    assert (running.worker, running.progress, running.attempt) == ("gpu-7", 0.42, 2)
    attempt(split, 1, AttemptState.RUNNING, expires_at=past)
    assert describe_job(split.aws, "job-1").segments[1].state == "failed"


def test_segments_that_are_not_written_are_planned(split: Stack) -> None:
    """While the source is being split, S3 says which exist."""
    split.aws.s3.delete_object(Bucket="test-input", Key="segments/job-1/00001_00003_sbs.mp4")
    split.aws.dynamodb.update_item(
        TableName="Jobs",
        Key={"job_id": {"S": "job-1"}},
        UpdateExpression="SET #status = :status",
        ExpressionAttributeNames={"#status": "status"},
        ExpressionAttributeValues={":status": {"S": "chunking_in_progress"}},
    )
    assert [each.state for each in describe_job(split.aws, "job-1").segments] == ["waiting", "planned", "waiting"]


def test_a_job_without_a_plan_or_source_is_described(stack: Stack) -> None:
    """It was just created, or everything has expired."""
    stack.add_job()
    described = describe_job(stack.aws, "job-1")
    assert (described.source, described.plan, described.segments, described.remaining_s) == (None, None, (), None)
    assert [(event.at, event.what) for event in described.timeline] == [(1, "job created")]
    with pytest.raises(NoSuchJob):
        describe_job(stack.aws, "job-2")


def test_the_timeline_is_in_order(split: Stack) -> None:
    """From the creation to the end."""
    for index in range(3):
        complete(split, index)
    jobs.fail_job(split.aws, "job-1", "bad")
    whats = [event.what for event in describe_job(split.aws, "job-1").timeline]
    assert whats[0] == "job created"
    assert {"work started", "3 segments processed", "join requested", "failed"} <= set(whats)


def test_the_source_is_read_from_its_index(split: Stack) -> None:
    """A file that is no MP4 has no tracks that we know."""
    source = describe_job(split.aws, "job-1").source
    assert source
    tracks = summarize_source(split.aws, source)
    assert tracks
    assert (tracks.tracks, tracks.frames, tracks.duration_s) == (("vide/avc1", "soun/mp4a"), 250, 10.0)
    split.aws.s3.put_object(Bucket=OUTPUT, Key="x", Body=b"no video")
    assert summarize_source(split.aws, replace(source, bucket=OUTPUT, key="x", size_bytes=8)) is None


def show(stack: Stack, monkeypatch: pytest.MonkeyPatch, *, as_json: bool) -> int:
    monkeypatch.setattr(job_commands, "choose_stack", lambda _: CliStack("test", stack.aws, {}))
    return job_commands.show(Namespace(job="job-1", stack=None, json=as_json))


def test_show_prints_a_table_of_segments(
    split: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With worker, progress and error."""
    attempt(split, 1, AttemptState.RUNNING, expires_at=jobs.now_s() + 60, progress=0.42)
    attempt(split, 2, AttemptState.FAILED, error="CUDA out of memory")
    capsys.readouterr()
    assert show(split, monkeypatch, as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "title     holiday.mp4" in lines
    assert "1        running 42 %  0:00:04  100     2         gpu-7" in lines
    assert "2        failed        0:00:08  50      2         gpu-7   CUDA out of memory" in lines


def test_show_prints_json(split: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """For programs: numbers are numbers, and what is unknown is null."""
    complete(split, 0)
    capsys.readouterr()
    assert show(split, monkeypatch, as_json=True) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["status"], printed["processed"], printed["final"]) == ("chunking_complete", 1, None)
    assert printed["segments"][0]["state"] == "done"
    assert printed["segments"][1]["attempt"] is None
    assert printed["source"]["tracks"] == ["vide/avc1", "soun/mp4a"]


NOW = 1_000_000


def completions(*ages_s: int) -> list[Completion]:
    return [Completion(index, "s3://a/b", Decimal(NOW - age)) for index, age in enumerate(ages_s)]


@pytest.mark.parametrize(
    ("ages_s", "left_s"),
    [((), None), ((10,), 900), ((10, 20, 30, 40, 50), 100), ((10, 20), 400), ((10, 500, 600), 700)],
)
def test_the_remaining_time_follows_from_the_rate_of_this_run(ages_s: tuple[int, ...], left_s: int | None) -> None:
    """The run began 100 s ago. Segments that an earlier run processed say nothing about the rate."""
    job = Job("j", JobStatus.CHUNKING_COMPLETE, "sbs", total_segments=10, run_started_at=NOW - 100)
    assert remaining_s(job, completions(*ages_s), [], NOW) == left_s


def test_an_ended_job_has_no_remaining_time() -> None:
    """Whatever is missing."""
    job = Job("j", JobStatus.FAILED, "sbs", total_segments=10, run_started_at=NOW - 100)
    assert remaining_s(job, completions(10), [], NOW) is None


def test_frames_outside_the_edit_list_are_not_counted(clip: ClipMaker, tmp_path: Path) -> None:
    """A re-encoded copy does not have them, and must not look as if frames were missing."""
    cut, encoded = tmp_path / "cut.mp4", tmp_path / "encoded.mp4"
    clips.ffmpeg("-ss", "0.5", "-i", str(clip("plain")), "-c", "copy", str(cut))
    clips.ffmpeg("-i", str(cut), "-c:v", "libx264", "-preset", "ultrafast", str(encoded))
    assert count_frames(cut) == count_frames(encoded) == 237
    assert count_frames(tmp_path / "missing.mp4") is None
