"""Everything that the functions do, at least once. A scenario fails when a right is missing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from media_worker import reassembly
from media_worker.attempts import Attempt, AttemptState, Failure, begin_attempt, read_attempts
from media_worker.jobs import JobStatus
from media_worker.keys import build_final_key, build_segment_key, build_source_key
from media_worker.s3 import write_once
from media_worker.sweep import CONFIRM_S, IDLE_S
from moto.s3 import models as moto_s3

from tests.crash.clock import Clock
from tests.functional.stack import INPUT, OUTPUT, s3_event
from tests.functional.sweep_world import World, complete_stack
from tests.media.clips import ffmpeg, make
from tests.rights.stack import GuardedStack
from tests.small_parts import use_small_parts

SEGMENTS = 3
UPLOADED = s3_event(build_source_key("job-1"))
COMPLETE = {"job_id": "job-1"}

type Scenario = Callable[[GuardedStack], None]


@contextmanager
def _copying(stack: GuardedStack) -> Iterator[None]:
    """Make parts so small that S3 copies a short clip's media, and check that it did."""
    copies = []
    stack.aws.s3.meta.events.register("before-call.s3.UploadPartCopy", lambda **_: copies.append(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moto_s3, "S3_UPLOAD_PART_MIN_SIZE", 1024)
        use_small_parts(patch, 1024, upload_bytes=1024 * 1024, copy_bytes=1024 * 1024)
        yield
    assert copies


def chunk_and_request_the_reassembly(stack: GuardedStack) -> None:
    """The workers were faster than chunking, so chunking requests the reassembly."""
    stack.open.add_job()
    stack.open.upload(stack.clip)
    stack.add_processed(SEGMENTS)
    assert stack.deliver(UPLOADED)
    assert stack.open.job().status is JobStatus.CHUNKING_COMPLETE
    assert len(stack.open.segment_keys()) == SEGMENTS
    assert stack.open.reassembly_messages() == [COMPLETE]
    assert "sent_at" in stack.open.row("ReassemblyTriggered")


def chunk_with_copies(stack: GuardedStack) -> None:
    """The copy engine: S3 copies the media, with the function's rights to source and target."""
    stack.open.add_job(engine={"S": "copy"})
    stack.open.upload(stack.clip)
    with _copying(stack):
        assert stack.deliver(UPLOADED)
        assert len(stack.open.segment_keys()) == SEGMENTS


def chunk_again_after_a_crash(stack: GuardedStack) -> None:
    """The segments of the first attempt are looked up and kept."""
    stack.open.add_job()
    stack.open.upload(stack.clip)
    assert stack.deliver(UPLOADED)
    etag = stack.open.job().source_etag
    stack.set_job(JobStatus.CHUNKING_IN_PROGRESS, source_etag={"S": etag}, total_segments={"N": str(SEGMENTS)})
    assert stack.deliver(UPLOADED)
    assert stack.open.job().status is JobStatus.CHUNKING_COMPLETE


def replace_a_segment_of_another_source(stack: GuardedStack) -> None:
    """The first upload finds the segment and is aborted; a conditional upload replaces it."""
    key = build_segment_key("job-1", 0, SEGMENTS, "sbs")
    stack.leave(INPUT, key)
    stack.open.add_job()
    stack.open.upload(stack.clip)
    with _copying(stack):
        assert stack.deliver(UPLOADED)
    assert stack.open.read(INPUT, key) != b"old"
    assert stack.unfinished_uploads(INPUT) == 0


def clear_an_earlier_run(stack: GuardedStack) -> None:
    """A new source replaces the plan: completions of the old one and the old trigger are deleted."""
    stack.set_job(JobStatus.FAILED, plan={"S": "old"}, run_started_at={"N": "1000"})
    row = {"job_id": {"S": "job-1"}, "segment_index": {"N": "7"}, "output_s3_uri": {"S": "s3://"}, "plan": {"S": "old"}}
    stack.open.aws.dynamodb.put_item(TableName="SegmentCompletions", Item=row)
    trigger = {"job_id": {"S": "job-1"}, "triggered_at": {"N": "1001"}, "run_started_at": {"N": "1000"}}
    stack.open.aws.dynamodb.put_item(TableName="ReassemblyTriggered", Item=trigger)
    stack.open.upload(stack.clip)
    assert stack.deliver(UPLOADED)
    assert stack.open.aws.dynamodb.scan(TableName="SegmentCompletions")["Items"] == []
    assert stack.open.row("ReassemblyTriggered") == {}


def miss_a_source(stack: GuardedStack) -> None:
    """A deleted source fails the job with that reason."""
    stack.open.add_job()
    assert stack.deliver(UPLOADED)
    assert "does not exist" in str(stack.open.job().error)


def find_the_reassembly_requested(stack: GuardedStack) -> None:
    """A duplicate message requests no second reassembly."""
    stack.set_job(JobStatus.CHUNKING_COMPLETE, total_segments={"N": str(SEGMENTS)})
    stack.add_processed(SEGMENTS)
    trigger = {"job_id": {"S": "job-1"}, "triggered_at": {"N": "1"}, "sent_at": {"N": "1"}}
    stack.open.aws.dynamodb.put_item(TableName="ReassemblyTriggered", Item=trigger)
    assert stack.deliver(UPLOADED)
    assert stack.open.reassembly_messages() == []


def return_a_malformed_message(stack: GuardedStack) -> None:
    """It is returned without a delay."""
    assert not stack.deliver({"neither": "nor"})
    assert stack.visible_messages() == 1


def reenqueue_a_message_that_only_waited(stack: GuardedStack) -> None:
    """Its receives were used up without an attempt: a new message is sent and this one acknowledged."""
    last = stack.aws.settings.max_receive_count
    assert stack.deliver(UPLOADED, receive_count=last, remaining_ms=1000)
    assert stack.visible_messages() == 1


def refuse_a_text_file(stack: GuardedStack) -> None:
    """A source that is not a video fails the job."""
    stack.open.add_job()
    stack.open.upload(b"Nothing to see here.\n")
    assert stack.deliver(UPLOADED)
    assert "cannot read it as a video" in str(stack.open.job().error)


def abort_an_incomplete_segment(stack: GuardedStack) -> None:
    """The upload of a dead attempt is aborted by the next one."""
    stack.open.aws.s3.create_multipart_upload(Bucket=INPUT, Key=build_segment_key("job-1", 7, 8, "sbs"))
    stack.open.add_job()
    stack.open.upload(stack.clip)
    assert stack.deliver(UPLOADED)
    assert stack.unfinished_uploads(INPUT) == 0


def _prepare_join(stack: GuardedStack) -> None:
    stack.set_job(JobStatus.CHUNKING_COMPLETE, total_segments={"N": "2"}, source_etag={"S": "this"})
    stack.add_processed(2, stack.clip.read_bytes())


def join(stack: GuardedStack) -> None:
    """The job is completed, and a duplicate message finds that."""
    _prepare_join(stack)
    assert stack.deliver(COMPLETE)
    assert stack.open.job().status is JobStatus.COMPLETED
    assert stack.open.read(OUTPUT, build_final_key("job-1"))
    assert stack.deliver(COMPLETE)


def join_with_copies(stack: GuardedStack) -> None:
    """The copy engine: S3 copies the processed segments into the final."""
    _prepare_join(stack)
    stack.set_job(
        JobStatus.CHUNKING_COMPLETE, total_segments={"N": "2"}, source_etag={"S": "this"}, engine={"S": "copy"}
    )
    with _copying(stack):
        assert stack.deliver(COMPLETE)
        assert stack.open.job().status is JobStatus.COMPLETED


def replace_a_final_of_another_source(stack: GuardedStack) -> None:
    """The first upload finds the final and is aborted; a conditional upload replaces it."""
    _prepare_join(stack)
    stack.leave(OUTPUT, build_final_key("job-1"))
    with _copying(stack):
        assert stack.deliver(COMPLETE)
    assert stack.open.read(OUTPUT, build_final_key("job-1")) != b"old"
    assert stack.unfinished_uploads(OUTPUT) == 0


def abort_an_incomplete_final(stack: GuardedStack) -> None:
    """The upload of a dead attempt is aborted by the next one."""
    stack.open.aws.s3.create_multipart_upload(Bucket=OUTPUT, Key=build_final_key("job-1"))
    _prepare_join(stack)
    assert stack.deliver(COMPLETE)
    assert stack.unfinished_uploads(OUTPUT) == 0


def let_the_final_of_a_deleted_job_expire(stack: GuardedStack) -> None:
    """The job was deleted while its final was being written: the final is tagged for the lifecycle rule."""

    def write_and_delete(*args: Any, **options: Any) -> bool:
        stack.set_job(JobStatus.DELETED)
        return write_once(*args, **options)

    _prepare_join(stack)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reassembly, "write_once", write_and_delete)
        assert stack.deliver(COMPLETE)
    tags = stack.open.aws.s3.get_object_tagging(Bucket=OUTPUT, Key=build_final_key("job-1"))["TagSet"]
    assert tags == [{"Key": "kind", "Value": "processed-segment"}]


