"""The end of a message's receives: a job must not stay where it is when nobody will come back for it.

A try that died (out of time, out of memory, the machine gone) cannot say so, and after its last receive SQS moves the
message to the dead-letter queue without a word. So the last receive is not a try. Of a queue with maxReceiveCount n:

    receive 1 to n-1   the work is tried; an error on receive n-1 makes the job `failed`
    receive n          a job that is not `failed` by now is made so if its tries have died; if the receives were
                       used up by waiting for a lease, the message is replaced by a fresh one
    after that         SQS moves it to the dead-letter queue
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from media_worker.errors import GivenUp, NothingToDo, ReceivesUsedUp
from media_worker.jobs import JobStatus, fail_job, read_job
from media_worker.lease import LeasePlace, run_under_lease

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from media_worker.deadline import Context


@dataclass(frozen=True, slots=True)
class Stage:
    """Which jobs a stage may give up: what is another stage's by now is not its to fail."""

    statuses: frozenset[JobStatus]


CHUNKING = Stage(frozenset({JobStatus.CREATED, JobStatus.INGESTING, JobStatus.CHUNKING_IN_PROGRESS}))
REASSEMBLY = Stage(frozenset({JobStatus.CHUNKING_COMPLETE, JobStatus.REASSEMBLING}))


def last_try(max_receive_count: int) -> int:
    """The receive on which the work is tried for the last time."""
    return max(1, max_receive_count - 1)


def give_up(aws: "Aws", stage: Stage, place: LeasePlace, job_id: str, context: "Context") -> None:
    """What the last receive does instead of the work.

    Raises:
        NothingToDo: the job is gone or further on.
        LeaseHeld: somebody is at it right now.
        ReceivesUsedUp: the work was not tried often enough to give up.
        GivenUp: the job is failed.
    """
    if read_job(aws, job_id) is None:
        raise NothingToDo(f"there is no job {job_id}")
    ending = _Ending(aws, stage, job_id)
    run_under_lease(aws, place, job_id, context, ending.end, ending.hear_tries)


@dataclass(slots=True)
class _Ending:
    aws: "Aws"
    stage: Stage
    job_id: str
    tries: int = field(default=0, init=False)

    def hear_tries(self, taken: int) -> None:
        self.tries = taken - 1  # taking the lease for this was no try

    def end(self) -> Mapping[str, Any]:
        """Fail the job unless that is done, or not this stage's to do. Never returns: the lease is to be released."""
        job = read_job(self.aws, self.job_id)
        if job is None or job.status in {JobStatus.COMPLETED, JobStatus.DELETED}:
            raise NothingToDo(f"job {self.job_id} is {job.status if job else 'gone'}: there is nothing to give up")
        if job.status in self.stage.statuses:
            if self.tries < last_try(self.aws.settings.max_receive_count):
                raise ReceivesUsedUp(f"job {self.job_id} was tried {self.tries} times; the other receives were waits")
            fail_job(
                self.aws,
                self.job_id,
                f"gave up after {self.tries} tries: the last one ended without a word, out of time or of memory, or "
                "its machine was gone; its log says more",
                self.stage.statuses,
            )
        raise GivenUp(f"job {self.job_id} is {job.status}: its message goes to the dead-letter queue")
