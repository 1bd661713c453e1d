"""The lease: one holder at a time, released after an error, taken over after a crash."""

import json
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from botocore.exceptions import ClientError
from media_worker import handlers, jobs, lease
from media_worker.aws import Aws
from media_worker.errors import BadSource, LeaseHeld, LeaseLost, NothingToDo, RetryableError
from media_worker.jobs import Fence, Job, JobStatus
from media_worker.keys import build_plan_key
from media_worker.lease import LEASE_S, Hold, Lease, chunking_lease, reassembly_lease, run_under_lease
from media_worker.messages import parse_chunking_body
from media_worker.plan import Plan, PlannedSegment, PlannedSource, store_plan
from media_worker.queues import HiddenMessages
from media_worker.s3 import PLAN, Target, write_once

from tests.crash.clock import Clock
from tests.functional.conftest import ClipMaker
from tests.functional.logs import Logs
from tests.functional.stack import INPUT, Stack, s3_event, sqs_event

STAGES = ["chunking", "reassembly"]


def lease_of(stack: Stack, stage: str) -> Lease:
    return (chunking_lease if stage == "chunking" else reassembly_lease)(stack.aws, "job-1")


def row_of(stack: Stack, stage: str) -> dict[str, Any]:
    return stack.row("Jobs" if stage == "chunking" else "ReassemblyTriggered")


def hold(stack: Stack, stage: str, expires_in_s: float) -> None:
    """Somebody else takes the lease and does not release it."""
    now = int(time.time())
    stack.aws.dynamodb.update_item(
        TableName="Jobs" if stage == "chunking" else "ReassemblyTriggered",
        Key={"job_id": {"S": "job-1"}},
        UpdateExpression=f"SET lease_holder = :other, lease_expires_at = :end, {stage}_started_at = :now",
        ExpressionAttributeValues={
            ":other": {"S": "other"},
            ":end": {"N": str(int(now + expires_in_s))},
            ":now": {"N": str(now)},
        },
    )


def plan_of(frames: int) -> Plan:
    second = Fraction(1)
    segment = PlannedSegment(0, 0, frames, Fraction(0), second, second / frames)
    return Plan(PlannedSource("input/job-1/source.mp4", "etag", 1000), "copy", second, 1000, (segment,))


class Work:
    """Counts how often the work was done."""

    def __init__(self, error: Exception | None = None) -> None:
        self.done = 0
        self._error = error

    def __call__(self, _: Hold) -> None:
        self.done += 1
        if self._error:
            raise self._error


def run(stack: Stack, stage: str, work: Any) -> None:
    run_under_lease(stack.aws, lease_of(stack, stage), stack.context, work)