def wait_for_a_held_lease(stack: GuardedStack) -> None:
    """The message stays in the queue."""
    _prepare_join(stack)
    lease = {"reassembly_started_at": "1", "lease_expires_at": "99999999999"}
    row = {"job_id": {"S": "job-1"}} | {name: {"N": number} for name, number in lease.items()}
    stack.open.aws.dynamodb.put_item(TableName="ReassemblyTriggered", Item=row)
    assert not stack.deliver(COMPLETE)
    assert stack.open.job().status is JobStatus.CHUNKING_COMPLETE


def miss_a_segment(stack: GuardedStack) -> None:
    """A completion without its object fails the job with that reason."""
    _prepare_join(stack)
    stack.open.aws.s3.delete_object(Bucket=OUTPUT, Key="jobs/job-1/segments/1.mp4")
    assert stack.deliver(COMPLETE)
    assert "segment 1 was completed, but" in str(stack.open.job().error)


def _prepare_join_without_audio(stack: GuardedStack) -> None:
    """The source was split, and the workers have returned video only."""
    stack.open.add_job()
    stack.open.upload(make("plain", stack.open.temporary / "plain.mp4"))
    stack.open.chunk()
    stack.open.process_segments(change=_without_audio)


def _without_audio(index: int, body: bytes) -> bytes:
    del index
    with TemporaryDirectory() as folder:
        source, target = Path(folder, "in.mp4"), Path(folder, "out.mp4")
        source.write_bytes(body)
        ffmpeg("-i", str(source), "-map", "0:V:0", "-c", "copy", str(target))
        return target.read_bytes()


