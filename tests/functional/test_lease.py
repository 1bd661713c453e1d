"""The lease: one holder at a time, given up after an error, taken over after a crash."""

import json
import time
from collections.abc import Mapping
from typing import Any

import pytest
from media_worker import jobs
from media_worker.errors import LeaseHeld, NothingToDo, RetryableError
from media_worker.jobs import JobStatus
from media_worker.lease import LeaseLayer, LeasePlace, chunking_lease, reassembly_lease, run_under_lease

from tests.functional.conftest import ClipMaker
from tests.functional.logs import Logs
from tests.functional.stack import Stack

PLACES = ["chunking", "reassembly"]


def place_of(stack: Stack, name: str) -> LeasePlace:
    return chunking_lease(stack.aws) if name == "chunking" else reassembly_lease(stack.aws)


def row_of(stack: Stack, name: str) -> dict[str, Any]:
    return stack.row("Jobs" if name == "chunking" else "ReassemblyTriggered")


def hold(stack: Stack, name: str, expires_in_s: float) -> None:
    """Somebody else begins, and does not end."""
    now = int(time.time())
    stack.aws.dynamodb.update_item(
        TableName="Jobs" if name == "chunking" else "ReassemblyTriggered",
        Key={"job_id": {"S": "job-1"}},
        UpdateExpression=f"SET lease_holder = :other, lease_expires_at = :end, {name}_started_at = :now",
        ExpressionAttributeValues={
            ":other": {"S": "other"},
            ":end": {"N": str(int(now + expires_in_s))},
            ":now": {"N": str(now)},
        },
    )


class Work:
    """Work that counts how often it was done."""

    def __init__(self, error: Exception | None = None) -> None:
        self.done = 0
        self._error = error

    def __call__(self) -> Mapping[str, Any]:
        self.done += 1
        if self._error:
            raise self._error
        return {}


def run(stack: Stack, name: str, work: Any) -> None:
    run_under_lease(stack.aws, place_of(stack, name), "job-1", stack.context, work)


@pytest.mark.parametrize("name", PLACES)
def test_the_lease_is_written_while_the_work_goes_on(stack: Stack, name: str) -> None:
    """Holder, start, and an end when the invocation would end."""
    stack.add_job()
    seen: dict[str, Any] = {}

    def work() -> Mapping[str, Any]:
        seen.update(row_of(stack, name))
        return {}

    stack.context.remaining_ms = 120_000
    now = time.time()
    run(stack, name, work)
    assert int(seen[f"{name}_started_at"]["N"]) == pytest.approx(now, abs=3)
    assert int(seen["lease_expires_at"]["N"]) == pytest.approx(now + 120, abs=3)
    assert seen["lease_holder"]["S"]


@pytest.mark.parametrize("name", PLACES)
def test_a_lease_held_elsewhere_keeps_us_out_until_it_expires(stack: Stack, name: str) -> None:
    """Nothing is done; the error says when to come back."""
    stack.add_job()
    hold(stack, name, expires_in_s=50)
    work = Work()
    with pytest.raises(LeaseHeld) as caught:
        run(stack, name, work)
    assert caught.value.retry_after_s == pytest.approx(51, abs=2)
    assert work.done == 0
    assert row_of(stack, name)["lease_holder"]["S"] == "other"


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("expired_s", [0, 1, 1000])
def test_an_expired_lease_is_taken_over(stack: Stack, name: str, expired_s: int) -> None:
    """Its holder was killed; also in the very second in which it expires."""
    stack.add_job()
    hold(stack, name, expires_in_s=-expired_s)
    work = Work()
    run(stack, name, work)
    assert work.done == 1


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("error", [RuntimeError("broken"), RetryableError("later"), NothingToDo("no job")])
def test_an_error_gives_the_lease_up(stack: Stack, name: str, error: Exception) -> None:
    """Whoever comes next may begin at once; the error itself goes on, unwrapped."""
    stack.add_job()
    with pytest.raises(type(error), match=str(error)):
        run(stack, name, Work(error))
    assert not {"lease_holder", "lease_expires_at", f"{name}_started_at"} & set(row_of(stack, name))
    work = Work()
    run(stack, name, work)
    assert work.done == 1


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("error", [None, RuntimeError("broken")])
def test_a_holder_that_was_overtaken_leaves_its_successors_lease_alone(
    stack: Stack, logs: Logs, name: str, error: Exception | None
) -> None:
    """Neither its end nor its error releases or completes what is somebody else's now."""
    stack.add_job()

    def work() -> Mapping[str, Any]:
        hold(stack, name, expires_in_s=100)
        if error:
            raise error
        return {}

    try:
        run(stack, name, work)
    except RuntimeError:
        assert error
    row = row_of(stack, name)
    assert row["lease_holder"]["S"] == "other"
    assert "lease_expires_at" in row
    assert "reassembly_completed_at" not in row
    assert logs.the("the lease had expired and is somebody else's now")["level"] == "WARNING"


