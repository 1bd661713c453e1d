"""Retries: what a second attempt keeps of the first one, and when a record is delivered again."""

import json
import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from media_worker import chunking, handlers
from media_worker.errors import RetryableError
from media_worker.jobs import JobStatus
from media_worker.keys import build_final_key, build_segment_key, build_source_key
from media_worker.queues import VISIBILITY_S
from media_worker.s3 import write_once

from tests.functional.conftest import ClipMaker
from tests.functional.logs import Logs
from tests.functional.stack import INPUT, OUTPUT, Stack, s3_event

EVENTS = Path(__file__).parents[2] / "events"


def writes(stack: Stack) -> list[str]:
    """The keys of all objects that are written from now on."""
    keys: list[str] = []
    for operation in ("PutObject", "CompleteMultipartUpload"):
        stack.aws.s3.meta.events.register(
            f"provide-client-params.s3.{operation}", lambda params, **_: keys.append(params["Key"])
        )
    return keys


def versions(stack: Stack) -> dict[str, Any]:
    """When each segment was written."""
    listing = stack.aws.s3.list_objects_v2(Bucket=INPUT, Prefix="segments/")
    return {entry["Key"]: (entry["ETag"], entry["LastModified"]) for entry in listing.get("Contents", [])}


def delays(stack: Stack) -> list[int]:
    """The visibility timeouts of returned messages from now on, in seconds."""
    seconds: list[int] = []

    def visibility_changed(params: dict[str, Any], **_: Any) -> None:
        timeout_s = json.loads(params["body"])["VisibilityTimeout"]
        if timeout_s != VISIBILITY_S:  # that hides a message whose record is being handled
            seconds.append(timeout_s)

    stack.aws.sqs.meta.events.register("before-call.sqs.ChangeMessageVisibility", visibility_changed)
    return seconds


def break_after(monkeypatch: pytest.MonkeyPatch, uploads: int) -> None:
    """Make S3 fail after some segments."""
    numbers = count(1)  # its next value is taken atomically: segments are written in threads

    def write_some(*args: Any, **options: Any) -> bool:
        if next(numbers) > uploads:
            raise RetryableError("S3 is unavailable")
        return write_once(*args, **options)

    monkeypatch.setattr(chunking, "write_once", write_some)


# Chunking


