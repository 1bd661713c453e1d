"""Roles and queues that were made for other software: rights that are missing, and limits that differ."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError
from media_worker import best_effort, reassembly
from media_worker.final_delivery import Delivery
from media_worker.jobs import JobStatus
from media_worker.keys import build_final_key
from media_worker.queues import max_receive_count
from media_worker.s3 import write_once

from tests.functional.conftest import ClipMaker
from tests.functional.logs import Logs
from tests.functional.stack import INPUT, OUTPUT, Stack, s3_event

# What a role may lack, and what the log says then.
RIGHTS = {
    "ListMultipartUploads": "uploads_not_listed",
    "ChangeMessageVisibility": "visibility_not_changed",
    "GetQueueAttributes": "redrive_policy_not_read",
}


@pytest.fixture(autouse=True)
def new_process() -> Iterator[None]:
    """Nothing was logged yet."""
    best_effort._logged.clear()
    yield
    best_effort._logged.clear()


def deny(stack: Stack, *operations: str) -> None:
    """Refuse these operations, as IAM does."""

    def refuse(model: Any, **_: Any) -> None:
        if model.name in operations:
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "not authorized"}}, model.name)

    for client in (stack.aws.s3, stack.aws.sqs):
        client.meta.events.register("before-parameter-build", refuse)


def run(stack: Stack, job_id: str) -> None:
    assert stack.chunk(job_id) == []
    stack.process_segments(job_id)
    assert stack.reassemble(job_id) == []


@pytest.mark.parametrize("operation", [*RIGHTS, "all of them"])
def test_a_job_completes_without_the_rights_to_clean_up(
    stack: Stack, clip: ClipMaker, logs: Logs, operation: str
) -> None:
    """A missing right is logged once in the life of a process, not once for each job."""
    operations = list(RIGHTS) if operation == "all of them" else [operation]
    deny(stack, *operations)
    for job_id in ("job-1", "job-2"):
        stack.add_job(job_id)
        stack.upload(clip("no_audio"), job_id)
        run(stack, job_id)
        assert stack.job(job_id).status is JobStatus.COMPLETED
    for each in operations:
        (line,) = logs.all(RIGHTS[each])
        assert line["level"] == "WARNING"
        assert "not authorized" in line["reason"]


def test_a_job_completes_without_the_right_to_abort(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """The uploads of a dead attempt stay for the lifecycle rule."""
    for number in range(2):
        stack.aws.s3.create_multipart_upload(Bucket=INPUT, Key=f"segments/job-1/{number:05d}_00003_sbs.mp4")
    deny(stack, "AbortMultipartUpload")
    stack.add_job()
    stack.upload(clip("no_audio"))
    run(stack, "job-1")
    assert stack.job().status is JobStatus.COMPLETED
    assert len(logs.all("upload_not_aborted")) == 1


def test_a_deleted_job_ends_without_the_right_to_tag(
    stack: Stack, clip: ClipMaker, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job was deleted during the join, and its final cannot be tagged: the message is acknowledged all the same."""
    stack.add_job()
    stack.upload(clip("no_audio"))
    assert stack.chunk() == []
    stack.process_segments()

    def delete(*args: Any, **options: Any) -> bool:
        stack.set_job(status={"S": "deleted"})
        return write_once(*args, **options)

    monkeypatch.setattr(reassembly, "write_once", delete)
    deny(stack, "PutObjectTagging")
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.DELETED
    assert stack.head(OUTPUT, build_final_key("job-1"))
    assert logs.one("expiry_not_set")


def test_a_failing_message_is_returned_without_a_back_off(stack: Stack, logs: Logs) -> None:
    """Without the right to change the visibility timeout, the message is delivered again when the queue's has ended."""
    deny(stack, "ChangeMessageVisibility")
    stack.aws.s3.meta.events.register("before-call.s3.GetObject", _fail)
    for _ in range(2):
        stack.add_job()
        assert stack.chunk() == ["message-0"]
    assert len(logs.all("visibility_not_changed")) == 1


def _fail(**_: Any) -> None:
    raise ConnectionClosedError(endpoint_url="http://127.0.0.1")


