"""`record_segment`: every completion is written, and the reassembly is requested exactly once."""

import random
import threading
import time
from contextlib import suppress
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError
from media_worker.completions import is_complete, record_segment, trigger_if_complete
from media_worker.errors import StaleSegment
from media_worker.jobs import JobStatus
from media_worker.keys import build_output_segment_key
from moto.dynamodb.models import dynamodb_backends

from tests.functional.conftest import ClipMaker
from tests.functional.logs import Logs
from tests.functional.stack import OUTPUT, Stack


def record(stack: Stack, index: int) -> None:
    uri = f"s3://{OUTPUT}/{build_output_segment_key('job-1', index)}"
    record_segment(stack.aws, job_id="job-1", segment_index=index, output_s3_uri=uri)


def add_completions(stack: Stack, count: int) -> None:
    """Completions that another tracker wrote without requesting the reassembly."""
    for index in range(count):
        uri = f"s3://{OUTPUT}/{build_output_segment_key('job-1', index)}"
        row = {"job_id": {"S": "job-1"}, "segment_index": {"N": str(index)}, "output_s3_uri": {"S": uri}}
        stack.aws.dynamodb.put_item(TableName="SegmentCompletions", Item=row)


def add_chunked_job(stack: Stack, total: int, **attributes: Any) -> None:
    stack.add_job(status={"S": "chunking_complete"}, total_segments={"N": str(total)}, **attributes)


def add_trigger(stack: Stack, **attributes: Any) -> None:
    row = {"job_id": {"S": "job-1"}, "triggered_at": {"N": "1000"}, "ttl": {"N": "4000000000"}}
    stack.aws.dynamodb.put_item(TableName="ReassemblyTriggered", Item=row | attributes)


def test_a_completion_is_written_as_the_contract_says(stack: Stack) -> None:
    """A completion has index, location, time, and the total once it is known."""
    add_chunked_job(stack, 3)
    record(stack, 2)
    (row,) = stack.aws.dynamodb.scan(TableName="SegmentCompletions")["Items"]
    assert int(row.pop("completed_at")["N"]) == pytest.approx(time.time(), abs=3)
    assert row == {
        "job_id": {"S": "job-1"},
        "segment_index": {"N": "2"},
        "output_s3_uri": {"S": f"s3://{OUTPUT}/jobs/job-1/segments/2.mp4"},
        "total_segments": {"N": "3"},
    }


def test_the_last_segment_requests_the_reassembly(stack: Stack, logs: Logs) -> None:
    """Only the last completion requests it. The row records when, its expiry, and that the message was sent."""
    add_chunked_job(stack, 3)
    for index in (2, 0):
        record(stack, index)
        assert stack.reassembly_messages() == []
        assert stack.row("ReassemblyTriggered") == {}
    record(stack, 1)
    assert stack.reassembly_messages() == [{"job_id": "job-1"}]
    row = stack.row("ReassemblyTriggered")
    assert int(row["ttl"]["N"]) - int(row["triggered_at"]["N"]) == 30 * 24 * 3600
    assert int(row["sent_at"]["N"]) == pytest.approx(time.time(), abs=3)
    assert logs.one("reassembly_requested")["job_id"] == "job-1"


def test_a_repeated_completion_requests_nothing_more(stack: Stack) -> None:
    """A segment that is completed twice requests one reassembly."""
    add_chunked_job(stack, 1)
    record(stack, 0)
    record(stack, 0)
    assert stack.reassembly_messages() == [{"job_id": "job-1"}]
    assert len(stack.aws.dynamodb.scan(TableName="SegmentCompletions")["Items"]) == 1


