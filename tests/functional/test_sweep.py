"""The sweep: an unfinished job that nothing can continue becomes `failed`, and no other job does."""

import datetime as dt
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError
from media_worker import sweep as sweep_module
from media_worker.attempts import Attempt, AttemptState, Failure, begin_attempt, read_attempts
from media_worker.aws import Aws
from media_worker.deadline import Deadline
from media_worker.errors import OperationRefused
from media_worker.jobs import JobStatus
from media_worker.keys import build_output_segment_key
from media_worker.operations import resend_segments
from media_worker.queues import read_dead_letters
from media_worker.settings import Settings
from media_worker.sweep import CONFIRM_S, IDLE_S, build_sweep_handler, sweep
from moto import mock_aws

from tests.crash.clock import Clock
from tests.functional.conftest import ClipMaker
from tests.functional.logs import Logs, metrics
from tests.functional.stack import ENVIRONMENT, INPUT, OUTPUT, Stack
from tests.functional.sweep_world import RECEIVES, SEGMENTS, SETTINGS, STAGES, World, complete_stack, key_of, url

DAY_S = 24 * 3600


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("media_worker.queues._LONG_POLL_S", 0)  # moto has one server
    clock = Clock()
    with mock_aws():
        stack = Stack.create(tmp_path, Aws.connect(Settings.from_environment(ENVIRONMENT | SETTINGS)))
        complete_stack(stack.aws)
        with clock.patches():
            yield World(stack, clock)


# Jobs that nothing can continue


@pytest.mark.parametrize("stage", STAGES)
def test_receives_that_never_reach_the_function_end_in_a_failed_job(world: World, logs: Logs, stage: str) -> None:
    """Throttled or failing starts used up the receives. The reason names the segment, and the message stays in the
    dead-letter queue for a redrive.
    """
    world.add_job_in(stage)
    world.receive_in_vain(stage)
    letters = world.depth(f"{stage}-dead")
    assert letters
    assert world.depth(stage) == 0
    world.sweep_for(IDLE_S + CONFIRM_S + 900)
    assert world.status() is JobStatus.FAILED
    assert f"was received {RECEIVES} times without success and is in the dead-letter queue" in world.error
    assert ("segment 0 was not processed" in world.error) == (stage == "segments")
    assert "`media-worker retry job-1`" in world.error
    assert world.depth(f"{stage}-dead") == letters
    assert len(world.receive(f"{stage}-dead", visibility_s=0)) == letters, "they are visible"
    assert logs.one("job_failed")["reason"] == world.error


@pytest.mark.parametrize("stage", STAGES)
def test_a_job_whose_message_is_gone_fails(world: World, stage: str) -> None:
    """It expired, or somebody purged the queue."""
    world.add_job_in(stage)
    world.aws.sqs.purge_queue(QueueUrl=url(stage))
    world.sweep_for(IDLE_S + CONFIRM_S + 900)
    assert world.status() is JobStatus.FAILED
    assert "it has expired, or was removed" in world.error
    assert ("segments 0-2 were not processed" in world.error) == (stage == "segments")


@pytest.mark.parametrize("stage", STAGES)
def test_a_message_cannot_be_older_than_its_retention_period(world: World, stage: str) -> None:
    """The queue is never empty, because other jobs have messages in it."""
    world.add_job_in(stage)
    world.aws.sqs.purge_queue(QueueUrl=url(stage))
    world.aws.sqs.send_message(QueueUrl=url(stage), MessageBody="of somebody else")
    world.sweep_for(4 * DAY_S, every_s=7200)
    assert world.status() is not JobStatus.FAILED
    world.sweep_for(2 * DAY_S, every_s=7200)
    assert world.status() is JobStatus.FAILED
    assert "its queue keeps messages for 4 days" in world.error


def test_the_reason_says_how_the_last_attempt_ended(world: World) -> None:
    """The worker recorded its error, and was killed before it could fail the job."""
    world.add_job_in("segments")
    world.complete(0)
    add_attempt(world, 1, state=AttemptState.FAILED, error="CUDA out of memory")
    world.aws.sqs.purge_queue(QueueUrl=url("segments"))
    world.sweep_for(IDLE_S + CONFIRM_S + 900)
    assert "segments 1-2 were not processed" in world.error
    assert "The last attempt on gpu-7 ended with: CUDA out of memory." in world.error


