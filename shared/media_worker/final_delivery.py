"""The final delivery of a message: it only records the failure.

An attempt that died (out of time, out of memory, the machine gone) cannot say so, and after the last receive SQS moves
the message to the dead-letter queue without a word. So the last receive is not used for an attempt. With a queue's
maxReceiveCount of n:

    receive 1 to n-1   attempts; an error on receive n-1 makes the job `failed`
    receive n          a job that is not `failed` yet becomes so if its attempts have died; if the receives were
                       used up by waiting for a lease, the message is re-enqueued to reset its receive count
    after that         SQS moves the message to the dead-letter queue
"""

from functools import partial
from typing import TYPE_CHECKING

from media_worker.errors import FailureRecorded, NothingToDo, ReceivesUsedUp
from media_worker.jobs import JobStatus, fail_job, read_job
from media_worker.lease import Lease, attempts_made, run_under_lease
from media_worker.s3 import abort_incomplete_uploads

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from media_worker.deadline import Context


def last_attempt(max_receive_count: int) -> int:
    """The receive that is used for the last attempt."""
    return max(1, max_receive_count - 1)


def record_failure(
    aws: "Aws", lease: Lease, context: "Context", statuses: frozenset[JobStatus], uploads: tuple[str, str]
) -> None:
    """Mark a job `failed` whose attempts have all died. `statuses` are those that belong to the stage; `uploads` is
    the bucket and key prefix of what it writes.

    Raises:
        NothingToDo: the job is gone, was cancelled or has moved on.
        LeaseHeld: somebody is working on it.
        ReceivesUsedUp: there were too few attempts to give up.
        FailureRecorded: the job is `failed`.
    """
    if read_job(aws, lease.job_id) is None:
        raise NothingToDo(f"there is no job {lease.job_id}")
    run_under_lease(aws, lease, context, partial(_record_failure, aws, lease, statuses, uploads))


def _record_failure(aws: "Aws", lease: Lease, statuses: frozenset[JobStatus], uploads: tuple[str, str]) -> None:
    """Always raises, so that the lease is released and not completed."""
    job = read_job(aws, lease.job_id)
    if job is None or job.cancelled_at or job.status in {JobStatus.COMPLETED, JobStatus.DELETED}:
        raise NothingToDo(f"job {lease.job_id} is {job.status if job else 'gone'}: there is no failure to record")
    if job.status in statuses:
        attempts = attempts_made(aws, lease) - 1  # this delivery took the lease too
        if attempts < last_attempt(aws.settings.max_receive_count):
            raise ReceivesUsedUp(f"job {lease.job_id} had {attempts} attempts; its other receives were waits")
        abort_incomplete_uploads(aws, *uploads)
        fail_job(
            aws,
            lease.job_id,
            f"failed after {attempts} attempts: the last one ended without reporting an error. It ran out of time or "
            "memory, or its machine was lost; see its log",
            statuses,
        )
    raise FailureRecorded(f"job {lease.job_id} is {job.status}: its message goes to the dead-letter queue")
