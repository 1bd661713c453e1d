"""A job's second run after a failure, with a tracker that is not ours: it counts rows, and creates the trigger once."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError
from media_worker import best_effort, chunking
from media_worker.earlier_runs import delete_earlier_trigger
from media_worker.jobs import JobStatus, now_s
from media_worker.keys import build_output_segment_key, parse_segment_key
from media_worker.operations import NewSettings, retry_job
from moto.s3.models import s3_backends

from tests.functional.conftest import ClipMaker
from tests.functional.logs import Logs
from tests.functional.stack import INPUT, OUTPUT, Stack

LONG_AGO = 1000


@pytest.fixture(autouse=True)
def new_process() -> Iterator[None]:
    """Nothing was logged yet."""
    best_effort._logged.clear()
    yield
    best_effort._logged.clear()


class ForeignTracker:
    """Workers and a tracker that know the original's contract, and no plans.

    The workers process what S3 has announced. After each segment the tracker counts the job's rows, and if there are as
    many as segments, it creates the trigger on the condition that there is none, and requests the join.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack, self.announced = stack, list[str]()
        for operation in ("PutObject", "CompleteMultipartUpload"):
            stack.aws.s3.meta.events.register(f"provide-client-params.s3.{operation}", self._remember)
            stack.aws.s3.meta.events.register(f"after-call.s3.{operation}", self._announce)

    def _remember(self, params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        context["key"] = params["Key"]

    def _announce(self, http_response: Any, context: dict[str, Any], **_: Any) -> None:
        key = str(context.get("key"))
        if http_response.status_code == 200 and key.startswith("segments/") and key.endswith(".mp4"):
            self.announced.append(key)

    def indexes(self) -> list[int]:
        """The announced segments."""
        return sorted(parts.segment_index for key in self.announced if (parts := parse_segment_key(INPUT, key)))

    def process(self, *lost: int, completed_at: int | None = None) -> None:
        """Process the announced segments but these, whose messages are lost."""
        keys, self.announced[:] = sorted(self.announced), []
        for key in keys:
            parts = parse_segment_key(INPUT, key)
            assert parts
            if parts.segment_index not in lost:
                self._complete(parts.segment_index, self.stack.read(INPUT, key), completed_at or now_s())
                if len(completions(self.stack)) == parts.total_segments:
                    self._trigger()

    def _complete(self, index: int, body: bytes, completed_at: int) -> None:
        self.stack.aws.s3.put_object(Bucket=OUTPUT, Key=build_output_segment_key("job-1", index), Body=body)
        put_completion(self.stack, index, completed_at={"N": str(completed_at)})

    def _trigger(self) -> None:
        dynamodb = self.stack.aws.dynamodb
        row = {"job_id": {"S": "job-1"}, "triggered_at": {"N": str(now_s())}, "ttl": {"N": "4000000000"}}
        try:
            dynamodb.put_item(
                TableName="ReassemblyTriggered", Item=row, ConditionExpression="attribute_not_exists(job_id)"
            )
        except dynamodb.exceptions.ConditionalCheckFailedException:
            return
        url = self.stack.aws.settings.reassembly_queue_url
        self.stack.aws.sqs.send_message(QueueUrl=url, MessageBody=json.dumps({"job_id": "job-1"}))


@pytest.fixture
def tracker(stack: Stack) -> ForeignTracker:
    return ForeignTracker(stack)


def completions(stack: Stack) -> dict[int, dict[str, Any]]:
    rows = stack.aws.dynamodb.scan(TableName="SegmentCompletions")["Items"]
    return {int(row["segment_index"]["N"]): row for row in rows}


def put_completion(stack: Stack, index: int, **attributes: Any) -> None:
    uri = f"s3://{OUTPUT}/{build_output_segment_key('job-1', index)}"
    row = {"job_id": {"S": "job-1"}, "segment_index": {"N": str(index)}, "output_s3_uri": {"S": uri}}
    stack.aws.dynamodb.put_item(TableName="SegmentCompletions", Item=row | attributes)


def put_trigger(stack: Stack, **attributes: str) -> None:
    row = {"job_id": {"S": "job-1"}, "triggered_at": {"N": str(LONG_AGO)}, "ttl": {"N": "4000000000"}}
    numbers = {name: {"N": number} for name, number in attributes.items()}
    stack.aws.dynamodb.put_item(TableName="ReassemblyTriggered", Item=row | numbers)


def fail_first_run(stack: Stack, tracker: ForeignTracker, source: Path, *lost: int) -> None:
    """An hour ago, the job failed because these segments were not processed. Its trigger was written all the same."""
    stack.add_job()
    stack.upload(source)
    assert stack.chunk() == []
    tracker.process(*lost, completed_at=LONG_AGO)
    put_trigger(stack)
    stack.reassembly_messages()
    stack.set_job(status={"S": "failed"}, error={"S": "a worker died"})
    for key in s3_backends["123456789012"]["global"].buckets[INPUT].keys.values():  # S3's clock has whole seconds
        key.last_modified -= timedelta(hours=1)


def upload_again(stack: Stack, source: Path) -> None:
    """As a web back end does."""
    stack.upload(source)
    stack.set_job(status={"S": "created"}, error=None)


def ends_well(stack: Stack, tracker: ForeignTracker) -> None:
    """The tracker requests the join, and the job completes."""
    tracker.process()
    assert stack.reassembly_messages() == [{"job_id": "job-1"}]
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.COMPLETED, stack.job().error


def test_another_source_completes(stack: Stack, clip: ClipMaker, tracker: ForeignTracker) -> None:
    """Completions and trigger of the first run are gone before the first segment of the second one is announced."""
    fail_first_run(stack, tracker, clip("plain"))
    assert len(completions(stack)) == 3
    left: list[Any] = []

    def look(context: dict[str, Any], **_: Any) -> None:
        if context["key"].endswith(".mp4"):
            left.append((completions(stack), stack.row("ReassemblyTriggered")))

    upload_again(stack, clip("no_audio"))
    stack.aws.s3.meta.events.register("before-call.s3.PutObject", look)
    assert stack.chunk() == []
    assert left
    assert all(each == ({}, {}) for each in left)
    ends_well(stack, tracker)


def test_other_settings_complete(stack: Stack, clip: ClipMaker, tracker: ForeignTracker) -> None:
    """`retry` deletes completions; chunking deletes the one that a worker of the old plan has added since."""
    fail_first_run(stack, tracker, clip("no_audio"))
    url = stack.aws.sqs.create_queue(QueueName="segments")["QueueUrl"]
    stack.aws = replace(stack.aws, settings=replace(stack.aws.settings, segment_queue_url=url))
    retry_job(stack.aws, "job-1", settings=NewSettings(segment_duration_s=Decimal(100)))
    assert stack.row("ReassemblyTriggered") == {}
    put_completion(stack, 0, completed_at={"N": str(LONG_AGO)})
    assert stack.chunk() == []
    assert completions(stack) == {}
    ends_well(stack, tracker)


def test_the_same_source_completes(stack: Stack, clip: ClipMaker, tracker: ForeignTracker) -> None:
    """Only the segments that are not processed are written, and so announced, again."""
    fail_first_run(stack, tracker, clip("no_audio"), 0, 2)
    plan = stack.job().plan
    upload_again(stack, clip("no_audio"))
    assert stack.chunk() == []
    assert stack.job().plan == plan
    assert tracker.indexes() == [0, 2]
    assert list(completions(stack)) == [1]
    ends_well(stack, tracker)


def test_a_second_run_that_dies_announces_nothing_twice(
    stack: Stack, clip: ClipMaker, tracker: ForeignTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment that was written since the upload is kept."""
    fail_first_run(stack, tracker, clip("no_audio"), 0, 2)
    upload_again(stack, clip("no_audio"))
    with monkeypatch.context() as patched:
        patched.setattr(chunking, "_SEGMENTS_AT_ONCE", 1)
        stack.aws.s3.meta.events.register("after-call.s3.PutObject", _die, unique_id="die")
        assert stack.chunk() == ["message-0"]
    stack.aws.s3.meta.events.unregister("after-call.s3.PutObject", unique_id="die")
    assert tracker.indexes() == [0]
    assert stack.chunk(receive_count=2) == []
    assert tracker.indexes() == [0, 2]
    ends_well(stack, tracker)


def _die(**_: Any) -> None:
    raise ConnectionClosedError(endpoint_url="http://127.0.0.1")


def test_a_redriven_message_announces_nothing_again(stack: Stack, clip: ClipMaker, tracker: ForeignTracker) -> None:
    """Nobody has uploaded the source again, so the messages about the segments may still be there."""
    fail_first_run(stack, tracker, clip("no_audio"), 0, 2)
    assert stack.chunk() == []
    assert tracker.indexes() == []
    assert stack.row("ReassemblyTriggered") == {}


@pytest.mark.parametrize(
    ("attributes", "stays"),
    [
        ({}, False),
        ({"run_started_at": "1999"}, False),
        ({"lease_expires_at": "1500"}, False),
        ({"run_started_at": "2000"}, True),
        ({"triggered_at": "2000"}, True),
        ({"lease_expires_at": "99999999999"}, True),
        ({"run_started_at": "1999", "lease_expires_at": "99999999999"}, True),
    ],
    ids=str,
)
def test_which_trigger_is_deleted(stack: Stack, attributes: dict[str, str], *, stays: bool) -> None:
    """Not that of the present run, and not one whose lease somebody holds."""
    stack.add_job(run_started_at={"N": "2000"})
    put_trigger(stack, **attributes)
    delete_earlier_trigger(stack.aws, stack.job())
    assert bool(stack.row("ReassemblyTriggered")) == stays


def fail_with_completions_of_another_plan(stack: Stack, source: Path) -> None:
    stack.add_job(plan={"S": "old"}, status={"S": "failed"})
    stack.upload(source)
    for index in range(3):
        put_completion(stack, index, plan={"S": "old"})
    put_trigger(stack)


def test_a_completion_that_was_replaced_meanwhile_stays(stack: Stack, clip: ClipMaker) -> None:
    """An attempt that died has announced segments of the new plan: a worker may complete one at this moment."""
    fail_with_completions_of_another_plan(stack, clip("no_audio"))

    def replace_row(**call: Any) -> None:
        if b"SegmentCompletions" in call["params"]["body"]:
            put_completion(stack, 1, plan={"S": str(stack.job().plan)})

    stack.aws.dynamodb.meta.events.register("before-call.dynamodb.DeleteItem", replace_row)
    assert stack.chunk() == []
    assert list(completions(stack)) == [1]


def test_without_the_right_to_delete_the_rows_stay(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """That is logged once, and the job completes with workers that know plans."""

    def refuse(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "not authorized"}}, "DeleteItem")

    stack.aws.dynamodb.meta.events.register("before-parameter-build.dynamodb.DeleteItem", refuse)
    for _ in range(2):
        fail_with_completions_of_another_plan(stack, clip("no_audio"))
        assert stack.chunk() == []
        assert len(completions(stack)) == 3
    stack.process_segments()
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.COMPLETED
    assert logs.one("earlier_completions_not_deleted")["level"] == "WARNING"
    assert logs.one("earlier_trigger_not_deleted")["level"] == "WARNING"


@pytest.mark.parametrize("table", ["SegmentCompletions", "ReassemblyTriggered"])
def test_a_delete_that_fails_is_done_by_the_next_attempt(stack: Stack, clip: ClipMaker, table: str) -> None:
    """Before any segment is written."""
    fail_with_completions_of_another_plan(stack, clip("no_audio"))

    def fail(params: dict[str, Any], **_: Any) -> None:
        if table.encode() in params["body"]:
            _die()

    stack.aws.dynamodb.meta.events.register("before-call.dynamodb.DeleteItem", fail, unique_id="fail")
    assert stack.chunk() == ["message-0"]
    assert stack.segment_keys() == []
    stack.aws.dynamodb.meta.events.unregister("before-call.dynamodb.DeleteItem", unique_id="fail")
    assert stack.chunk(receive_count=2) == []
    assert (completions(stack), stack.row("ReassemblyTriggered")) == ({}, {})