def test_a_killed_chunking_whose_message_was_its_last_fails(world: World) -> None:
    """Its lease has expired."""
    world.add_job_in("chunking")
    world.stack.set_job(
        status={"S": "chunking_in_progress"},
        chunking_started_at={"N": str(int(time.time()))},
        lease_holder={"S": "killed"},
        lease_expires_at={"N": str(int(time.time()) + 120)},
    )
    world.receive_in_vain("chunking")
    world.sweep_for(IDLE_S + CONFIRM_S + 900)
    assert world.status() is JobStatus.FAILED


def test_a_failed_job_is_retried_by_its_redriven_message(world: World, clip: ClipMaker) -> None:
    """The sweep's verdict is not the end: the cause was removed, and the message was redriven."""
    world.add_job_in("chunking")
    world.receive_in_vain("chunking")
    world.sweep_for(IDLE_S + CONFIRM_S + 900)
    world.stack.upload(clip("no_audio"))
    assert world.stack.chunk() == []
    assert world.status() is JobStatus.CHUNKING_COMPLETE
    assert world.error == ""


# Jobs that can go on


@pytest.mark.parametrize("stage", STAGES)
def test_a_job_with_a_waiting_message_is_left_alone(world: World, stage: str) -> None:
    """However long it waits: for days, no worker is running."""
    world.add_job_in(stage)
    world.sweep_for(3 * DAY_S, every_s=7200)
    assert world.status() is not JobStatus.FAILED
    assert "sweep_idle" not in world.stack.row("Jobs")


@pytest.mark.parametrize("stage", STAGES)
def test_a_message_in_flight_can_still_come(world: World, stage: str) -> None:
    """A worker without SegmentAttempts has hidden it for hours. Other messages are dead letters, of other jobs."""
    world.announce(stage, "job-of-somebody-else")
    world.receive_in_vain(stage)
    world.add_job_in(stage)
    assert world.receive(stage, visibility_s=6 * 3600)
    world.sweep_for(5 * 3600, every_s=1200)
    assert world.status() is not JobStatus.FAILED


@pytest.mark.parametrize("stage", ["chunking", "reassembly"])
def test_a_leased_job_is_left_alone(world: World, stage: str) -> None:
    """Somebody renews the lease, so somebody is at work."""
    world.add_job_in(stage)
    world.receive_in_vain(stage)
    for _ in range(20):
        world.clock.ahead_s += 300
        ends_at = str(int(time.time()) + 120)
        lease: dict[str, Any] = {"lease_expires_at": {"N": ends_at}, "lease_holder": {"S": "worker"}}
        if stage == "chunking":
            world.stack.set_job(status={"S": "chunking_in_progress"}, **lease)
        else:
            row = world.stack.row("ReassemblyTriggered") | lease
            world.aws.dynamodb.put_item(TableName="ReassemblyTriggered", Item=row)
        world.sweep()
    assert world.status() is not JobStatus.FAILED


def add_attempt(world: World, index: int, **changes: Any) -> None:
    now = int(time.time())
    attempt = Attempt("job-1", index, 1, "gpu-7", "message/1", started_at=now, heartbeat_at=now, expires_at=now + 85)
    assert begin_attempt(world.aws, replace(attempt, **changes)) is None


def test_a_job_with_a_running_attempt_is_left_alone(world: World) -> None:
    """One segment is a dead letter, and another is being processed: the job fails when that has ended."""
    world.add_job_in("segments")
    world.receive_in_vain("segments")
    for _ in range(20):
        world.clock.ahead_s += 300
        world.aws.dynamodb.delete_item(
            TableName="SegmentAttempts", Key={"job_id": {"S": "job-1"}, "segment_index": {"N": "2"}}
        )
        add_attempt(world, 2)
        world.sweep()
    assert world.status() is JobStatus.CHUNKING_COMPLETE
    world.sweep_for(IDLE_S + CONFIRM_S + 900)
    assert world.status() is JobStatus.FAILED


def test_an_attempt_that_died_is_recorded_as_failed(world: World) -> None:
    """The worker was killed in its last attempt. The failure is what `Segment Failed` is sent for."""
    world.add_job_in("segments")
    world.receive_in_vain("segments")
    add_attempt(world, 1, attempt=3, failures=(Failure(2, "gpu-6", 1, "out of memory"),))
    add_attempt(world, 0, state=AttemptState.DONE)
    world.complete(0)
    world.sweep_for(IDLE_S + CONFIRM_S + 900)
    assert world.status() is JobStatus.FAILED
    done, died = read_attempts(world.aws, "job-1")
    assert (done.state, done.failures) == (AttemptState.DONE, ())
    assert died.state is AttemptState.FAILED
    assert [(each.attempt, each.worker) for each in died.failures] == [(2, "gpu-6"), (3, "gpu-7")]
    assert died.error == "the worker ended without reporting an error"