def test_two_last_segments_at_the_same_moment_send_one_message(stack: Stack) -> None:
    """Two workers find the set complete at the same time: one creates the row, the other sees that it was sent."""
    add_chunked_job(stack, 2)
    both_are_there = threading.Barrier(2)

    def meet(**call: Any) -> None:
        if b"ReassemblyTriggered" in call["params"]["body"]:
            both_are_there.wait(10)

    stack.aws.dynamodb.meta.events.register("before-call.dynamodb.PutItem", meet)
    add_completions(stack, 2)
    threads = [threading.Thread(target=record, args=(stack, index)) for index in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not both_are_there.broken
    assert stack.reassembly_messages() == [{"job_id": "job-1"}]


def test_chunking_requests_the_reassembly_if_the_workers_were_faster(stack: Stack, clip: ClipMaker) -> None:
    """All completions were written before chunking ended, so chunking requests the reassembly."""
    stack.add_job()
    stack.upload(clip("no_audio"))
    for index in range(3):
        record(stack, index)
    assert stack.reassembly_messages() == []
    assert stack.chunk() == []
    assert stack.reassembly_messages() == [{"job_id": "job-1"}]


def test_a_redelivery_requests_what_a_dead_chunking_did_not(stack: Stack) -> None:
    """Chunking died after it wrote `chunking_complete`: its next delivery requests the reassembly."""
    add_chunked_job(stack, 1)
    add_completions(stack, 1)
    assert stack.chunk(receive_count=2) == []
    assert stack.reassembly_messages() == [{"job_id": "job-1"}]


def test_a_segment_of_an_unknown_job_is_only_written(stack: Stack) -> None:
    """A completion may be written before the job's row exists."""
    record(stack, 0)
    (row,) = stack.aws.dynamodb.scan(TableName="SegmentCompletions")["Items"]
    assert "total_segments" not in row
    assert stack.reassembly_messages() == []


@pytest.mark.parametrize(
    "status", sorted(set(JobStatus) - {JobStatus.CHUNKING_COMPLETE, JobStatus.FAILED, JobStatus.DELETED})
)
def test_other_statuses_do_not_trigger(stack: Stack, status: JobStatus) -> None:
    """A job is ready to be joined when it is `chunking_complete`, or `failed` with all segments completed."""
    stack.add_job(status={"S": status.value}, total_segments={"N": "1"})
    with suppress(StaleSegment):  # the segments of a deleted job do not count
        record(stack, 0)
    assert stack.reassembly_messages() == []


def test_a_message_that_a_dead_sender_did_not_send_is_sent(stack: Stack, logs: Logs) -> None:
    """The row was created but the message was not sent: the next caller sends it and logs a warning."""
    add_chunked_job(stack, 1)
    add_trigger(stack)
    record(stack, 0)
    assert stack.reassembly_messages() == [{"job_id": "job-1"}]
    assert "sent_at" in stack.row("ReassemblyTriggered")
    assert logs.one("reassembly_resent")["level"] == "WARNING"


@pytest.mark.parametrize("mark", ["sent_at", "reassembly_started_at"])
def test_a_sent_message_is_not_sent_again(stack: Stack, mark: str) -> None:
    """`sent_at` proves that the message was sent; so does a reassembly that has started."""
    add_chunked_job(stack, 1)
    add_trigger(stack, **{mark: {"N": "1001"}})
    record(stack, 0)
    assert stack.reassembly_messages() == []


def test_a_live_sender_is_given_time(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row is a second old: its creator is about to send. A worker does not wait for that, and sends nothing."""
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("a worker must not wait"))
    add_chunked_job(stack, 1)
    add_trigger(stack, triggered_at={"N": str(int(time.time()) - 1)})
    record(stack, 0)
    assert stack.reassembly_messages() == []


def test_a_sender_knows_its_own_row(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to the write of the row was lost, so the SDK repeated it and was refused: the message is sent."""
    add_chunked_job(stack, 1)
    put = stack.aws.dynamodb.put_item

    def put_twice(**request: Any) -> Any:
        answer = put(**request)
        return put(**request) if request["TableName"] == "ReassemblyTriggered" else answer

    monkeypatch.setattr(stack.aws.dynamodb, "put_item", put_twice)
    record(stack, 0)
    assert stack.reassembly_messages() == [{"job_id": "job-1"}]
    assert "sent_at" in stack.row("ReassemblyTriggered")


def test_a_sender_that_got_no_answer_at_all_repeats_the_step(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer to the write of the row was lost. A worker repeats the whole step, a moment later."""
    add_chunked_job(stack, 1)
    put = stack.aws.dynamodb.put_item

    def put_without_answer(**request: Any) -> Any:
        answer = put(**request)
        if request["TableName"] == "ReassemblyTriggered":
            raise ReadTimeoutError(endpoint_url="https://dynamodb")
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(stack.aws.dynamodb, "put_item", put_without_answer)
        with pytest.raises(ReadTimeoutError):
            record(stack, 0)
    assert stack.reassembly_messages() == []
    record(stack, 0)
    assert stack.reassembly_messages() == [{"job_id": "job-1"}]


def test_the_row_of_an_earlier_run_is_replaced(stack: Stack) -> None:
    """The job failed and was started again, so the row of the earlier run no longer counts."""
    add_chunked_job(stack, 1, run_started_at={"N": "2000"})
    add_trigger(stack, sent_at={"N": "1001"}, reassembly_started_at={"N": "1002"}, reassembly_completed_at={"N": "1"})
    record(stack, 0)
    assert stack.reassembly_messages() == [{"job_id": "job-1"}]
    row = stack.row("ReassemblyTriggered")
    assert int(row["triggered_at"]["N"]) >= 2000
    assert not {"reassembly_started_at", "reassembly_completed_at"} & set(row)


def test_a_row_of_this_run_is_kept(stack: Stack) -> None:
    """A row that was written after the run began prevents a second message."""
    add_chunked_job(stack, 1, run_started_at={"N": "999"})
    add_trigger(stack, sent_at={"N": "1001"})
    assert not trigger_if_complete(stack.aws, "job-1")


def test_a_job_can_fail_and_be_run_again(stack: Stack, clip: ClipMaker) -> None:
    """A job whose first source was not a video completes with a second source."""
    stack.add_job()
    stack.upload(b"no video")
    assert stack.chunk() == []
    assert stack.job().status is JobStatus.FAILED
    stack.upload(clip("no_audio"))
    assert stack.chunk() == []
    assert stack.job().error is None
    stack.process_segments()
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.COMPLETED


@pytest.mark.parametrize("missing", [None, 0, 7, 19, 20])
@pytest.mark.parametrize("begin", [0, 7, 8, 19])
def test_a_set_is_complete_if_no_index_is_missing(
    stack: Stack, monkeypatch: pytest.MonkeyPatch, missing: int | None, begin: int
) -> None:
    """Wherever the search begins. A completion that is too many is a gap too."""
    monkeypatch.setattr("random.randrange", lambda _: begin)
    add_chunked_job(stack, 20)
    add_completions(stack, 20 if missing != 20 else 21)
    if missing is not None and missing < 20:
        key: Any = {"job_id": {"S": "job-1"}, "segment_index": {"N": str(missing)}}
        stack.aws.dynamodb.delete_item(TableName="SegmentCompletions", Key=key)
    assert is_complete(stack.aws, stack.job()) == (missing is None)


def test_a_completion_of_another_plan_is_a_gap(stack: Stack) -> None:
    """It does not count."""
    add_chunked_job(stack, 3, plan={"S": "new"}, replanned_at={"N": "5000"})
    add_completions(stack, 3)
    assert not is_complete(stack.aws, stack.job())


class Reads:
    """Counts the rows that DynamoDB reads, and bills."""

    def __init__(self, stack: Stack) -> None:
        self.rows = 0
        stack.aws.dynamodb.meta.events.register("after-call.dynamodb.Query", self._count)

    def _count(self, parsed: Any, **_: Any) -> None:
        self.rows += parsed["ScannedCount"]


@pytest.mark.no_cover
def test_ten_thousand_segments_do_not_read_all_completions_each_time(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With k of n segments missing, a worker reads about n / k rows: the fewer, the longer a job still takes. Over the
    whole job that is n log n, where reading or counting all rows is n * n / 2.
    """
    monkeypatch.setattr("random.randrange", random.Random(1).randrange)
    total = 10_000
    order = list(range(total))
    random.Random(1).shuffle(order)
    add_chunked_job(stack, total)
    reads = Reads(stack)
    done = 0
    for missing in (100, 1):  # each query costs moto a second: it sorts all rows
        _add_rows(stack, order[done : total - missing])
        done = total - missing
        reads.rows = 0
        assert not trigger_if_complete(stack.aws, "job-1")
        assert reads.rows <= 4 * total // missing + 8, "rows read with so many segments missing"
    reads.rows = 0
    record(stack, order[-1])
    assert reads.rows <= 2 * total
    assert stack.reassembly_messages() == [{"job_id": "job-1"}]


def _add_rows(stack: Stack, indexes: list[int]) -> None:
    """Write rows as `add_completions` does, by moto's own table: 10,000 requests would take a minute."""
    table = dynamodb_backends["123456789012"]["us-east-1"].tables["SegmentCompletions"]
    for index in indexes:
        uri = f"s3://{OUTPUT}/{build_output_segment_key('job-1', index)}"
        table.put_item({"job_id": {"S": "job-1"}, "segment_index": {"N": str(index)}, "output_s3_uri": {"S": uri}})
