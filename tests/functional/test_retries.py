"""What a second try finds, what it keeps, and when a record comes back."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from media_worker import ffmpeg_engine, handlers
from media_worker.errors import RetryableError
from media_worker.jobs import JobStatus
from media_worker.keys import build_final_key, build_segment_key, build_source_key
from media_worker.storage import write_once

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
    """After how many seconds messages come back, from now on."""
    seconds: list[int] = []
    stack.aws.sqs.meta.events.register(
        "before-call.sqs.ChangeMessageVisibility",
        lambda params, **_: seconds.append(json.loads(params["body"])["VisibilityTimeout"]),
    )
    return seconds


def break_after(monkeypatch: pytest.MonkeyPatch, uploads: int) -> None:
    """S3 breaks down after some segments."""
    done: list[int] = []

    def write_some(*args: Any) -> bool:
        if len(done) >= uploads:
            raise RetryableError("S3 is away")
        done.append(1)
        return write_once(*args)

    monkeypatch.setattr(ffmpeg_engine, "write_once", write_some)


# Chunking


def test_segments_that_are_there_are_kept(
    stack: Stack, clip: ClipMaker, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try broke off after one segment; the second writes the other two only: a write starts a machine."""
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
    assert [line["key"] for line in logs.named("segment was there")] == [first]