def _slow_down() -> None:
    raise ClientError({"Error": {"Code": "SlowDown", "Message": ""}}, "ListMultipartUploads")


def test_other_errors_are_logged_each_time(logs: Logs) -> None:
    """Only a missing right is known to be missing the next time."""
    for _ in range(2):
        with best_effort.best_effort("Not done", "not_done") as outcome:
            _slow_down()
        assert outcome.code == "SlowDown"
    assert len(logs.all("not_done")) == 2


# maxReceiveCount


def set_max_receive_count(stack: Stack, number: int) -> None:
    stack.aws.sqs.create_queue(QueueName="dead")
    policy = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:dead", "maxReceiveCount": number}
    stack.aws.sqs.set_queue_attributes(
        QueueUrl=stack.aws.settings.chunking_queue_url, Attributes={"RedrivePolicy": json.dumps(policy)}
    )


@contextmanager
def counted(stack: Stack) -> Iterator[list[str]]:
    calls: list[str] = []
    stack.aws.sqs.meta.events.register("before-call.sqs.GetQueueAttributes", lambda **_: calls.append("read"))
    yield calls


def test_the_queue_says_how_often_a_message_is_received(stack: Stack) -> None:
    """The setting says 6, but this queue has 4. It is read once in the life of a process."""
    set_max_receive_count(stack, 4)
    with counted(stack) as calls:
        for _ in range(3):
            assert max_receive_count(stack.aws, stack.aws.settings.chunking_queue_url) == 4
    assert calls == ["read"]
    assert stack.aws.settings.max_receive_count == 6


def test_a_queue_with_fewer_receives_fails_its_jobs_in_time(stack: Stack, clip: ClipMaker) -> None:
    """With 4 receives, the third is the last attempt. By the setting it would be the fifth, which never comes."""
    set_max_receive_count(stack, 4)
    stack.add_job()
    stack.upload(clip("no_audio"))
    stack.aws.s3.meta.events.register("before-call.s3.GetObject", _fail)
    assert stack.chunk(receive_count=2) == ["message-0"]
    assert stack.job().status is JobStatus.CHUNKING_IN_PROGRESS
    assert stack.chunk(receive_count=3) == ["message-0"]
    assert stack.job().status is JobStatus.FAILED
    assert "failed after 3 attempts" in str(stack.job().error)


def test_a_queue_with_more_receives_uses_them(stack: Stack) -> None:
    """The final delivery of this queue is the tenth."""
    set_max_receive_count(stack, 10)
    stack.add_job()
    stack.aws.s3.meta.events.register("before-call.s3.GetObject", _fail)
    for receive_count in (5, 6, 8):
        assert stack.chunk(receive_count=receive_count) == ["message-0"]
        assert stack.job().status is JobStatus.CHUNKING_IN_PROGRESS


def test_without_a_redrive_policy_the_setting_counts(stack: Stack) -> None:
    """So a job still fails, although its message would be received until it expires."""
    assert max_receive_count(stack.aws, stack.aws.settings.chunking_queue_url) == 6
    assert Delivery(5, 6).is_last_attempt


def test_a_queue_that_could_not_be_read_is_read_again(stack: Stack) -> None:
    """Only an answer is remembered."""
    set_max_receive_count(stack, 4)
    failures = iter([1])

    def fail_once(**_: Any) -> None:
        if next(failures, None):
            _fail()

    stack.aws.sqs.meta.events.register("before-call.sqs.GetQueueAttributes", fail_once)
    url = stack.aws.settings.chunking_queue_url
    assert [max_receive_count(stack.aws, url) for _ in range(2)] == [6, 4]


def test_the_event_of_a_queue_with_one_receive_is_handled(stack: Stack, clip: ClipMaker) -> None:
    """There is no final delivery beside the only attempt."""
    set_max_receive_count(stack, 1)
    stack.add_job()
    stack.upload(clip("no_audio"))
    assert stack.deliver(stack.chunking, s3_event("input/job-1/source.mp4")) == []
    assert stack.job().status is JobStatus.CHUNKING_COMPLETE
