"""What the two functions do in their lives, each way at least once. A scenario fails when a right is missing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from media_worker import ffmpeg_engine, parts, storage
from media_worker.aws import Aws
from media_worker.jobs import JobStatus
from media_worker.keys import build_final_key, build_segment_key, build_source_key
from moto.s3 import models as moto_s3

from tests.functional.stack import INPUT, OUTPUT, s3_event
from tests.rights.stack import GuardedStack

SEGMENTS = 3
UPLOADED = s3_event(build_source_key("job-1"))
COMPLETE = {"job_id": "job-1"}

type Scenario = Callable[[GuardedStack], None]


@contextmanager
def _copying(stack: GuardedStack) -> Iterator[None]:
    """Parts so small that S3 copies even a short clip's media; and it has to."""
    copies = []
    stack.aws.s3.meta.events.register("before-call.s3.UploadPartCopy", lambda **_: copies.append(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(moto_s3, "S3_UPLOAD_PART_MIN_SIZE", 1024)
        patch.setattr(parts, "SMALLEST_PART_BYTES", 1024)
        yield
    assert copies


def cut_and_ask_for_the_join(stack: GuardedStack) -> None:
    """The workers were faster than the chunking, so it is the chunking that asks for the reassembly."""
    stack.open.add_job()
    stack.open.upload(stack.clip)
    stack.add_processed(SEGMENTS)
    assert stack.deliver(UPLOADED)
    assert stack.open.job().status is JobStatus.CHUNKING_COMPLETE
    assert len(stack.open.segment_keys()) == SEGMENTS
    assert stack.open.reassembly_messages() == [COMPLETE]
    assert "sent_at" in stack.open.row("ReassemblyTriggered")


def cut_by_copies(stack: GuardedStack) -> None:
    """The copy engine: S3 copies the media with the function's rights to both ends."""
    stack.open.add_job(engine={"S": "copy"})
    stack.open.upload(stack.clip)
    with _copying(stack):
        assert stack.deliver(UPLOADED)
        assert len(stack.open.segment_keys()) == SEGMENTS


def cut_again_after_a_crash(stack: GuardedStack) -> None:
    """The segments of the first try are looked at, and kept."""
    stack.open.add_job()
    stack.open.upload(stack.clip)
    assert stack.deliver(UPLOADED)
    etag = stack.open.job().source_etag
    stack.set_job(JobStatus.CHUNKING_IN_PROGRESS, source_etag={"S": etag}, total_segments={"N": str(SEGMENTS)})
    assert stack.deliver(UPLOADED)
    assert stack.open.job().status is JobStatus.CHUNKING_COMPLETE


def replace_a_segment_of_another_source(stack: GuardedStack) -> None:
    """The upload that found it there is given up and leaves nothing, and a conditional one replaces it."""
    key = build_segment_key("job-1", 0, SEGMENTS, "sbs")
    stack.leave(INPUT, key)
    stack.open.add_job()
    stack.open.upload(stack.clip)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "MULTIPART_THRESHOLD_BYTES", 0)
        assert stack.deliver(UPLOADED)
    assert stack.open.read(INPUT, key) != b"old"
    assert stack.unfinished_uploads(INPUT) == 0


def miss_a_source(stack: GuardedStack) -> None:
    """A source that was removed fails the job, in words."""
    stack.open.add_job()
    assert stack.deliver(UPLOADED)
    assert "not there" in str(stack.open.job().error)


def find_the_join_asked_for(stack: GuardedStack) -> None:
    """A message that comes twice asks for the join once."""
    stack.set_job(JobStatus.CHUNKING_COMPLETE, total_segments={"N": str(SEGMENTS)})
    stack.add_processed(SEGMENTS)
    trigger = {"job_id": {"S": "job-1"}, "triggered_at": {"N": "1"}, "sent_at": {"N": "1"}}
    stack.open.aws.dynamodb.put_item(TableName="ReassemblyTriggered", Item=trigger)
    assert stack.deliver(UPLOADED)
    assert stack.open.reassembly_messages() == []


def give_a_message_back(stack: GuardedStack) -> None:
    """What cannot be understood comes back at once, not after the visibility timeout."""
    assert not stack.deliver({"neither": "nor"})
    assert stack.visible_messages() == 1


def replace_a_message_that_only_waited(stack: GuardedStack) -> None:
    """A message whose receives were used up without a try is sent afresh, and this one acknowledged."""
    last = stack.aws.settings.max_receive_count
    assert stack.deliver(UPLOADED, receive_count=last, remaining_ms=1000)
    assert stack.visible_messages() == 1


def refuse_a_text_file(stack: GuardedStack) -> None:
    """What is no video fails the job."""
    stack.open.add_job()
    stack.open.upload(b"Nothing to see here.\n")
    assert stack.deliver(UPLOADED)
    assert "not a video" in str(stack.open.job().error)


def remove_segments_begun(stack: GuardedStack) -> None:
    """An upload that a try left when it died is aborted by the next one."""
    stack.open.aws.s3.create_multipart_upload(Bucket=INPUT, Key=build_segment_key("job-1", 7, 8, "sbs"))
    stack.open.add_job()
    stack.open.upload(stack.clip)
    assert stack.deliver(UPLOADED)
    assert stack.unfinished_uploads(INPUT) == 0


def _prepare_join(stack: GuardedStack) -> None:
    stack.set_job(JobStatus.CHUNKING_COMPLETE, total_segments={"N": "2"}, source_etag={"S": "this"})
    stack.add_processed(2, stack.clip.read_bytes())


def join(stack: GuardedStack) -> None:
    """The final is there, the job completed; the message that comes twice finds that."""
    _prepare_join(stack)
    assert stack.deliver(COMPLETE)
    assert stack.open.job().status is JobStatus.COMPLETED
    assert stack.open.read(OUTPUT, build_final_key("job-1"))
    assert stack.deliver(COMPLETE)


def join_by_copies(stack: GuardedStack) -> None:
    """The copy engine: from the processed segments into the final."""
    _prepare_join(stack)
    stack.set_job(
        JobStatus.CHUNKING_COMPLETE, total_segments={"N": "2"}, source_etag={"S": "this"}, engine={"S": "copy"}
    )
    with _copying(stack):
        assert stack.deliver(COMPLETE)
        assert stack.open.job().status is JobStatus.COMPLETED


def replace_a_final_of_another_source(stack: GuardedStack) -> None:
    """The upload that found it there is given up and leaves nothing, and a conditional one replaces it."""
    _prepare_join(stack)
    stack.leave(OUTPUT, build_final_key("job-1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "MULTIPART_THRESHOLD_BYTES", 0)
        assert stack.deliver(COMPLETE)
    assert stack.open.read(OUTPUT, build_final_key("job-1")) != b"old"
    assert stack.unfinished_uploads(OUTPUT) == 0


def remove_a_final_begun(stack: GuardedStack) -> None:
    """An upload that a try left when it died is aborted by the next one."""
    stack.open.aws.s3.create_multipart_upload(Bucket=OUTPUT, Key=build_final_key("job-1"))
    _prepare_join(stack)
    assert stack.deliver(COMPLETE)
    assert stack.unfinished_uploads(OUTPUT) == 0


def let_the_final_of_a_deleted_job_expire(stack: GuardedStack) -> None:
    """A job that is deleted while its final is written keeps none: the lifecycle rule takes it."""

    def write_and_delete(aws: Aws, path: Path, target: storage.Target) -> bool:
        stack.set_job(JobStatus.DELETED)
        return storage.write_once(aws, path, target)

    _prepare_join(stack)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ffmpeg_engine, "write_once", write_and_delete)
        assert stack.deliver(COMPLETE)
    tags = stack.open.aws.s3.get_object_tagging(Bucket=OUTPUT, Key=build_final_key("job-1"))["TagSet"]
    assert tags == [{"Key": "kind", "Value": "processed-segment"}]


def wait_for_whoever_joins(stack: GuardedStack) -> None:
    """A lease that is held keeps the message in the queue."""
    _prepare_join(stack)
    lease = {"reassembly_started_at": "1", "lease_expires_at": "99999999999"}
    row = {"job_id": {"S": "job-1"}} | {name: {"N": number} for name, number in lease.items()}
    stack.open.aws.dynamodb.put_item(TableName="ReassemblyTriggered", Item=row)
    assert not stack.deliver(COMPLETE)
    assert stack.open.job().status is JobStatus.CHUNKING_COMPLETE


def miss_a_segment(stack: GuardedStack) -> None:
    """A processed segment that was completed and is gone fails the job, in words."""
    _prepare_join(stack)
    stack.open.aws.s3.delete_object(Bucket=OUTPUT, Key="jobs/job-1/segments/1.mp4")
    assert stack.deliver(COMPLETE)
    assert "segment 1 was completed, but" in str(stack.open.job().error)


# First what uses most rights, so that a missing one is found soon.
SCENARIOS: dict[str, tuple[Scenario, ...]] = {
    "Chunking": (
        cut_and_ask_for_the_join,
        give_a_message_back,
        miss_a_source,
        replace_a_message_that_only_waited,
        remove_segments_begun,
        find_the_join_asked_for,
        replace_a_segment_of_another_source,
        cut_again_after_a_crash,
        cut_by_copies,
        refuse_a_text_file,
    ),
    "Reassembly": (
        join,
        give_a_message_back,
        replace_a_message_that_only_waited,
        remove_a_final_begun,
        let_the_final_of_a_deleted_job_expire,
        replace_a_final_of_another_source,
        wait_for_whoever_joins,
        miss_a_segment,
        join_by_copies,
    ),
}