def test_progress_between_two_sweeps_is_a_sign_of_life(world: World) -> None:
    """A worker without SegmentAttempts records a segment every quarter of an hour."""
    world.add_job_in("segments", total_segments={"N": "3"})
    world.aws.sqs.purge_queue(QueueUrl=url("segments"))
    for index in (2, 1):
        world.sweep_for(900)
        world.complete(index)
    world.sweep_for(900)
    assert world.status() is JobStatus.CHUNKING_COMPLETE
    world.complete(0)
    assert world.stack.reassembly_messages() == [{"job_id": "job-1"}]


def test_a_job_that_waits_for_its_upload_is_left_alone(world: World) -> None:
    """Nothing is in the queues, and nothing is expected there."""
    world.stack.add_job(created_at={"N": str(int(time.time()))})
    world.sweep_for(5 * DAY_S, every_s=7200)
    assert world.status() is JobStatus.CREATED


@pytest.mark.parametrize("status", ["completed", "failed", "deleted"])
def test_a_job_that_has_ended_is_not_looked_at(world: World, status: str) -> None:
    """Its row stays as it is."""
    world.add_job_in("chunking", status={"S": status})
    world.receive_in_vain("chunking")
    before = world.stack.row("Jobs")
    world.clock.ahead_s += DAY_S
    assert world.sweep().jobs == 0
    assert world.stack.row("Jobs") == before


def test_one_look_is_not_enough(world: World) -> None:
    """The depth of a queue is approximate: a job is suspected first, and failed by a later sweep."""
    world.add_job_in("chunking")
    world.receive_in_vain("chunking")
    world.clock.ahead_s += IDLE_S + 60
    assert world.sweep().report() == {"jobs": 1, "suspected": 1, "failed": 0}
    assert world.status() is JobStatus.CREATED
    assert world.sweep().failed == 0, "too soon"
    world.clock.ahead_s += CONFIRM_S
    assert world.sweep().failed == 1


def test_a_suspicion_ends_when_a_message_appears(world: World) -> None:
    """A second one begins if that message is lost too."""
    world.add_job_in("chunking")
    world.aws.sqs.purge_queue(QueueUrl=url("chunking"))
    world.clock.ahead_s += IDLE_S + 60
    world.sweep()
    world.announce("chunking")
    world.clock.ahead_s += CONFIRM_S + 1
    world.sweep()
    assert "sweep_idle" not in world.stack.row("Jobs")
    (message,) = world.receive("chunking", visibility_s=30)
    world.aws.sqs.delete_message(QueueUrl=url("chunking"), ReceiptHandle=message["ReceiptHandle"])
    assert world.sweep().report() == {"jobs": 1, "suspected": 1, "failed": 0}


