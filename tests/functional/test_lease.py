"""The lease: one holder at a time, released after an error, taken over after a crash."""

import json
import time
from typing import Any

import pytest
from media_worker import jobs
from media_worker.errors import LeaseHeld, NothingToDo, RetryableError
from media_worker.jobs import JobStatus
from media_worker.lease import Lease, LeaseStore, chunking_lease, reassembly_lease, run_under_lease

from tests.functional.conftest import ClipMaker
from tests.functional.logs import Logs
from tests.functional.stack import Stack

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


class Work:
    """Counts how often the work was done."""

    def __init__(self, error: Exception | None = None) -> None:
        self.done = 0
        self._error = error

    def __call__(self) -> None:
        self.done += 1
        if self._error:
            raise self._error


def run(stack: Stack, stage: str, work: Any) -> None:
    run_under_lease(stack.aws, lease_of(stack, stage), stack.context, work)


@pytest.mark.parametrize("stage", STAGES)
def test_the_lease_is_in_the_row_during_the_work(stack: Stack, stage: str) -> None:
    """The row has the holder, the start, and an expiry at the end of the invocation."""
    stack.add_job()
    seen: dict[str, Any] = {}

    def work() -> None:
        seen.update(row_of(stack, stage))

    stack.context.remaining_ms = 120_000
    now = time.time()
    run(stack, stage, work)
    assert int(seen[f"{stage}_started_at"]["N"]) == pytest.approx(now, abs=3)
    assert int(seen["lease_expires_at"]["N"]) == pytest.approx(now + 120, abs=3)
    assert seen["lease_holder"]["S"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_lease_held_elsewhere_prevents_the_work(stack: Stack, stage: str) -> None:
    """The error says when the lease expires."""
    stack.add_job()
    hold(stack, stage, expires_in_s=50)
    work = Work()
    with pytest.raises(LeaseHeld) as caught:
        run(stack, stage, work)
    assert caught.value.retry_after_s == pytest.approx(51, abs=2)
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

    def work() -> None:
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


def test_a_lease_without_an_end_is_refused(stack: Stack) -> None:
    """A lease without an expiry would never be released after a crash."""
    store = LeaseStore(stack.aws, reassembly_lease(stack.aws, "job-1"))
    with (
        pytest.warns(UserWarning, match="remaining time"),
        pytest.raises(ValueError, match="a lease needs an end"),
    ):
        store.save_inprogress({"job_id": "job-1"}, None)


def test_a_failed_release_does_not_hide_the_error(stack: Stack, logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of the work is raised, and the lease expires."""
    stack.add_job()

    def work() -> None:
        stack.aws.dynamodb.delete_table(TableName="Jobs")
        raise RetryableError("what matters")

    with pytest.raises(RetryableError, match="what matters"):
        run(stack, "chunking", work)
    assert logs.one("lease_not_released")["level"] == "ERROR"


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
    (call,) = calls
    assert call["VisibilityTimeout"] == pytest.approx(301, abs=3)
    assert call["ReceiptHandle"] == "receipt-0"
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