def test_a_run_taken_over_cuts_as_it_began(stack: Stack, clip: ClipMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The duration is on the job: a default that has changed meanwhile changes nothing."""
    stack.add_job()
    stack.upload(clip("plain"))
    with monkeypatch.context() as patched:
        break_after(patched, 1)
        stack.chunk()
    shorter = replace(stack.aws.settings, chunk_segment_duration_sec=stack.aws.settings.chunk_segment_duration_sec / 4)
    stack.aws = replace(stack.aws, settings=shorter)
    assert stack.chunk(receive_count=2) == []
    assert stack.job().total_segments == 3


def test_a_leftover_of_another_source_is_replaced(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """It lies under the same key and says of which source it was made."""
    key = build_segment_key("job-1", 1, 3, "sbs")
    stack.aws.s3.put_object(Bucket=INPUT, Key=key, Body=b"old", Metadata={"source-etag": "another"})
    stack.add_job()
    stack.upload(clip("plain"))
    assert stack.chunk() == []
    head = stack.aws.s3.head_object(Bucket=INPUT, Key=key)
    assert head["ContentLength"] > 1000
    assert head["Metadata"] == {"source-etag": stack.job().source_etag}
    assert logs.the("replacing a leftover of another source")["key"] == key


def test_every_segment_says_of_which_source_it_was_made(stack: Stack, clip: ClipMaker) -> None:
    """In its metadata, with a video's content type."""
    stack.add_job()
    stack.upload(clip("plain"))
    stack.chunk()
    etag = stack.aws.s3.head_object(Bucket=INPUT, Key=build_source_key("job-1"))["ETag"].strip('"')
    for key in stack.segment_keys():
        head = stack.aws.s3.head_object(Bucket=INPUT, Key=key)
        assert head["Metadata"] == {"source-etag": etag}
        assert head["ContentType"] == "video/mp4"


def test_a_source_that_is_replaced_while_it_is_read_is_begun_anew(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """The bytes of two uploads are never mixed; the message comes back."""
    stack.add_job()
    stack.upload(clip("plain"))
    other = clip("no_audio").read_bytes()

    def replace_source(**_: Any) -> None:
        stack.aws.s3.meta.events.unregister("before-call.s3.GetObject", replace_source)
        stack.upload(other)

    stack.aws.s3.meta.events.register("before-call.s3.GetObject", replace_source)
    assert stack.chunk() == ["message-0"]
    assert logs.the("the message comes back")["failure"] == "SourceChanged"
    assert stack.segment_keys() == []
    assert stack.chunk(receive_count=2) == []
    assert stack.job().status is JobStatus.CHUNKING_COMPLETE


def test_a_job_that_is_deleted_while_it_is_cut_stays_deleted(
    stack: Stack, clip: ClipMaker, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status is written under a condition; the message is done with."""
    stack.add_job()
    stack.upload(clip("no_audio"))

    def delete_job(*args: Any) -> bool:
        stack.add_job(status={"S": "deleted"})
        return write_once(*args)

    monkeypatch.setattr(ffmpeg_engine, "write_once", delete_job)
    assert stack.chunk() == []
    assert stack.job().status is JobStatus.DELETED
    assert logs.the("nothing to do")["reason"] == "job job-1 is deleted: it cannot become chunking_complete"
    assert stack.leftovers() == []


# Reassembly


def processed(stack: Stack, clip: ClipMaker) -> None:
    stack.add_job()
    stack.upload(clip("no_audio"))
    stack.chunk()
    stack.process_segments()


def test_a_final_that_is_there_completes_the_job(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """An earlier try wrote it and died before it could say so: nothing is joined again."""
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
    assert logs.named("the final is there: an earlier try wrote it")


def test_a_final_of_another_source_is_replaced(stack: Stack, clip: ClipMaker) -> None:
    """A leftover of an earlier run does not complete this one."""
    processed(stack, clip)
    stack.aws.s3.put_object(Bucket=OUTPUT, Key=build_final_key("job-1"), Body=b"old")
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.COMPLETED
    assert len(stack.read(OUTPUT, build_final_key("job-1"))) > 1000


def test_a_second_message_joins_nothing(stack: Stack, clip: ClipMaker) -> None:
    """SQS delivers at least once."""
    processed(stack, clip)
    assert stack.reassemble() == []
    before, written = stack.row("Jobs"), writes(stack)
    assert stack.reassemble() == []
    assert stack.row("Jobs") == before
    assert written == []


def test_a_chunking_that_died_before_it_could_say_so_does_not_hold_up_the_join(stack: Stack, clip: ClipMaker) -> None:
    """All completions being there proves that all segments were written."""
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


# When a record comes back


@pytest.mark.parametrize(("receive_count", "delay_s"), [(1, 5), (2, 10), (3, 20), (4, 40), (5, 80)])
def test_the_back_off_doubles_up_to_five_minutes(stack: Stack, receive_count: int, delay_s: int) -> None:
    """Nobody waits a whole visibility timeout for a hiccup."""
    stack.add_job(status={"S": "chunking_complete"}, total_segments={"N": "1"})
    asked = delays(stack)
    assert stack.reassemble(receive_count=receive_count) == ["message-0"]
    assert asked == [delay_s]


def test_a_record_without_a_receive_count_is_a_first_one(stack: Stack) -> None:
    """An event made by hand may lack it."""
    stack.add_job(status={"S": "chunking_complete"}, total_segments={"N": "1"})
    asked = delays(stack)
    event = json.loads((EVENTS / "reassembly.json").read_text())
    del event["Records"][0]["attributes"]["ApproximateReceiveCount"]
    answer = stack.reassembly(event, stack.context)
    assert [failure["itemIdentifier"] for failure in answer["batchItemFailures"]] == [event["Records"][0]["messageId"]]
    assert asked == [5]


def test_the_last_receive_fails_the_job(stack: Stack) -> None:
    """The message goes to the dead-letter queue, and the job says what was wrong every time."""
    stack.add_job(status={"S": "chunking_complete"}, total_segments={"N": "2"})
    assert stack.reassemble(receive_count=4) == ["message-0"]
    assert stack.job().status is JobStatus.CHUNKING_COMPLETE
    assert stack.reassemble(receive_count=5) == ["message-0"]
    assert stack.job().status is JobStatus.FAILED
    assert stack.job().error == (
        "gave up after 5 tries: NotReady: job job-1 cannot be joined: of 2 segments: missing 0-1"
    )


def test_a_redriven_message_of_a_failed_job_runs_again(stack: Stack, clip: ClipMaker) -> None:
    """The cause is mended, the dead letter is redriven, the job completes and has no error any more."""
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


def test_an_unknown_error_is_a_retry(
    stack: Stack, clip: ClipMaker, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its traceback in the log, because nobody has thought of it; on the last receive the job says it."""

    def fail(*_: Any) -> None:
        raise OSError("disk on fire")

    monkeypatch.setattr(ffmpeg_engine, "write_once", fail)
    stack.add_job()
    stack.upload(clip("no_audio"))
    assert stack.chunk() == ["message-0"]
    line = logs.the("the message comes back")
    assert line["level"] == "ERROR"
    assert "disk on fire" in line["exception"]
    assert stack.chunk(receive_count=5) == ["message-0"]
    assert stack.job().error == "gave up after 5 tries: OSError: disk on fire"
    assert stack.leftovers() == []


def test_a_table_that_is_away_is_a_retry(stack: Stack, logs: Logs) -> None:
    """Also when it is the lease's, inside Powertools."""
    stack.add_job(status={"S": "chunking_complete"}, total_segments={"N": "1"})
    stack.aws.dynamodb.delete_table(TableName="ReassemblyTriggered")
    assert stack.reassemble() == ["message-0"]
    assert "ResourceNotFoundException" in logs.the("the message comes back")["reason"]
    assert stack.reassemble(receive_count=5) == ["message-0"]
    assert "ResourceNotFoundException" in (stack.job().error or "")


def test_a_message_whose_receipt_is_stale_comes_back_later(stack: Stack, logs: Logs) -> None:
    """Its visibility cannot be changed; that is no reason to lose the record's own error."""
    assert stack.deliver(stack.reassembly, "not json") == ["message-0"]
    assert logs.the("the message's visibility could not be changed")["level"] == "WARNING"
    assert logs.the("the message comes back")["failure"] == "MessageError"


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


def test_a_bad_record_does_not_disturb_the_others(stack: Stack, clip: ClipMaker) -> None:
    """Text, a source that is no video, a job that breaks: the fourth is cut, and only what must come back does."""
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


def test_several_sources_in_one_message_all_get_their_turn(stack: Stack, clip: ClipMaker) -> None:
    """The first one's error brings the message back, after the second one was cut."""
    stack.add_job("first", chunking_started_at={"N": "1"}, lease_expires_at={"N": "99999999999"})
    stack.add_job()
    stack.upload(clip("no_audio"))
    records = [s3_event(build_source_key(job_id))["Records"][0] for job_id in ("first", "job-1")]
    records.insert(1, s3_event("elsewhere")["Records"][0])
    assert stack.deliver(stack.chunking, {"Records": records}) == ["message-0"]
    assert stack.job().status is JobStatus.CHUNKING_COMPLETE
    assert stack.job("first").status is JobStatus.CREATED


# Time


def test_a_record_is_not_begun_without_time_for_it(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """It is given back at once and untouched; another invocation starts afresh."""
    stack.add_job()
    stack.upload(clip("no_audio"))
    before, asked = stack.row("Jobs"), delays(stack)
    stack.context.remaining_ms = 70_000
    assert stack.chunk() == ["message-0"]
    assert stack.row("Jobs") == before
    assert asked == [0]
    line = logs.the("the message comes back")
    assert line["failure"] == "NotEnoughTime"
    assert line["reason"] == "55 s are left, 60 s are needed to begin a record"


class SlowS3:
    """Answers to a download only when the invocation is over."""

    def __init__(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(handlers, "LEAST_FOR_A_RECORD_S", 0)
        stack.context.remaining_ms = 15_100
        stack.aws.s3.meta.events.register("before-call.s3.GetObject", self.wait)

    @staticmethod
    def wait(**_: Any) -> None:
        time.sleep(0.5)


def test_a_download_ends_with_the_time(
    stack: Stack, clip: ClipMaker, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The transfer is cancelled, the lease given up, the directory removed, while there is time to do so."""
    stack.add_job()
    stack.upload(clip("no_audio"))
    SlowS3(stack, monkeypatch)
    assert stack.chunk() == ["message-0"]
    line = logs.the("the message comes back")
    assert line["failure"] == "NotEnoughTime"
    assert line["reason"] == f"the time ran out while s3://{INPUT}/input/job-1/source.mp4 was downloaded"
    assert stack.leftovers() == []
    assert "lease_holder" not in stack.row("Jobs")


def test_a_job_that_never_has_enough_time_fails(stack: Stack, clip: ClipMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the last receive nobody will try again, and the job says why."""
    stack.add_job()
    stack.upload(clip("no_audio"))
    SlowS3(stack, monkeypatch)
    assert stack.chunk(receive_count=5) == ["message-0"]
    assert stack.job().status is JobStatus.FAILED
    assert (stack.job().error or "").startswith("gave up after 5 tries: NotEnoughTime: the time ran out")