def test_a_step_between_looking_and_failing_saves_the_job(
    world: World, clip: ClipMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message was delivered at the last moment: chunking removes the mark, so the sweep's write is refused."""
    world.add_job_in("chunking")
    world.stack.upload(clip("no_audio"))
    world.aws.sqs.purge_queue(QueueUrl=url("chunking"))
    world.sweep_for(IDLE_S + 300)
    world.clock.ahead_s += CONFIRM_S
    fail = sweep_module._fail

    def late(*arguments: Any) -> bool:
        world.stack.chunk()
        return fail(*arguments)

    monkeypatch.setattr(sweep_module, "_fail", late)
    assert world.sweep().failed == 0
    assert world.status() is JobStatus.CHUNKING_COMPLETE


def test_an_old_dead_letter_says_nothing_about_a_new_upload(world: World) -> None:
    """The source was uploaded once more, and that message waits."""
    world.add_job_in("chunking")
    world.receive_in_vain("chunking")
    world.clock.ahead_s += 120
    modified = time.time()
    world.announce("chunking")
    head = "after-call.s3.HeadObject"
    world.aws.s3.meta.events.register(head, lambda parsed, **_: parsed.update(LastModified=_at(modified)))
    world.sweep_for(2 * DAY_S, every_s=7200)
    assert world.status() is JobStatus.CREATED


def _at(seconds: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(seconds, dt.UTC)


# What the sweep costs, and what it does not touch


def calls_of(aws: Aws) -> Counter[str]:
    calls: Counter[str] = Counter()
    for client in (aws.s3, aws.sqs, aws.dynamodb):
        client.meta.events.register("before-call.*.*", lambda model, **_: calls.update([model.name]))
    return calls


def test_two_hundred_jobs_at_work_cost_a_few_reads_each(world: World) -> None:
    """Their messages wait in the queue. Nothing is scanned, received or written."""
    for number in range(200):
        world.add_job_in("segments", f"job-{number}")
    world.clock.ahead_s += IDLE_S + 60
    calls = calls_of(world.aws)
    assert world.sweep().jobs == 200
    assert calls["GetItem"] == 200
    assert calls["Query"] <= 5 + 2 * 200
    assert set(calls) == {"GetItem", "Query", "GetQueueAttributes"}
    assert calls["GetQueueAttributes"] <= 6


def test_a_reassembly_that_nobody_has_requested_is_requested(world: World) -> None:
    """The last worker died between its completion and the request."""
    world.add_job_in("segments")
    for index in range(SEGMENTS):
        uri = f"s3://{OUTPUT}/{build_output_segment_key('job-1', index)}"
        row = {"job_id": {"S": "job-1"}, "segment_index": {"N": str(index)}, "output_s3_uri": {"S": uri}}
        world.aws.dynamodb.put_item(TableName="SegmentCompletions", Item=row)
    world.sweep()
    assert world.stack.reassembly_messages() == [{"job_id": "job-1"}]


def test_dead_letters_are_read_and_stay(world: World) -> None:
    """25 messages are more than one receive returns. Reading them twice shows that they are visible again."""
    for number in range(25):
        world.aws.sqs.send_message(QueueUrl=url("chunking-dead"), MessageBody=str(number))
    for _ in range(2):
        found = read_dead_letters(world.aws, url("chunking-dead"))
        assert sorted(int(letter.body) for letter in found) == list(range(25))
        assert {round(letter.sent_at_s / 60) for letter in found} <= {round(time.time() / 60) + n for n in (-1, 0)}
    assert world.depth("chunking-dead") == 25


def test_a_dead_letter_queue_with_a_redrive_policy_is_not_read(world: World) -> None:
    """Each receive would bring its messages nearer to the next queue."""
    policy = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:segments-dead", "maxReceiveCount": 3}
    attributes: Any = {"RedrivePolicy": json.dumps(policy)}
    world.aws.sqs.set_queue_attributes(QueueUrl=url("chunking-dead"), Attributes=attributes)
    world.aws.sqs.send_message(QueueUrl=url("chunking-dead"), MessageBody="1")
    calls = calls_of(world.aws)
    assert read_dead_letters(world.aws, url("chunking-dead")) == []
    assert "ReceiveMessage" not in calls


def test_a_row_that_cannot_be_used_does_not_stop_the_sweep(world: World, logs: Logs) -> None:
    """The other jobs are looked at all the same."""
    world.add_job_in("chunking", "a-bad-one", mode={"S": "No Mode"})
    world.add_job_in("chunking")
    world.receive_in_vain("chunking")
    world.sweep_for(IDLE_S + CONFIRM_S + 900)
    assert world.status() is JobStatus.FAILED
    assert "No Mode" in logs.all("job_not_examined")[0]["reason"]


def test_dead_letters_that_nobody_understands_are_ignored(world: World) -> None:
    """They are about no job."""
    for stage in STAGES:
        world.aws.sqs.send_message(QueueUrl=url(f"{stage}-dead"), MessageBody="rubbish")
    world.add_job_in("chunking")
    world.sweep_for(2 * IDLE_S)
    assert world.status() is JobStatus.CREATED


def test_the_sweep_stops_in_time(world: World, logs: Logs) -> None:
    """The next one goes on."""
    world.add_job_in("chunking")
    world.stack.context.remaining_ms = 20_000
    assert world.sweep().jobs == 0
    assert logs.one("sweep_stopped")["level"] == "WARNING"


def test_the_handler_answers_with_its_counts(world: World) -> None:
    """For whoever invokes the function by hand."""
    world.add_job_in("chunking")
    answer = build_sweep_handler(world.aws)({"source": "aws.scheduler"}, world.stack.context)
    assert answer == {"jobs": 1, "suspected": 0, "failed": 0}


def test_a_failed_job_is_counted(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    """The handler prints the metric `JobsFailed`, which the dashboard shows."""
    world.add_job_in("chunking")
    world.aws.sqs.purge_queue(QueueUrl=url("chunking"))
    handler = build_sweep_handler(world.aws)
    for _ in range(6):
        world.clock.ahead_s += 600
        handler({"source": "aws.scheduler"}, world.stack.context)
    assert world.status() is JobStatus.FAILED
    assert [found["JobsFailed"] for found in metrics(capsys) if "JobsFailed" in found] == [[1.0]]


def test_without_the_segment_queue_split_jobs_are_left_alone(world: World) -> None:
    """Nobody knows where the messages of their workers are."""
    world.add_job_in("segments")
    world.aws.sqs.purge_queue(QueueUrl=url("segments"))
    unknown = replace(world.aws, settings=replace(world.aws.settings, segment_queue_url=None))
    for _ in range(10):
        world.clock.ahead_s += 600
        sweep(unknown, Deadline(world.stack.context))
    assert world.status() is JobStatus.CHUNKING_COMPLETE


# Announcing segments again


def segments_in_queue(world: World) -> list[str]:
    bodies = [json.loads(message["Body"]) for message in world.receive("segments", visibility_s=30)]
    return sorted(body["Records"][0]["s3"]["object"]["key"] for body in bodies)


def test_resending_announces_what_is_not_processed(world: World) -> None:
    """The messages had expired. Dead letters from before do not count any more."""
    world.add_job_in("segments")
    world.receive_in_vain("segments")
    world.complete(1)
    world.clock.ahead_s += 300
    outcome = resend_segments(world.aws, "job-1")
    assert outcome.changed
    assert segments_in_queue(world) == [key_of(0), key_of(2)]
    world.sweep_for(2 * DAY_S, every_s=7200)
    assert world.status() is JobStatus.CHUNKING_COMPLETE


def test_resending_a_failed_job_lets_it_go_on(world: World) -> None:
    """The sweep failed it, because its messages had expired."""
    world.add_job_in("segments")
    world.aws.sqs.purge_queue(QueueUrl=url("segments"))
    world.sweep_for(IDLE_S + CONFIRM_S + 900)
    assert world.status() is JobStatus.FAILED
    resend_segments(world.aws, "job-1")
    assert world.status() is JobStatus.CHUNKING_COMPLETE
    assert segments_in_queue(world) == [key_of(index) for index in range(SEGMENTS)]


@pytest.mark.parametrize("status", ["created", "chunking_in_progress", "reassembling", "completed", "deleted"])
def test_resending_needs_a_job_that_waits_for_segments(world: World, status: str) -> None:
    """Any other job has no use for the messages."""
    world.add_job_in("segments", status={"S": status})
    with pytest.raises(OperationRefused, match=status):
        resend_segments(world.aws, "job-1")


def test_resending_needs_the_segments(world: World) -> None:
    """They have expired."""
    world.add_job_in("segments")
    world.aws.s3.delete_object(Bucket=INPUT, Key=key_of(1))
    with pytest.raises(OperationRefused, match="segments 1 of job job-1 do not exist any more"):
        resend_segments(world.aws, "job-1")


# A sweep that dies or fails in the middle


class Killed(BaseException):
    """The process is gone: nothing catches this."""


@contextmanager
def interrupted(aws: Aws, at_call: int, error: BaseException) -> Iterator[None]:
    """Raise an error before one of the calls in the body, and end the body with it."""
    calls = count()

    def raise_error(**_: Any) -> None:
        if next(calls) == at_call:
            raise error

    clients = (aws.s3, aws.sqs, aws.dynamodb)
    for client in clients:
        client.meta.events.register_first("before-call.*.*", raise_error)
    with suppress(type(error)):
        yield
    for client in clients:
        client.meta.events.unregister("before-call.*.*", raise_error)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    "error", [Killed(), ConnectionClosedError(endpoint_url="http://127.0.0.1")], ids=["killed", "closed"]
)
@pytest.mark.parametrize("at_call", range(0, 20, int(os.environ.get("SWEEP_CALLS_EVERY", "3"))))
def test_a_sweep_may_die_at_every_call(world: World, stage: str, error: BaseException, at_call: int) -> None:
    """The next ones finish its work: the job fails once, and its dead letters are visible again."""
    world.add_job_in(stage)
    world.receive_in_vain(stage)
    letters = world.depth(f"{stage}-dead")
    world.clock.ahead_s += IDLE_S + 60
    world.sweep()
    world.clock.ahead_s += CONFIRM_S + 60
    with interrupted(world.aws, at_call, error):
        world.sweep()
    world.sweep_for(CONFIRM_S + 600)
    assert world.status() is JobStatus.FAILED
    assert world.depth(f"{stage}-dead") == letters
