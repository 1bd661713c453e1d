"""Ends of jobs and failed segments as events: what the streams of the tables say, and what is sent for it."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import boto3
import pytest
from media_worker import events
from media_worker.attempts import Attempt, AttemptState, beat_attempt, begin_attempt, end_attempt
from media_worker.errors import TransferFailed
from media_worker.events import build_events_handler, events_of
from media_worker.jobs import JobStatus, cancel, fail_job, read_job

from tests.functional.conftest import ClipMaker
from tests.functional.stack import OUTPUT, Stack, create_table

STREAM: Any = {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}


class Bus:
    """EventBridge, which may refuse the first entries."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def put_events(self, *, Entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:  # noqa: N803 - AWS names it
        answers = []
        assert 1 <= len(Entries) <= 10
        for entry in Entries:
            assert entry["Source"] == "media-worker"
            if self.refusals:
                self.refusals -= 1
                answers.append({"ErrorCode": "InternalFailure", "ErrorMessage": "refused"})
            else:
                self.sent.append((entry["DetailType"], json.loads(entry["Detail"])))
                answers.append({"EventId": "1"})
        return {"FailedEntryCount": sum("ErrorCode" in each for each in answers), "Entries": answers}


class Streams:
    """The stream of the Jobs table, as Lambda reads it."""

    def __init__(self, stack: Stack) -> None:
        stack.aws.dynamodb.update_table(TableName="Jobs", StreamSpecification=STREAM)
        arn = stack.aws.dynamodb.describe_table(TableName="Jobs")["Table"]["LatestStreamArn"]
        self._client = boto3.client("dynamodbstreams")
        (shard,) = self._client.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]
        self._iterator = self._client.get_shard_iterator(
            StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]

    def records(self) -> list[Mapping[str, Any]]:
        """All changes since the last call."""
        answer = self._client.get_records(ShardIterator=self._iterator)
        self._iterator = answer["NextShardIterator"]
        return list(answer["Records"])


@pytest.fixture
def streams(stack: Stack) -> Streams:
    return Streams(stack)