def join_with_audio_of_the_source(stack: GuardedStack) -> None:
    """The audio is read from the source."""
    _prepare_join_without_audio(stack)
    assert stack.deliver(COMPLETE)
    assert stack.open.job().status is JobStatus.COMPLETED
    assert stack.open.row("Jobs")["tracks_used"] == {"S": "source"}


def miss_the_audio_of_a_source(stack: GuardedStack) -> None:
    """A source that was removed before the join fails the job with that reason."""
    _prepare_join_without_audio(stack)
    stack.open.aws.s3.delete_object(Bucket=INPUT, Key=build_source_key("job-1"))
    assert stack.deliver(COMPLETE)
    assert "was removed after it was split" in str(stack.open.job().error)


# The sweep


@contextmanager
def _swept(stack: GuardedStack) -> Iterator[World]:
    """A world for the sweep, on a clock that runs ahead."""
    clock = Clock()
    complete_stack(stack.open.aws)
    with pytest.MonkeyPatch.context() as patch, clock.patches():
        patch.setattr("media_worker.queues._LONG_POLL_S", 0)
        yield World(stack.open, clock)


def _sweep_until_it_fails(stack: GuardedStack, world: World) -> None:
    for seconds in (IDLE_S + 60, CONFIRM_S + 60):
        world.clock.ahead_s += seconds
        stack.sweep()
    assert world.status() is JobStatus.FAILED


