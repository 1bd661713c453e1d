"""A state machine of one job: deliveries, crashes, expiries, redrives and deletions, on the real handler and moto."""

import tempfile
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from media_worker import chunking, jobs
from media_worker.errors import BadSource, TransferFailed
from media_worker.jobs import Job, JobStatus
from media_worker.s3 import StoredObject
from moto import mock_aws

from tests.crash.clock import Clock
from tests.crash.process import InvocationContext
from tests.functional.stack import INPUT, Stack, s3_event, sqs_event

SOURCE = StoredObject(INPUT, "input/job-1/source.mp4", 1000, "etag")

type Ending = Literal["done", "died", "error", "permanent"]


class Died(BaseException):
    """The process is killed: nothing catches this."""


class LeaseMachine(RuleBasedStateMachine):
    """Deliveries are real handler calls; the work under the lease is simulated."""

    @initialize()
    def begin(self) -> None:
        self._aws = mock_aws()
        self._aws.start()
        self._clock = Clock()
        self._patches = self._clock.patches()
        self._patches.__enter__()
        self._stack = Stack.create(Path(tempfile.gettempdir()))
        self._stack.add_job()
        finish_chunking = jobs.finish_chunking

        def finish(*args: Any) -> None:
            finish_chunking(*args)
            self._finished += 1

        self._work = ExitStack()
        self._work.enter_context(patch.object(chunking, "_find_source", lambda *_: SOURCE))
        self._work.enter_context(patch.object(chunking, "prepare_split", lambda *_: nullcontext(self)))
        self._work.enter_context(patch.object(jobs, "finish_chunking", finish))
        self._event = s3_event("input/job-1/source.mp4")
        # Receive count and time of visibility of each message in the queue.
        self._queue: list[list[float]] = [[0, 0.0]]
        self._dead_letters = 0
        self._depth = 0
        self._finished = 0
        self._ending: Ending = "done"
        self._intruders = 0
        self._takes_s = 0.0
        self._is_deleted = False

    def teardown(self) -> None:
        if hasattr(self, "_aws"):
            self._work.close()
            self._patches.__exit__(None, None, None)
            self._aws.stop()

    # The plan of a source, as chunking sees it.
    total_segments = 1

    def write_segments(self, job: Job) -> None:
        """The work: other deliveries arrive during it; then it ends in one of four ways."""
        assert self._depth == 0, "two work at once"
        self._depth += 1
        try:
            for _ in range(self._intruders):
                failures = self._call(1)
                status = self._stack.job().status
                assert failures or status is not JobStatus.CHUNKING_IN_PROGRESS, "a message was deleted too early"
            self._clock.ahead_s += self._takes_s
            if self._ending == "died":
                raise Died
            if self._ending == "error":
                raise TransferFailed("by chance")
            if self._ending == "permanent":
                raise BadSource("by chance")
        finally:
            self._depth -= 1

    def _call(self, receives: int) -> list[str]:
        """One invocation; the ids of the returned records. Raises Died."""
        event = sqs_event(self._event, receive_count=receives)
        answer = self._stack.chunking(event, InvocationContext(self._clock))
        return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]

    @precondition(lambda self: self._queue)
    @rule(
        ending=st.sampled_from(["done", "died", "died", "error", "permanent"]),
        intruders=st.integers(0, 2),
        takes_s=st.sampled_from([1.0, 100.0, 899.0]),
    )
    def deliver(self, ending: Ending, intruders: int, takes_s: float) -> None:
        """Receive a message: the redrive policy is applied first, then the function is invoked."""
        message = min(self._queue, key=lambda each: each[1])
        self._clock.ahead_s += max(0.0, message[1] - self._clock.time())
        if message[0] >= self._stack.aws.settings.max_receive_count:
            self._queue.remove(message)
            self._dead_letters += 1
            return
        message[0] += 1
        message[1] = self._clock.time() + 960
        self._ending, self._intruders, self._takes_s = ending, intruders, takes_s
        try:
            failures = self._call(int(message[0]))
        except Died:
            return
        if failures:
            message[1] = self._clock.time() + 5
        else:
            self._queue.remove(message)
        self._receive_new()

    @rule()
    def duplicate(self) -> None:
        """SQS or S3 delivers the event once more."""
        if len(self._queue) < 4:
            self._queue.append([0, self._clock.time()])

    @rule(seconds=st.sampled_from([1, 300, 1000]))
    def wait(self, seconds: int) -> None:
        """Leases expire."""
        self._clock.ahead_s += seconds

    @precondition(lambda self: self._dead_letters)
    @rule()
    def redrive(self) -> None:
        """A dead letter is redriven."""
        self._dead_letters -= 1
        self._queue.append([0, self._clock.time()])

    @rule()
    def delete(self) -> None:
        """The owner deletes the job."""
        self._is_deleted = True
        self._stack.add_job(status={"S": "deleted"})

    def _receive_new(self) -> None:
        sqs, url = self._stack.aws.sqs, self._stack.aws.settings.chunking_queue_url
        self._clock.ahead_s += 901  # a new message may be delayed
        for message in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
            sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            self._queue.append([0, self._clock.time()])

    @invariant()
    def a_deleted_job_stays_deleted(self) -> None:
        if hasattr(self, "_stack") and self._is_deleted:
            assert self._stack.job().status is JobStatus.DELETED

    @invariant()
    def the_work_is_finished_once(self) -> None:
        assert getattr(self, "_finished", 0) <= 1

    @invariant()
    def no_job_is_lost(self) -> None:
        """An unfinished job has a message, and a failed one has its reason."""
        if not hasattr(self, "_stack") or self._queue:
            return
        job = self._stack.job()
        assert job.status in {JobStatus.CHUNKING_COMPLETE, JobStatus.FAILED, JobStatus.DELETED}
        assert job.status is not JobStatus.FAILED or job.error


LeaseMachine.TestCase.settings = settings(
    max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestLease = LeaseMachine.TestCase