@pytest.mark.parametrize("stage", STAGES)
def test_the_lease_is_in_the_row_during_the_work(stack: Stack, stage: str) -> None:
    """The row has the holder, the start, and an expiry in two minutes, however long the invocation may last."""
    stack.add_job()
    seen: dict[str, Any] = {}

    def work(_: Hold) -> None:
        seen.update(row_of(stack, stage))

    now = time.time()
    run(stack, stage, work)
    assert int(seen[f"{stage}_started_at"]["N"]) == pytest.approx(now, abs=30)
    assert int(seen["lease_expires_at"]["N"]) == pytest.approx(now + 120, abs=30)
    assert seen["lease_holder"]["S"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_lease_held_elsewhere_prevents_the_work(stack: Stack, stage: str) -> None:
    """The error says when the lease expires."""
    stack.add_job()
    hold(stack, stage, expires_in_s=50)
    work = Work()
    with pytest.raises(LeaseHeld) as caught:
        run(stack, stage, work)
    assert caught.value.retry_after_s == pytest.approx(51, abs=30)
    assert work.done == 0
    assert row_of(stack, stage)["lease_holder"]["S"] == "other"


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("expired_s", [0, 1, 1000])
def test_an_expired_lease_is_taken_over(stack: Stack, stage: str, expired_s: int) -> None:
    """The holder was killed. The lease is free from the second in which it expires."""
    stack.add_job()
    hold(stack, stage, expires_in_s=-expired_s)
    work = Work()
    run(stack, stage, work)
    assert work.done == 1


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("error", [RuntimeError("broken"), RetryableError("later"), NothingToDo("no job")])
def test_an_error_releases_the_lease(stack: Stack, stage: str, error: Exception) -> None:
    """The next delivery may begin at once, and the error is raised unchanged."""
    stack.add_job()
    with pytest.raises(type(error), match=str(error)):
        run(stack, stage, Work(error))
    assert not {"lease_holder", "lease_expires_at", f"{stage}_started_at"} & set(row_of(stack, stage))
    work = Work()
    run(stack, stage, work)
    assert work.done == 1


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("error", [None, RuntimeError("broken")])
def test_a_late_holder_does_not_touch_its_successors_lease(
    stack: Stack, logs: Logs, stage: str, error: Exception | None
) -> None:
    """A holder whose lease was taken over can neither release nor complete it."""
    stack.add_job()

    def work(_: Hold) -> None:
        hold(stack, stage, expires_in_s=100)
        if error:
            raise error

    try:
        run(stack, stage, work)
    except RuntimeError:
        assert error
    row = row_of(stack, stage)
    assert row["lease_holder"]["S"] == "other"
    assert "lease_expires_at" in row
    assert "reassembly_completed_at" not in row
    assert logs.one("lease_lost")["level"] == "WARNING"


def test_a_finished_chunking_leaves_no_lease(stack: Stack) -> None:
    """The job's status records that chunking is done, so a later run may begin."""
    stack.add_job()
    for _ in range(2):
        work = Work()
        run(stack, "chunking", work)
        assert work.done == 1
        assert not {"lease_holder", "lease_expires_at", "chunking_started_at"} & set(stack.row("Jobs"))


def test_a_finished_reassembly_is_not_done_again(stack: Stack) -> None:
    """The row keeps the start and records the completion."""
    run(stack, "reassembly", Work())
    row = stack.row("ReassemblyTriggered")
    assert {"reassembly_started_at", "reassembly_completed_at"} <= set(row)
    assert not {"lease_holder", "lease_expires_at"} & set(row)
    again = Work()
    run(stack, "reassembly", again)
    assert again.done == 0


def test_a_message_sent_by_hand_gets_a_row_that_expires(stack: Stack) -> None:
    """Without a trigger, the lease writes the attributes that the contract requires."""
    run(stack, "reassembly", Work())
    row = stack.row("ReassemblyTriggered")
    assert int(row["triggered_at"]["N"]) == pytest.approx(time.time(), abs=3)
    assert int(row["ttl"]["N"]) - int(row["triggered_at"]["N"]) == 30 * 24 * 3600


def test_a_triggered_row_keeps_its_times(stack: Stack) -> None:
    """The lease adds attributes to the row and changes none."""
    item = {"job_id": {"S": "job-1"}, "triggered_at": {"N": "17"}, "ttl": {"N": "4000000000"}}
    stack.aws.dynamodb.put_item(TableName="ReassemblyTriggered", Item=item)
    run(stack, "reassembly", Work())
    row = stack.row("ReassemblyTriggered")
    assert {name: row[name] for name in item} == item


def test_the_chunking_lease_never_creates_a_job(stack: Stack) -> None:
    """The job's row was removed before the lease was taken."""
    work = Work()
    with pytest.raises(Exception, match="inconsistent"):
        run(stack, "chunking", work)
    assert work.done == 0
    assert stack.row("Jobs") == {}


def test_a_failed_release_does_not_hide_the_error(stack: Stack, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the work is raised, and the lease expires."""
    stack.add_job()

    def work(_: Hold) -> None:
        stack.aws.dynamodb.delete_table(TableName="Jobs")
        raise RetryableError("what matters")

    with pytest.raises(RetryableError, match="what matters"):
        run(stack, "chunking", work)
    assert logs.one("lease_not_released")["level"] == "ERROR"


# The heartbeat


@pytest.fixture
def fast_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """A beat every 20 ms."""
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(handlers, "HEARTBEAT_S", 0.02)


# A thread is waited for by the real clock, also where a test sets another one.
_monotonic, _sleep = time.monotonic, time.sleep


def wait_for(condition: Any) -> None:
    deadline = _monotonic() + 10
    while not condition():
        assert _monotonic() < deadline, "it did not happen"
        _sleep(0.01)


def expires_at(stack: Stack, stage: str) -> int:
    return int(row_of(stack, stage)["lease_expires_at"]["N"])


@pytest.mark.usefixtures("fast_heartbeat")
@pytest.mark.parametrize("stage", STAGES)
def test_the_lease_is_renewed_during_the_work(stack: Stack, stage: str) -> None:
    """Work that takes longer than the lease keeps it; when the work has ended, nothing is written any more."""
    stack.add_job()
    ahead = Clock()

    def work(hold: Hold) -> None:
        first = expires_at(stack, stage)
        for minute in (1, 2, 3):
            ahead.ahead_s = minute * 60
            wait_for(lambda: expires_at(stack, stage) >= first + ahead.ahead_s - 2)
            wait_for(lambda: not hold.is_lost)
        hold.require()

    with ahead.patches():
        run(stack, stage, work)
    assert "lease_expires_at" not in row_of(stack, stage)
    assert not [thread for thread in threading.enumerate() if thread.name == "heartbeat"]


@pytest.mark.usefixtures("fast_heartbeat")
@pytest.mark.parametrize("stage", STAGES)
def test_a_heartbeat_notices_that_the_lease_was_taken_over(stack: Stack, logs: Logs, stage: str) -> None:
    """The next step raises LeaseLost."""
    stack.add_job()

    def work(held: Hold) -> None:
        held.require()
        hold(stack, stage, expires_in_s=100)
        wait_for(lambda: held.is_lost)
        held.require()

    with pytest.raises(LeaseLost):
        run(stack, stage, work)
    assert row_of(stack, stage)["lease_holder"]["S"] == "other"
    assert logs.all("lease_lost")


@pytest.mark.usefixtures("fast_heartbeat")
def test_a_renewal_that_fails_is_repeated(stack: Stack, logs: Logs) -> None:
    """DynamoDB could not be reached for a moment: the lease is still ours."""
    stack.add_job()
    failures = iter(["InternalServerError", "AccessDeniedException", "AccessDeniedException"])

    def fail(**_: Any) -> Any:
        if code := next(failures, None):
            raise ClientError({"Error": {"Code": code, "Message": "injected"}}, "UpdateItem")

    def work(held: Hold) -> None:
        held.until_s = 0
        stack.aws.dynamodb.meta.events.register("before-call.dynamodb.UpdateItem", fail)
        wait_for(lambda: held.until_s)
        held.require()

    run(stack, "chunking", work)
    assert logs.all("lease_not_renewed")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("error", [OSError("broken"), BadSource("bad"), RetryableError("later")])
def test_work_that_fails_after_its_lease_is_somebody_elses(stack: Stack, stage: str, error: Exception) -> None:
    """Whatever the error is, it says nothing about the job any more."""
    stack.add_job()

    def work(_: Hold) -> None:
        clock.ahead_s += LEASE_S
        raise error

    clock = Clock()
    with clock.patches(), pytest.raises(LeaseLost, match=str(error)):
        run(stack, stage, work)


# A holder that was paused (SIGSTOP, a frozen machine) and continues when somebody else has the lease


def fail_with_a_bad_source(aws: Aws, fence: Fence) -> None:
    with jobs.failing_job(aws, "job-1", ends_chunking_lease=True, fence=fence):
        raise BadSource("it was another source")


@pytest.mark.parametrize(
    "write",
    [
        jobs.begin_chunking,
        lambda aws, job, fence: jobs.record_plan(aws, job, plan_of(1), fence),
        lambda aws, job, fence: jobs.finish_chunking(aws, job.job_id, {}, fence),
        lambda aws, job, fence: fail_with_a_bad_source(aws, fence),
    ],
    ids=["begins", "records another plan", "finishes", "fails"],
)
def test_a_paused_chunking_cannot_write_the_jobs_row(stack: Stack, write: Callable[[Aws, Job, Fence], None]) -> None:
    """DynamoDB refuses its writes, even if it does not look whether it still has the lease."""
    stack.add_job()

    def work(paused: Hold) -> None:
        job = stack.job()
        jobs.begin_chunking(stack.aws, job, paused.fence)
        hold(stack, "chunking", expires_in_s=100)
        before = stack.row("Jobs")
        with pytest.raises(LeaseLost):
            write(stack.aws, job, paused.fence)
        assert stack.row("Jobs") == before

    run(stack, "chunking", work)


def test_a_paused_chunking_cannot_write_after_its_successor_has_ended(stack: Stack) -> None:
    """The successor failed with an error that is retried, and has released the lease."""
    stack.add_job()

    def work(paused: Hold) -> None:
        jobs.begin_chunking(stack.aws, stack.job(), paused.fence)
        hold(stack, "chunking", expires_in_s=100)
        stack.set_job(lease_holder=None, lease_expires_at=None, chunking_started_at=None)
        with pytest.raises(LeaseLost):
            jobs.finish_chunking(stack.aws, "job-1", {}, paused.fence)
        with pytest.raises(LeaseLost):
            jobs.fail_job(stack.aws, "job-1", "no", fence=paused.fence)

    run(stack, "chunking", work)
    assert stack.job().status is JobStatus.CHUNKING_IN_PROGRESS


@pytest.mark.parametrize(
    "write",
    [
        lambda aws, fence: jobs.begin_reassembly(aws, "job-1", fence),
        lambda aws, fence: jobs.finish_reassembly(aws, "job-1", {}, "segments", fence),
        lambda aws, fence: jobs.fail_job(aws, "job-1", "no", fence=fence),
    ],
    ids=["begins", "finishes", "fails"],
)
def test_a_paused_reassembly_cannot_write_the_jobs_row(stack: Stack, write: Callable[[Aws, Fence], None]) -> None:
    """The successor's first write carries the time of its lease, and older leases are refused from then on."""
    stack.add_job(status={"S": "chunking_complete"})
    fence = jobs.reassembly_fence(1_000)
    jobs.begin_reassembly(stack.aws, "job-1", fence)
    jobs.begin_reassembly(stack.aws, "job-1", jobs.reassembly_fence(1_120))
    before = stack.row("Jobs")
    with pytest.raises(LeaseLost):
        write(stack.aws, fence)
    assert stack.row("Jobs") == before
    jobs.finish_reassembly(stack.aws, "job-1", {}, "segments", jobs.reassembly_fence(1_120))
    assert stack.job().status is JobStatus.COMPLETED


def test_a_repeated_write_of_the_holder_is_no_loss(stack: Stack) -> None:
    """The SDK repeats a call whose answer was lost, and finds the lease ended by its own write."""
    stack.add_job()

    def work(held: Hold) -> None:
        jobs.begin_chunking(stack.aws, stack.job(), held.fence)
        for _ in range(2):
            assert jobs.fail_job(stack.aws, "job-1", "bad", ends_chunking_lease=True, fence=held.fence)

    run(stack, "chunking", work)


def test_a_paused_writer_does_not_replace_its_successors_object(stack: Stack) -> None:
    """Its own condition fails, it looks, and then the clock says that its lease has expired."""
    ours = Target(INPUT, "segments/job-1/0", (PLAN, "old"), hold=Hold(stack.aws, chunking_lease(stack.aws, "job-1")))
    stack.aws.s3.put_object(Bucket=INPUT, Key=ours.key, Body=b"new", Metadata={PLAN: "new"})
    with pytest.raises(LeaseLost):
        write_once(stack.aws, ours, [b"old"])
    assert stack.read(INPUT, ours.key) == b"new"


def test_a_paused_holder_does_not_replace_its_successors_plan(stack: Stack) -> None:
    """A plan is written on the condition that there is none. The one that is found may be the successor's."""
    ours = Hold(stack.aws, chunking_lease(stack.aws, "job-1"))
    stack.add_job()
    stack.aws.s3.put_object(Bucket=INPUT, Key=build_plan_key("job-1"), Body=plan_of(2).to_json())
    with pytest.raises(LeaseLost):
        store_plan(stack.aws, "job-1", plan_of(1), ours)
    assert stack.read(INPUT, build_plan_key("job-1")) == plan_of(2).to_json()
    ours.take(int(time.time()), {})
    store_plan(stack.aws, "job-1", plan_of(1), ours)
    assert stack.read(INPUT, build_plan_key("job-1")) == plan_of(1).to_json()


# Through the handlers


def visibility_calls(stack: Stack) -> list[dict[str, Any]]:
    """The parameters of all ChangeMessageVisibility calls from now on."""
    calls: list[dict[str, Any]] = []
    stack.aws.sqs.meta.events.register(
        "before-call.sqs.ChangeMessageVisibility", lambda params, **_: calls.append(json.loads(params["body"]))
    )
    return calls


@pytest.mark.parametrize("stage", STAGES)
def test_a_message_whose_job_is_worked_on_elsewhere_is_not_deleted(
    stack: Stack, clip: ClipMaker, logs: Logs, stage: str
) -> None:
    """The message is returned to the queue and invisible until the lease expires."""
    stack.add_job(status={"S": "created" if stage == "chunking" else "chunking_complete"}, total_segments={"N": "1"})
    stack.upload(clip("no_audio"))
    hold(stack, stage, expires_in_s=300)
    calls = visibility_calls(stack)
    answer = stack.chunk(receive_count=5) if stage == "chunking" else stack.reassemble(receive_count=5)

    assert answer == ["message-0"]
    begin, end = calls
    assert begin["VisibilityTimeout"] == LEASE_S
    assert end["VisibilityTimeout"] == pytest.approx(301, abs=30)
    assert {call["ReceiptHandle"] for call in calls} == {"receipt-0"}
    assert logs.one("record_returned")["failure"] == "LeaseHeld"
    assert stack.job().status is not JobStatus.FAILED, "the other one may well succeed"


def test_chunking_continues_after_a_crash(stack: Stack, clip: ClipMaker) -> None:
    """The lease has expired: the next delivery takes it and keeps the start of the run."""
    stack.add_job(status={"S": "chunking_in_progress"}, run_started_at={"N": "17"})
    stack.upload(clip("plain"))
    hold(stack, "chunking", expires_in_s=-1)
    assert stack.chunk() == []
    assert stack.job().status is JobStatus.CHUNKING_COMPLETE
    assert stack.job().run_started_at == 17
    assert "chunking_started_at" not in stack.row("Jobs")


def test_a_job_that_is_deleted_before_the_lease_is_taken_is_left_alone(
    stack: Stack, clip: ClipMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is read again under the lease."""
    stack.add_job()
    stack.upload(clip("no_audio"))
    read = jobs.read_job

    def then_delete(*args: Any) -> Any:
        job = read(*args)
        stack.add_job(status={"S": "deleted"})
        return job

    monkeypatch.setattr(jobs, "read_job", then_delete)
    assert stack.chunk() == []
    assert stack.row("Jobs")["status"]["S"] == "deleted"
    assert stack.segment_keys() == []


@pytest.mark.usefixtures("fast_heartbeat")
def test_a_message_is_hidden_while_its_job_is_worked_on(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work takes longer than the visibility timeout. A record that is done is hidden until the batch ends."""
    queue = stack.aws.settings.chunking_queue_url
    bodies = [s3_event(f"input/job-{number}/source.mp4") for number in (1, 2)]
    for body in bodies:
        stack.aws.sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(body))
    messages = stack.aws.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=2)["Messages"]
    event = sqs_event(*bodies)
    for record, message in zip(event["Records"], messages, strict=True):
        record["receiptHandle"] = message["ReceiptHandle"]
    calls = visibility_calls(stack)

    def work(*_: Any) -> None:
        calls.clear()
        wait_for(lambda: len(calls) >= 6)

    answer = handlers.Queue(stack.aws, queue, parse, work, frozenset()).handle(event, stack.context)
    assert answer == {"batchItemFailures": []}
    assert {call["VisibilityTimeout"] for call in calls} == {LEASE_S}
    assert {call["ReceiptHandle"] for call in calls} == {message["ReceiptHandle"] for message in messages}
    ended = len(calls)
    time.sleep(0.1)
    assert len(calls) == ended, "the heartbeat ends with the batch"


def parse(body: str) -> Any:
    return parse_chunking_body(body, INPUT)


def test_a_message_of_another_receive_is_not_extended(stack: Stack, logs: Logs) -> None:
    """The receipt is not valid any more, so the heartbeat leaves the message alone."""
    hidden = HiddenMessages(stack.aws, stack.aws.settings.chunking_queue_url)
    hidden.hide("receipt of an earlier receive")
    calls = visibility_calls(stack)
    assert hidden.extend()
    assert calls == []
    assert len(logs.all("visibility_not_changed")) == 1


def test_a_lost_lease_leaves_job_and_message_alone(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """The message is somebody else's by now: its visibility timeout is not changed, and the job does not fail, even on
    the last attempt.
    """
    stack.add_job()
    stack.upload(clip("no_audio"))
    clock, calls = Clock(), visibility_calls(stack)

    def expire(**_: Any) -> None:
        clock.ahead_s += LEASE_S

    stack.aws.s3.meta.events.register("before-call.s3.GetObject", expire)
    with clock.patches():
        assert stack.chunk(receive_count=5) == ["message-0"]
    assert [call["VisibilityTimeout"] for call in calls] == [LEASE_S]
    assert logs.one("record_returned")["failure"] == "LeaseLost"
    assert stack.job().status is JobStatus.CHUNKING_IN_PROGRESS
    assert stack.segment_keys() == []
