"""A state machine of one job on the real handler and moto: deliveries, crashes, pauses, redrives and deletions."""

import tempfile
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

import hypothesis.strategies as st
import moto.sqs.models
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from media_worker import chunking, handlers, jobs, lease
from media_worker.errors import BadSource, TransferFailed
from media_worker.jobs import JobStatus
from media_worker.plan import Plan, PlannedSegment, PlannedSource
from media_worker.queues import VISIBILITY_S
from media_worker.s3 import StoredObject
from moto import mock_aws

from tests.crash.clock import StoppedClock
from tests.crash.process import InvocationContext
from tests.functional.stack import INPUT, Stack, s3_event, sqs_event

SOURCE = StoredObject(INPUT, "input/job-1/source.mp4", 1000, "etag")
SECOND = Fraction(1)
PLAN = Plan(
    PlannedSource(SOURCE.key, SOURCE.etag, SOURCE.size_bytes),
    "copy",
    SECOND,
    1000,
    (PlannedSegment(0, 0, 25, Fraction(0), SECOND, SECOND / 25),),
)

type Ending = Literal["done", "died", "error", "permanent"]
endings = st.sampled_from(["done", "died", "died", "error", "permanent"])


class Died(BaseException):
    """The process is killed: nothing catches this."""


class LeaseMachine(RuleBasedStateMachine):
    """Deliveries are real handler calls; the work under the lease and the passing of time are simulated."""

    @initialize()
    def begin(self) -> None:
        self._aws = mock_aws()
        self._aws.start()
        self._clock = StoppedClock()
        self._patches = self._clock.patches()
        self._patches.__enter__()
        self._stack = Stack.create(Path(tempfile.gettempdir()))
        self._stack.add_job()
        self._beats: list[Callable[[], bool]] = []
        finish_chunking = jobs.finish_chunking

        def finish(*args: Any) -> None:
            is_first = self._stack.job().status is JobStatus.CHUNKING_IN_PROGRESS
            finish_chunking(*args)
            self._finished += is_first

        planned = (PLAN, SimpleNamespace(total_segments=0))
        self._work = ExitStack()
        for owner, name, stand_in in (
            (chunking, "_find_source", lambda *_: SOURCE),
            (chunking, "open_source", lambda *_: nullcontext(SimpleNamespace(movie=None))),
            (chunking, "_make_plan", lambda *_: planned),
            (chunking, "_carry_out", lambda *_: planned),
            (chunking, "_write_segments", lambda *_: self._write_segments()),
            (jobs, "finish_chunking", finish),
            (handlers, "Heartbeat", self._heartbeat),
            (lease, "Heartbeat", self._heartbeat),
            # moto delays messages by the real clock.
            (moto.sqs.models, "unix_time_millis", lambda *_: self._clock.time() * 1000),
        ):
            self._work.enter_context(patch.object(owner, name, stand_in))
        self._event = s3_event("input/job-1/source.mp4")
        # Receive count and time of visibility of each message in the queue.
        self._queue: list[list[float]] = [[0, 0.0]]
        self._dead_letters = 0
        self._depth = 0
        self._finished = 0
        self._ending: Ending = "done"
        self._successor: Ending | None = None
        self._intruders = 0
        self._takes_s = 0
        self._is_deleted = False

    def teardown(self) -> None:
        if hasattr(self, "_aws"):
            self._work.close()
            self._patches.__exit__(None, None, None)
            self._aws.stop()

    # The heartbeat and the clock

    def _heartbeat(self, _interval_s: float, beat: Callable[[], bool]) -> Any:
        """A heartbeat that beats when the simulated time passes."""
        stack = ExitStack()
        self._beats.append(beat)
        stack.callback(lambda: self._beats.remove(beat) if beat in self._beats else None)
        return stack

    def _pass(self, seconds: int) -> None:
        """Time passes in a process that runs."""
        for _ in range(0, seconds, 30):
            self._clock.ahead_s += 30
            self._beats = [beat for beat in self._beats if beat()]

    def _pause(self, seconds: int) -> None:
        """Time passes while the process is paused: nothing beats."""
        self._clock.ahead_s += seconds

    # The work

    def _write_segments(self) -> None:
        """The work: other deliveries arrive during it; then it ends in one of four ways, perhaps after a pause."""
        assert self._depth == 0, "two work at once"
        self._depth += 1
        try:
            for _ in range(self._intruders):
                failures = self._call(1)
                status = self._stack.job().status
                assert failures or status is not JobStatus.CHUNKING_IN_PROGRESS, "a message was deleted too early"
            self._pass(self._takes_s)
        finally:
            self._depth -= 1
        ending = self._ending
        if self._successor:
            self._be_paused_while_another_works()
        if ending == "died":
            raise Died
        if ending == "error":
            raise TransferFailed("by chance")
        if ending == "permanent":
            raise BadSource("by chance")

    def _be_paused_while_another_works(self) -> None:
        """The process is stopped for longer than its lease, and another delivery takes over before it continues."""
        self._pause(300)
        self._ending, self._successor, self._intruders = self._successor or "done", None, 0
        beats, self._beats = self._beats, []
        try:
            self._call(1)
        except Died:
            pass
        finally:
            self._beats = beats

    def _call(self, receives: int) -> list[str]:
        """One invocation; the ids of the returned records. Raises Died."""
        event = sqs_event(self._event, receive_count=receives)
        answer = self._stack.chunking(event, InvocationContext(self._clock))
        return [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]

    @precondition(lambda self: self._queue)
    @rule(
        ending=endings,
        intruders=st.integers(0, 2),
        takes_s=st.sampled_from([1, 100, 840]),
        successor=st.one_of(st.none(), endings),
    )
    def deliver(self, ending: Ending, intruders: int, takes_s: int, successor: Ending | None) -> None:
        """Receive a message: the redrive policy is applied first, then the function is invoked."""
        message = min(self._queue, key=lambda each: each[1])
        self._clock.ahead_s += max(0.0, message[1] - self._clock.time())
        if message[0] >= self._stack.aws.settings.max_receive_count:
            self._queue.remove(message)
            self._dead_letters += 1
            return
        message[0] += 1
        self._ending, self._intruders, self._takes_s, self._successor = ending, intruders, takes_s, successor
        # The successor has received the same message, which is hidden for as long as its lease lasts.
        message[1] = self._clock.time() + takes_s + VISIBILITY_S
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
    def a_failure_is_not_that_of_a_paused_holder(self) -> None:
        """Once the work is finished, nobody marks the job `failed`."""
        if getattr(self, "_finished", 0) and not self._is_deleted:
            assert self._stack.job().status is JobStatus.CHUNKING_COMPLETE

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