def sent(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    bus = Bus()
    build_events_handler(bus, stack="stack-a", output_bucket=OUTPUT)({"Records": records}, None)
    return bus.sent


def test_a_completed_job(stack: Stack, streams: Streams, clip: ClipMaker) -> None:
    """One event, with the final, the segments, the frames and the seconds of each step."""
    stack.add_job(segment_duration_sec={"N": "1"})
    stack.upload(clip("no_audio"))
    stack.chunk()
    assert sent(streams.records()) == []
    stack.process_segments()
    stack.reassemble()
    ((detail_type, detail),) = sent(streams.records())
    row = stack.row("Jobs")
    assert detail_type == "Job Completed"
    assert (detail["job_id"], detail["status"], detail["error"]) == ("job-1", "completed", None)
    assert detail["final_uri"] == f"s3://{OUTPUT}/jobs/job-1/final.mp4"
    assert detail["segments"] == int(row["total_segments"]["N"]) > 1
    assert detail["frames"] == int(row["frames"]["N"]) > 1
    assert {"plan", "split"} <= detail["seconds"]["chunking"].keys()
    assert {"join", "verify"} <= detail["seconds"]["reassembly"].keys()
    assert all(isinstance(each, int | float) for each in detail["seconds"]["reassembly"].values())
    assert (detail["schema_version"], detail["stack"]) == ("1", "stack-a")


def test_a_permanent_error(stack: Stack, streams: Streams) -> None:
    """The event has the reason, and no final."""
    stack.add_job()
    stack.chunk()
    ((detail_type, detail),) = sent(streams.records())
    assert detail_type == "Job Failed"
    assert "does not exist" in detail["error"]
    assert (detail["status"], detail["final_uri"], detail["cancelled"]) == ("failed", None, False)


def test_a_cancelled_job(stack: Stack, streams: Streams) -> None:
    """It is a failed job that says who cancelled it."""
    stack.add_job()
    job = read_job(stack.aws, "job-1")
    assert job
    cancel(stack.aws, job, "ops")
    ((detail_type, detail),) = sent(streams.records())
    assert (detail_type, detail["cancelled"], detail["error"]) == ("Job Failed", True, "cancelled by ops")


@pytest.mark.parametrize("status", [each for each in JobStatus if each not in {JobStatus.COMPLETED, JobStatus.DELETED}])
def test_fail_job_from_every_status(stack: Stack, streams: Streams, status: JobStatus) -> None:
    """The sweep, a worker, a last attempt and a final delivery end a job by `fail_job`. A failed job ends only once."""
    stack.add_job(status={"S": status.value})
    streams.records()
    assert fail_job(stack.aws, "job-1", "why")
    assert len(sent(streams.records())) == (status is not JobStatus.FAILED)


def test_failed_attempts(stack: Stack) -> None:
    """Each failure is sent once: one that was reported, and one of a worker that died. Heartbeats send nothing."""
    create_table(stack.aws, "SegmentAttempts", job_id="S", segment_index="N")
    aws = replace(stack.aws, settings=replace(stack.aws.settings, segment_attempts_table_name="SegmentAttempts"))
    changes: list[dict[str, Any]] = []
    before: dict[str, Any] = {}

    def changed() -> None:
        nonlocal before
        key: Any = {"job_id": {"S": "job-1"}, "segment_index": {"N": "0"}}
        item = aws.dynamodb.get_item(TableName="SegmentAttempts", Key=key)["Item"]
        changes.append({"eventID": str(len(changes)), "dynamodb": {"OldImage": before, "NewImage": item}})
        before = item

    now = int(time.time())
    first = Attempt("job-1", 0, 1, "worker-1", "message/1", started_at=now, heartbeat_at=now, expires_at=now + 60)
    begin_attempt(aws, first)
    changed()
    end_attempt(aws, first, AttemptState.FAILED, "out of memory")
    changed()
    second = replace(first, attempt=2, run_id="message/2", expires_at=now - 1)
    begin_attempt(aws, second)
    changed()
    third = replace(first, attempt=3, run_id="message/3")
    begin_attempt(aws, third)
    changed()
    beat_attempt(aws, third, now + 90, 0.5)
    changed()
    assert [(kind, each["attempt"], each["segment_index"], each["error"]) for kind, each in sent(changes)] == [
        ("Segment Failed", 1, 0, "out of memory"),
        ("Segment Failed", 2, 0, "the worker ended without reporting an error"),
    ]
    # What the filter of events.yaml lets pass.
    passed = [
        index
        for index, each in enumerate(changes)
        if each["dynamodb"]["NewImage"]["state"] == {"S": "failed"}
        or each["dynamodb"]["NewImage"].get("previous_attempt") == {"S": "died"}
    ]
    assert passed == [1, 3]


def failed_record(number: int = 0) -> dict[str, Any]:
    new = {"job_id": {"S": f"job-{number}"}, "status": {"S": "failed"}, "failed_at": {"N": "5"}, "error": {"S": "why"}}
    return {"eventID": str(number), "dynamodb": {"NewImage": new, "OldImage": {"status": {"S": "created"}}}}


def test_what_is_refused_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what EventBridge refused; if it goes on refusing, the error makes Lambda deliver the batch again."""
    monkeypatch.setattr(events, "_PAUSES_S", (0.0, 0.0))
    bus = Bus(refusals=1)
    handler = build_events_handler(bus, stack="s", output_bucket=OUTPUT)
    handler({"Records": [failed_record(number) for number in range(12)]}, None)
    assert sorted(detail["job_id"] for _, detail in bus.sent) == sorted(f"job-{number}" for number in range(12))
    bus.refusals = 99
    with pytest.raises(TransferFailed, match="refused"):
        handler({"Records": [failed_record()]}, None)


def test_a_row_that_cannot_be_understood_holds_up_no_other() -> None:
    """It is skipped."""
    bad = failed_record()
    del bad["dynamodb"]["NewImage"]["job_id"]
    assert [detail["job_id"] for _, detail in sent([bad, failed_record(1)])] == ["job-1"]


def test_a_removed_row_is_no_event() -> None:
    """DynamoDB's time to live removes rows."""
    assert (
        events_of({"eventID": "1", "dynamodb": {"OldImage": failed_record()["dynamodb"]["NewImage"]}}, "s", "b") == []
    )
