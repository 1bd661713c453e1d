"""The final delivery of a message only records the failure of attempts that have died."""

from typing import Any

import pytest
from media_worker.jobs import JobStatus

from tests.functional.logs import Logs
from tests.functional.stack import Stack

FINAL = 6  # the tests' queues have a maxReceiveCount of 6: five attempts, and the final delivery
STAGES = {"chunking": "chunking_in_progress", "reassembly": "reassembling"}


def add_died_job(stack: Stack, stage: str, attempts: int, **attributes: Any) -> None:
    """A job whose attempts took the lease and died; the last lease has expired."""
    lease: dict[str, Any] = {
        "lease_attempts": {"N": str(attempts)},
        f"{stage}_started_at": {"N": "1"},
        "lease_holder": {"S": "a dead process"},
        "lease_expires_at": {"N": "2"},
    }
    stack.add_job(**{"status": {"S": STAGES[stage]}, "total_segments": {"N": "1"}} | attributes)
    if stage == "chunking":
        stack.set_job(**lease)
    else:
        item = {"job_id": {"S": "job-1"}, "triggered_at": {"N": "1"}, "ttl": {"N": "9"}} | lease
        stack.aws.dynamodb.put_item(TableName="ReassemblyTriggered", Item=item)


def deliver(stack: Stack, stage: str) -> list[str]:
    return stack.chunk(receive_count=FINAL) if stage == "chunking" else stack.reassemble(receive_count=FINAL)


def re_enqueued(stack: Stack, stage: str) -> int:
    settings = stack.aws.settings
    url = settings.chunking_queue_url if stage == "chunking" else settings.reassembly_queue_url
    names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesDelayed"]
    answer = stack.aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)
    return sum(map(int, answer["Attributes"].values()))


@pytest.mark.parametrize("stage", STAGES)
def test_a_job_whose_attempts_all_died_becomes_failed(stack: Stack, stage: str) -> None:
    """The message is returned, so that SQS moves it to the dead-letter queue; the job has the reason."""
    add_died_job(stack, stage, attempts=5)
    assert deliver(stack, stage) == ["message-0"]
    assert stack.job().status is JobStatus.FAILED
    assert (stack.job().error or "").startswith("failed after 5 attempts: the last one ended without reporting")
    assert re_enqueued(stack, stage) == 0


@pytest.mark.parametrize("stage", STAGES)
def test_waits_do_not_end_in_the_dead_letter_queue(stack: Stack, logs: Logs, stage: str) -> None:
    """Receives that waited for a lease were no attempts: the message is re-enqueued, and the job goes on."""
    add_died_job(stack, stage, attempts=2)
    assert deliver(stack, stage) == []
    assert stack.job().status == STAGES[stage]
    assert re_enqueued(stack, stage) == 1
    assert logs.one("record_reenqueued")["failure"] == "ReceivesUsedUp"


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("status", ["completed", "deleted"])
def test_a_job_that_has_ended_has_no_failure_to_record(stack: Stack, stage: str, status: str) -> None:
    """The message is acknowledged, and the row keeps its status."""
    add_died_job(stack, stage, attempts=5, status={"S": status})
    assert deliver(stack, stage) == []
    assert stack.job().status == status


@pytest.mark.parametrize("stage", STAGES)
def test_a_job_that_is_gone_is_acknowledged(stack: Stack, logs: Logs, stage: str) -> None:
    """There is no row to write the failure to."""
    assert deliver(stack, stage) == []
    assert logs.one("nothing_to_do")["reason"] == "there is no job job-1"


def test_a_job_that_has_moved_on_belongs_to_the_next_stage(stack: Stack) -> None:
    """The final delivery of a reassembly message does not fail a job that is being split again."""
    add_died_job(stack, "reassembly", attempts=5, status={"S": "chunking_in_progress"})
    assert deliver(stack, "reassembly") == ["message-0"]
    assert stack.job().status is JobStatus.CHUNKING_IN_PROGRESS