def test_existing_segments_are_kept(stack: Stack, clip: ClipMaker, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt wrote one segment; the second writes the other two only, because each PUT triggers a worker."""
    stack.add_job()
    stack.upload(clip("plain"))
    with monkeypatch.context() as patched:
        break_after(patched, 1)
        assert stack.chunk() == ["message-0"]
    assert stack.job().status is JobStatus.CHUNKING_IN_PROGRESS
    (first,) = stack.segment_keys()

    written = writes(stack)
    assert stack.chunk(receive_count=2) == []
    assert stack.job().status is JobStatus.CHUNKING_COMPLETE
    assert len(stack.segment_keys()) == 3
    assert sorted(written) == [key for key in stack.segment_keys() if key != first]
    assert [line["key"] for line in logs.all("segment_present")] == [first]


def test_the_first_segment_is_written_before_the_others(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """Even if it takes long: its worker starts early, because it shares the bandwidth with no other segment."""

    def delay_the_first(params: dict[str, Any], **_: Any) -> None:
        if "/00000_" in params["url_path"]:
            time.sleep(0.3)

    stack.aws.s3.meta.events.register("before-call.s3.PutObject", delay_the_first)
    stack.add_job()
    stack.upload(clip("plain"))
    stack.chunk()
    written = [line["key"] for line in logs.all("segment_written")]
    assert len(written) == 3
    assert written[0] == build_segment_key("job-1", 0, 3, "sbs")


def test_a_retry_splits_at_the_same_points(stack: Stack, clip: ClipMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The duration is on the job's row, so a changed default has no effect."""
    stack.add_job()
    stack.upload(clip("plain"))
    with monkeypatch.context() as patched:
        break_after(patched, 1)
        stack.chunk()
    shorter = replace(stack.aws.settings, chunk_segment_duration_sec=stack.aws.settings.chunk_segment_duration_sec / 4)
    stack.aws = replace(stack.aws, settings=shorter)
    assert stack.chunk(receive_count=2) == []
    assert stack.job().total_segments == 3


def test_a_segment_of_another_plan_is_replaced(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """Its metadata names the plan that it belongs to."""
    key = build_segment_key("job-1", 1, 3, "sbs")
    stack.aws.s3.put_object(Bucket=INPUT, Key=key, Body=b"old", Metadata={"plan": "another"})
    stack.add_job()
    stack.upload(clip("plain"))
    assert stack.chunk() == []
    head = stack.aws.s3.head_object(Bucket=INPUT, Key=key)
    assert head["ContentLength"] > 1000
    assert head["Metadata"]["plan"] == stack.job().plan
    assert logs.one("object_replaced")["key"] == key


def test_every_segment_names_its_plan(stack: Stack, clip: ClipMaker) -> None:
    """The plan's digest is in its metadata. The content type is video/mp4."""
    stack.add_job()
    stack.upload(clip("plain"))
    stack.chunk()
    for key in stack.segment_keys():
        head = stack.aws.s3.head_object(Bucket=INPUT, Key=key)
        assert head["Metadata"]["plan"] == stack.job().plan
        assert head["ContentType"] == "video/mp4"


def test_a_source_that_is_replaced_while_it_is_read_is_retried(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """The bytes of two uploads are never mixed."""
    stack.add_job()
    stack.upload(clip("plain"))
    other = clip("no_audio").read_bytes()

    def replace_source(**_: Any) -> None:
        stack.aws.s3.meta.events.unregister("after-call.s3.GetObject", replace_source)
        stack.upload(other)

    stack.aws.s3.meta.events.register("after-call.s3.GetObject", replace_source)
    assert stack.chunk() == ["message-0"]
    assert logs.one("record_returned")["failure"] == "SourceChanged"
    assert stack.segment_keys() == []
    assert stack.chunk(receive_count=2) == []
    assert stack.job().status is JobStatus.CHUNKING_COMPLETE


def test_a_job_that_is_deleted_while_it_is_chunked_stays_deleted(
    stack: Stack, clip: ClipMaker, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status is a conditional write, and the message is acknowledged."""
    stack.add_job()
    stack.upload(clip("no_audio"))

    def delete_job(*args: Any, **options: Any) -> bool:
        stack.add_job(status={"S": "deleted"})
        return write_once(*args, **options)

    monkeypatch.setattr(chunking, "write_once", delete_job)
    assert stack.chunk() == []
    assert stack.job().status is JobStatus.DELETED
    assert logs.one("nothing_to_do")["failure"] == "JobMoved"
    assert stack.leftovers() == []


# Reassembly


def processed(stack: Stack, clip: ClipMaker) -> None:
    stack.add_job()
    stack.upload(clip("no_audio"))
    stack.chunk()
    stack.process_segments()


def test_an_existing_final_completes_the_job(stack: Stack, clip: ClipMaker) -> None:
    """An earlier attempt wrote the final and died before it set the status: nothing is written again."""
    processed(stack, clip)
    assert stack.reassemble() == []
    before = stack.read(OUTPUT, build_final_key("job-1"))
    stack.aws.dynamodb.delete_item(TableName="ReassemblyTriggered", Key={"job_id": {"S": "job-1"}})
    row = stack.row("Jobs")
    del row["completed_at"]
    stack.aws.dynamodb.put_item(TableName="Jobs", Item=row | {"status": {"S": "reassembling"}})
    written = writes(stack)
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.COMPLETED
    assert "completed_at" in stack.row("Jobs")
    assert written == []
    assert stack.read(OUTPUT, build_final_key("job-1")) == before


def test_a_final_of_another_source_is_replaced(stack: Stack, clip: ClipMaker) -> None:
    """The final of an earlier run does not complete this one."""
    processed(stack, clip)
    stack.aws.s3.put_object(Bucket=OUTPUT, Key=build_final_key("job-1"), Body=b"old")
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.COMPLETED
    assert len(stack.read(OUTPUT, build_final_key("job-1"))) > 1000


def test_a_duplicate_message_joins_nothing(stack: Stack, clip: ClipMaker) -> None:
    """SQS delivers at least once."""
    processed(stack, clip)
    assert stack.reassemble() == []
    before, written = stack.row("Jobs"), writes(stack)
    assert stack.reassemble() == []
    assert stack.row("Jobs") == before
    assert written == []


def test_a_chunking_that_died_at_its_end_does_not_block_the_join(stack: Stack, clip: ClipMaker) -> None:
    """All completions exist, which proves that all segments were written."""
    processed(stack, clip)
    stack.aws.dynamodb.update_item(
        TableName="Jobs",
        Key={"job_id": {"S": "job-1"}},
        UpdateExpression="SET #status = :status",
        ExpressionAttributeNames={"#status": "status"},
        ExpressionAttributeValues={":status": {"S": "chunking_in_progress"}},
    )
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.COMPLETED


# When a record is delivered again


@pytest.mark.parametrize(("receive_count", "delay_s"), [(1, 5), (2, 10), (3, 20), (4, 40), (5, 80)])
def test_the_back_off_doubles(stack: Stack, receive_count: int, delay_s: int) -> None:
    """A short outage does not cost a whole visibility timeout."""
    stack.add_job(status={"S": "chunking_complete"}, total_segments={"N": "1"})
    asked = delays(stack)
    assert stack.reassemble(receive_count=receive_count) == ["message-0"]
    assert asked == [delay_s]


def test_a_record_without_a_receive_count_is_the_first_receive(stack: Stack) -> None:
    """An event that was written by hand may lack it."""
    stack.add_job(status={"S": "chunking_complete"}, total_segments={"N": "1"})
    asked = delays(stack)
    event = json.loads((EVENTS / "reassembly.json").read_text())
    del event["Records"][0]["attributes"]["ApproximateReceiveCount"]
    answer = stack.reassembly(event, stack.context)
    assert [failure["itemIdentifier"] for failure in answer["batchItemFailures"]] == [event["Records"][0]["messageId"]]
    assert asked == [5]


def test_the_last_attempt_fails_the_job(stack: Stack) -> None:
    """The job has the error of the last attempt."""
    stack.add_job(status={"S": "chunking_complete"}, total_segments={"N": "2"})
    assert stack.reassemble(receive_count=4) == ["message-0"]
    assert stack.job().status is JobStatus.CHUNKING_COMPLETE
    assert stack.reassemble(receive_count=5) == ["message-0"]
    assert stack.job().status is JobStatus.FAILED
    assert stack.job().error == (
        "failed after 5 attempts: NotReady: job job-1 cannot be joined: of 2 segments: missing 0-1"
    )


def test_a_redriven_message_completes_a_failed_job(stack: Stack, clip: ClipMaker) -> None:
    """The missing segment was processed and the dead letter redriven: the job completes and has no error."""
    processed(stack, clip)
    stack.aws.dynamodb.delete_item(
        TableName="SegmentCompletions", Key={"job_id": {"S": "job-1"}, "segment_index": {"N": "1"}}
    )
    stack.reassemble(receive_count=5)
    assert stack.job().status is JobStatus.FAILED
    stack.put_processed(1, stack.read(INPUT, stack.segment_keys()[1]))
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.COMPLETED
    assert stack.job().error is None


def test_an_unknown_error_is_retried(
    stack: Stack, clip: ClipMaker, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has its traceback; the last attempt writes it to the job."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr(chunking, "write_once", fail)
    stack.add_job()
    stack.upload(clip("no_audio"))
    assert stack.chunk() == ["message-0"]
    line = logs.one("record_returned")
    assert line["level"] == "ERROR"
    assert "disk on fire" in line["exception"]
    assert stack.chunk(receive_count=5) == ["message-0"]
    assert stack.job().error == "failed after 5 attempts: OSError: disk on fire"
    assert stack.leftovers() == []


def test_a_missing_table_is_retried(stack: Stack, logs: Logs) -> None:
    """An error inside Powertools is treated like any other."""
    stack.add_job(status={"S": "chunking_complete"}, total_segments={"N": "1"})
    stack.aws.dynamodb.delete_table(TableName="ReassemblyTriggered")
    assert stack.reassemble() == ["message-0"]
    assert "ResourceNotFoundException" in logs.one("record_returned")["reason"]
    assert stack.reassemble(receive_count=5) == ["message-0"]
    assert "ResourceNotFoundException" in (stack.job().error or "")


def test_a_stale_receipt_does_not_hide_the_error(stack: Stack, logs: Logs) -> None:
    """The visibility timeout cannot be changed: a warning, and the record is still returned."""
    assert stack.deliver(stack.reassembly, "not json") == ["message-0"]
    assert logs.one("visibility_not_changed")["level"] == "WARNING"
    assert logs.one("record_returned")["failure"] == "MessageError"


# Batches


def test_two_records_are_two_jobs(stack: Stack, clip: ClipMaker) -> None:
    """The event in events/two_records.json."""
    event = json.loads((EVENTS / "two_records.json").read_text().replace("media-worker-input", INPUT))
    for job_id in ("job-1", "job-2"):
        stack.add_job(job_id)
        stack.upload(clip("no_audio"), job_id)
    assert stack.chunking(event, stack.context) == {"batchItemFailures": []}
    for job_id in ("job-1", "job-2"):
        assert stack.job(job_id).status is JobStatus.CHUNKING_COMPLETE


def test_a_bad_record_does_not_affect_the_others(stack: Stack, clip: ClipMaker) -> None:
    """Of a malformed message, a source that is not a video, a held lease and a good source, only two are returned."""
    for job_id in ("broken", "no-video", "job-1"):
        stack.add_job(job_id)
    stack.upload(b"no video", "no-video")
    stack.upload(clip("no_audio"))
    stack.upload(clip("no_audio"), "broken")
    stack.aws.dynamodb.update_item(
        TableName="Jobs",
        Key={"job_id": {"S": "broken"}},
        UpdateExpression="SET lease_holder = :other, lease_expires_at = :end, chunking_started_at = :now",
        ExpressionAttributeValues={":other": {"S": "x"}, ":end": {"N": "99999999999"}, ":now": {"N": "1"}},
    )
    bodies = ["text", *(s3_event(build_source_key(job_id)) for job_id in ("no-video", "broken", "job-1"))]
    assert stack.deliver(stack.chunking, *bodies) == ["message-0", "message-2"]
    assert stack.job().status is JobStatus.CHUNKING_COMPLETE
    assert stack.job("no-video").status is JobStatus.FAILED


def test_all_sources_of_one_message_are_handled(stack: Stack, clip: ClipMaker) -> None:
    """The first one's error returns the message after the second one was chunked."""
    stack.add_job("first", chunking_started_at={"N": "1"}, lease_expires_at={"N": "99999999999"})
    stack.add_job()
    stack.upload(clip("no_audio"))
    records = [s3_event(build_source_key(job_id))["Records"][0] for job_id in ("first", "job-1")]
    records.insert(1, s3_event("elsewhere")["Records"][0])
    assert stack.deliver(stack.chunking, {"Records": records}) == ["message-0"]
    assert stack.job().status is JobStatus.CHUNKING_COMPLETE
    assert stack.job("first").status is JobStatus.CREATED


# Time


def test_a_record_is_not_started_without_enough_time(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """The record is returned without a delay, and the job's row is unchanged."""
    stack.add_job()
    stack.upload(clip("no_audio"))
    before, asked = stack.row("Jobs"), delays(stack)
    stack.context.remaining_ms = 70_000
    assert stack.chunk() == ["message-0"]
    assert stack.row("Jobs") == before
    assert asked == [0]
    line = logs.one("record_returned")
    assert line["failure"] == "NotEnoughTime"


class SlowS3:
    """S3 answers a download only after the invocation has ended."""

    def __init__(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(handlers, "MIN_FOR_A_RECORD_S", 0)
        stack.context.remaining_ms = 15_100
        stack.aws.s3.meta.events.register("before-call.s3.GetObject", self.wait)

    @staticmethod
    def wait(**_: Any) -> None:
        time.sleep(0.5)


def test_a_download_is_cancelled_at_the_deadline(
    stack: Stack, clip: ClipMaker, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is released and the work directory removed before the invocation ends."""
    stack.add_job(engine={"S": "ffmpeg"})
    stack.upload(clip("no_audio"))
    SlowS3(stack, monkeypatch)
    assert stack.chunk() == ["message-0"]
    line = logs.one("record_returned")
    assert line["failure"] == "NotEnoughTime"
    assert stack.leftovers() == []
    assert "lease_holder" not in stack.row("Jobs")


def test_a_job_that_never_has_enough_time_fails(stack: Stack, clip: ClipMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last attempt writes the reason to the job."""
    stack.add_job(engine={"S": "ffmpeg"})
    stack.upload(clip("no_audio"))
    SlowS3(stack, monkeypatch)
    assert stack.chunk(receive_count=5) == ["message-0"]
    assert stack.job().status is JobStatus.FAILED
    assert (stack.job().error or "").startswith("failed after 5 attempts: NotEnoughTime: the time ran out")
