"""The final delivery of a message: it only records the failure.

An attempt that died (out of time, out of memory, the machine gone) cannot say so, and once the receives exceed
maxReceiveCount, SQS moves the message to the dead-letter queue without a word
(https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-dead-letter-queues.html).
So the last receive is not used for an attempt. With a queue's maxReceiveCount of n:

    receive 1 to n-1   attempts; an error on receive n-1 makes the job `failed`
    receive n          a job that is not `failed` yet becomes so if its attempts have died; if the receives were
                       used up by waiting for a lease, the message is re-enqueued to reset its receive count
    after that         SQS moves the message to the dead-letter queue

SQS calls its receive count approximate, and a receive need not reach the function. The sweep (sweep.py) ends the jobs
whose final delivery was missed.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from media_worker.errors import FailureRecorded, NothingToDo, ReceivesUsedUp
from media_worker.jobs import JobStatus, fail_job, read_job
from media_worker.lease import Hold, Lease, attempts_made, run_under_lease
from media_worker.s3 import abort_incomplete_uploads

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from media_worker.deadline import Context


def last_attempt(max_receive_count: int) -> int:
    """The receive that is used for the last attempt."""
    return max(1, max_receive_count - 1)


@dataclass(frozen=True, slots=True)
class Delivery:
    """How far a message's receives have gone. Of `max_receive_count` receives, the final one is not an attempt."""

    receive_count: int
    max_receive_count: int

    @property
    def is_last_attempt(self) -> bool:
        """Whether no attempt is left after this one."""
        return self.receive_count >= last_attempt(self.max_receive_count)

    @property
    def is_final(self) -> bool:
        """Whether SQS moves the message to the dead-letter queue instead of delivering it again."""
        return self.receive_count > last_attempt(self.max_receive_count)


@dataclass(frozen=True, slots=True)
class Stage:
    """What a final delivery needs to know of its stage: the statuses that belong to it, and the bucket and key prefix
    of what it writes.
    """

    statuses: frozenset[JobStatus]
    uploads: tuple[str, str]


def record_failure(aws: "Aws", lease: Lease, context: "Context", delivery: Delivery, stage: Stage) -> None:
    """Mark a job `failed` whose attempts have all died.

    Raises:
        NothingToDo: the job is gone, was cancelled or has moved on.
        LeaseHeld: another invocation is working on it.
        ReceivesUsedUp: there were too few attempts to give up.
        FailureRecorded: the job is `failed`.
    """
    if read_job(aws, lease.job_id) is None:
        raise NothingToDo(f"there is no job {lease.job_id}")
    run_under_lease(aws, lease, context, partial(_record_failure, aws, lease, delivery, stage))


def _record_failure(aws: "Aws", lease: Lease, delivery: Delivery, stage: Stage, hold: Hold) -> None:
    """Always raises, so that the lease is released and not completed."""
    job = read_job(aws, lease.job_id)
    if job is None or job.cancelled_at or job.status in {JobStatus.COMPLETED, JobStatus.DELETED}:
        raise NothingToDo(f"job {lease.job_id} is {job.status if job else 'gone'}: there is no failure to record")
    if job.status in stage.statuses:
        attempts = attempts_made(aws, lease) - 1  # this delivery took the lease too
        if attempts < last_attempt(delivery.max_receive_count):
            raise ReceivesUsedUp(f"job {lease.job_id} had {attempts} attempts; its other receives were waits")
        abort_incomplete_uploads(aws, *stage.uploads, hold.until_s)
        fail_job(
            aws,
            lease.job_id,
            f"failed after {attempts} attempts: the last one ended without reporting an error. It ran out of time or "
            "memory, or its machine was lost; see its log",
            stage.statuses,
            fence=hold.fence,
        )
    raise FailureRecorded(f"job {lease.job_id} is {job.status}: its message goes to the dead-letter queue")