def test_a_finished_chunking_leaves_no_lease(stack: Stack) -> None:
    """The job's status says that it is done; a later run may begin."""
    stack.add_job()
    before = stack.row("Jobs")
    for _ in range(2):
        work = Work()
        run(stack, "chunking", work)
        assert work.done == 1
    assert stack.row("Jobs") == before


def test_a_finished_reassembly_is_not_done_again(stack: Stack) -> None:
    """The row keeps the contract's start and says when it was completed."""
    run(stack, "reassembly", Work())
    row = stack.row("ReassemblyTriggered")
    assert {"reassembly_started_at", "reassembly_completed_at"} <= set(row)
    assert not {"lease_holder", "lease_expires_at"} & set(row)
    again = Work()
    run(stack, "reassembly", again)
    assert again.done == 0


def test_a_message_sent_by_hand_gets_a_row_that_expires(stack: Stack) -> None:
    """Nobody triggered it: the lease writes what the contract asks of a row."""
    run(stack, "reassembly", Work())
    row = stack.row("ReassemblyTriggered")
    assert int(row["triggered_at"]["N"]) == pytest.approx(time.time(), abs=3)
    assert int(row["ttl"]["N"]) - int(row["triggered_at"]["N"]) == 30 * 24 * 3600


def test_a_triggered_row_keeps_its_times(stack: Stack) -> None:
    """The lease adds to the tracker's row and changes nothing in it."""
    item = {"job_id": {"S": "job-1"}, "triggered_at": {"N": "17"}, "ttl": {"N": "4000000000"}}
    stack.aws.dynamodb.put_item(TableName="ReassemblyTriggered", Item=item)
    run(stack, "reassembly", Work())
    row = stack.row("ReassemblyTriggered")
    assert {name: row[name] for name in item} == item


def test_a_job_that_is_deleted_meanwhile_is_not_made_again(stack: Stack) -> None:
    """The chunking's lease lives in the job's row, and never makes one."""
    work = Work()
    with pytest.raises(Exception, match="inconsistent"):
        run(stack, "chunking", work)
    assert work.done == 0
    assert stack.row("Jobs") == {}


def test_a_lease_without_an_end_is_refused(stack: Stack) -> None:
    """A lease that never expires would be a lock that a crash leaves for ever."""
    layer = LeaseLayer(stack.aws, reassembly_lease(stack.aws), "job-1")
    with (
        pytest.warns(UserWarning, match="remaining time"),
        pytest.raises(ValueError, match="a lease needs an end"),
    ):
        layer.save_inprogress({"job_id": "job-1"}, None)


def test_a_lease_that_cannot_be_released_does_not_hide_the_error(
    stack: Stack, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the work raised is raised; the lease expires by itself."""
    stack.add_job()

    def work() -> Mapping[str, Any]:
        stack.aws.dynamodb.delete_table(TableName="Jobs")
        raise RetryableError("what matters")

    with pytest.raises(RetryableError, match="what matters"):
        run(stack, "chunking", work)
    assert logs.the("the lease was not released; it will expire")["level"] == "ERROR"


# Through the handlers


def visibility_calls(stack: Stack) -> list[dict[str, Any]]:
    """What the handlers ask SQS for from now on."""
    calls: list[dict[str, Any]] = []
    stack.aws.sqs.meta.events.register(
        "before-call.sqs.ChangeMessageVisibility", lambda params, **_: calls.append(json.loads(params["body"]))
    )
    return calls


@pytest.mark.parametrize("name", PLACES)
def test_a_message_whose_job_is_worked_on_elsewhere_is_not_deleted(
    stack: Stack, clip: ClipMaker, logs: Logs, name: str
) -> None:
    """Two deliveries of one message share it: it is given back, invisible until the lease expires."""
    stack.add_job(status={"S": "created" if name == "chunking" else "chunking_complete"}, total_segments={"N": "1"})
    stack.upload(clip("no_audio"))
    hold(stack, name, expires_in_s=300)
    calls = visibility_calls(stack)
    answer = stack.chunk(receive_count=5) if name == "chunking" else stack.reassemble(receive_count=5)

    assert answer == ["message-0"]
    (call,) = calls
    assert call["VisibilityTimeout"] == pytest.approx(301, abs=3)
    assert call["ReceiptHandle"] == "receipt-0"
    assert logs.the("the message comes back")["failure"] == "LeaseHeld"
    assert stack.job().status is not JobStatus.FAILED, "the other one may well succeed"


def test_a_chunking_goes_on_after_a_crash(stack: Stack, clip: ClipMaker) -> None:
    """The lease has expired, the status says in progress: the next delivery takes over and keeps the run's begin."""
    stack.add_job(status={"S": "chunking_in_progress"}, run_started_at={"N": "17"})
    stack.upload(clip("plain"))
    hold(stack, "chunking", expires_in_s=-1)
    assert stack.chunk() == []
    assert stack.job().status is JobStatus.CHUNKING_COMPLETE
    assert stack.job().run_started_at == 17
    assert "chunking_started_at" not in stack.row("Jobs")


def test_a_job_that_is_deleted_between_two_looks_is_left_alone(
    stack: Stack, clip: ClipMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the lease the job is read again: what was `created` before may be `deleted` now."""
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