def fail_a_job_that_was_not_split(stack: GuardedStack) -> None:
    """Its message is a dead letter, and is visible again."""
    with _swept(stack) as world:
        world.add_job_in("chunking")
        world.receive_in_vain("chunking")
        _sweep_until_it_fails(stack, world)
        assert len(world.receive("chunking-dead", visibility_s=0)) == 1


def fail_a_job_whose_source_is_gone(stack: GuardedStack) -> None:
    """A missing object is not a forbidden one."""
    with _swept(stack) as world:
        world.add_job_in("chunking", status={"S": "chunking_in_progress"})
        world.receive_in_vain("chunking")
        stack.open.aws.s3.delete_object(Bucket=INPUT, Key=build_source_key("job-1"))
        _sweep_until_it_fails(stack, world)


def fail_a_job_with_an_unprocessed_segment(stack: GuardedStack) -> None:
    """Completions, attempts and the segment are looked at, and a dead attempt is recorded as failed."""
    with _swept(stack) as world:
        world.add_job_in("segments")
        world.complete(0)
        world.receive_in_vain("segments")
        failure = Failure(2, "gpu-6", 1, "out of memory")
        attempt = Attempt("job-1", 1, 3, "gpu-7", "message/3", failures=(failure,))
        assert begin_attempt(world.aws, attempt) is None
        _sweep_until_it_fails(stack, world)
        assert "segment 1 was not processed" in world.error
        (died,) = read_attempts(world.aws, "job-1")
        assert (died.state, len(died.failures)) == (AttemptState.FAILED, 2)


def fail_a_job_that_was_not_joined(stack: GuardedStack) -> None:
    """The trigger is looked at."""
    with _swept(stack) as world:
        world.add_job_in("reassembly")
        world.receive_in_vain("reassembly")
        _sweep_until_it_fails(stack, world)


def request_a_reassembly(stack: GuardedStack) -> None:
    """The last worker died before it did."""
    with _swept(stack) as world:
        world.add_job_in("segments")
        stack.add_processed(SEGMENTS)
        stack.sweep()
        assert stack.open.reassembly_messages() == [COMPLETE]
        assert "sent_at" in stack.open.row("ReassemblyTriggered")


# Scenarios that use many rights come first, so that a missing one is found early.
SCENARIOS: dict[str, tuple[Scenario, ...]] = {
    "Chunking": (
        chunk_and_request_the_reassembly,
        clear_an_earlier_run,
        return_a_malformed_message,
        miss_a_source,
        reenqueue_a_message_that_only_waited,
        abort_an_incomplete_segment,
        find_the_reassembly_requested,
        replace_a_segment_of_another_source,
        chunk_again_after_a_crash,
        chunk_with_copies,
        refuse_a_text_file,
    ),
    "Reassembly": (
        join,
        join_with_audio_of_the_source,
        miss_the_audio_of_a_source,
        return_a_malformed_message,
        reenqueue_a_message_that_only_waited,
        abort_an_incomplete_final,
        let_the_final_of_a_deleted_job_expire,
        replace_a_final_of_another_source,
        wait_for_a_held_lease,
        miss_a_segment,
        join_with_copies,
    ),
    "Sweep": (
        fail_a_job_with_an_unprocessed_segment,
        fail_a_job_that_was_not_split,
        fail_a_job_that_was_not_joined,
        request_a_reassembly,
        fail_a_job_whose_source_is_gone,
    ),
}
