"""The functions as one process: it polls, handles, deletes and gives back, and stops with nothing half done."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from media_worker import ffmpeg_engine, main
from media_worker.jobs import JobStatus
from media_worker.keys import build_source_key
from media_worker.main import LocalContext, build_event, serve
from media_worker.storage import write_once

from tests.functional.conftest import ClipMaker
from tests.functional.logs import Logs
from tests.functional.stack import ENVIRONMENT, Stack, s3_event

CHUNKING, REASSEMBLY = ENVIRONMENT["CHUNKING_QUEUE_URL"], ENVIRONMENT["REASSEMBLY_QUEUE_URL"]


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll of an empty queue takes a second of a test, not five."""
    monkeypatch.setattr(main, "_LONG_POLL_S", 1)
    monkeypatch.setattr(main, "_PAUSE_AFTER_ERROR_S", 0.05)


@contextmanager
def serving(stack: Stack) -> Iterator[threading.Event]:
    """The functions at work beside the body."""
    stop = threading.Event()
    worker = threading.Thread(target=serve, args=(stack.aws, stop))
    worker.start()
    try:
        yield stop
    finally:
        stop.set()
        worker.join(30)
        assert not worker.is_alive()


def wait_until(true: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 30
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.05)


def send(stack: Stack, url: str, body: Any) -> None:
    stack.aws.sqs.send_message(QueueUrl=url, MessageBody=body if isinstance(body, str) else json.dumps(body))


def messages(stack: Stack, url: str) -> tuple[int, int]:
    """How many wait, and how many are in somebody's hands or hidden."""
    attributes = stack.aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return int(attributes["ApproximateNumberOfMessages"]), int(attributes["ApproximateNumberOfMessagesNotVisible"])


def test_a_video_goes_through_both_queues(stack: Stack, clip: ClipMaker) -> None:
    """From the S3 event to the final, with the very same handlers; what is done is deleted."""
    stack.add_job()
    stack.upload(clip("no_audio"))
    with serving(stack):
        send(stack, CHUNKING, s3_event(build_source_key("job-1")))
        wait_until(lambda: stack.job().status is JobStatus.CHUNKING_COMPLETE, "the source was not cut")
        stack.process_segments()
        wait_until(lambda: stack.job().status is JobStatus.COMPLETED, "the segments were not joined")
    assert messages(stack, CHUNKING) == messages(stack, REASSEMBLY) == (0, 0)


def test_what_has_to_come_back_is_not_deleted(stack: Stack, logs: Logs) -> None:
    """It stays in the queue, hidden for the back-off."""
    stack.add_job(status={"S": "chunking_complete"}, total_segments={"N": "1"})
    with serving(stack):
        send(stack, REASSEMBLY, {"job_id": "job-1"})
        wait_until(lambda: logs.named("the message comes back"), "the message was not handled")
        wait_until(lambda: messages(stack, REASSEMBLY) == (0, 1), "the message is gone")
    assert logs.the("the message comes back")["delay_s"] == 5
    assert logs.the("the message comes back")["receive_count"] == 1


def test_a_message_that_nobody_understands_ends_in_the_dead_letter_queue(stack: Stack, logs: Logs) -> None:
    """It comes back at once until the redrive policy takes it away."""
    dead = stack.aws.sqs.create_queue(QueueName="dead")["QueueUrl"]
    policy = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:dead", "maxReceiveCount": "3"}
    stack.aws.sqs.set_queue_attributes(QueueUrl=CHUNKING, Attributes={"RedrivePolicy": json.dumps(policy)})
    with serving(stack):
        send(stack, CHUNKING, "not json")
        wait_until(lambda: messages(stack, dead)[0] == 1, "it is not in the dead-letter queue")
    assert [line["receive_count"] for line in logs.named("the message comes back")] == [1, 2, 3]
    (letter,) = stack.aws.sqs.receive_message(QueueUrl=dead)["Messages"]
    assert letter["Body"] == "not json"


def test_the_message_in_hand_is_finished(stack: Stack, clip: ClipMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop comes while the segments are uploaded: the job is chunked, the message deleted, then it ends."""
    uploading, go_on = threading.Event(), threading.Event()

    def wait_for_stop(*args: Any) -> bool:
        uploading.set()
        assert go_on.wait(20)
        return write_once(*args)

    monkeypatch.setattr(ffmpeg_engine, "write_once", wait_for_stop)
    stack.add_job()
    stack.upload(clip("no_audio"))
    with serving(stack) as stop:
        send(stack, CHUNKING, s3_event(build_source_key("job-1")))
        assert uploading.wait(20)
        stop.set()
        go_on.set()
    assert stack.job().status is JobStatus.CHUNKING_COMPLETE
    assert messages(stack, CHUNKING) == (0, 0)


def test_an_error_of_the_queue_does_not_end_the_polling(stack: Stack, logs: Logs) -> None:
    """A poller that ends would be a queue that stands still."""
    stack.aws.sqs.delete_queue(QueueUrl=CHUNKING)
    with serving(stack):
        wait_until(lambda: len(logs.named("polling failed; going on")) > 1, "it polled once")
        stack.aws.sqs.create_queue(QueueName="chunking")
        send(stack, CHUNKING, "not json")
        wait_until(lambda: logs.named("the message comes back"), "the polling has ended")


def test_two_messages_at_a_time_keep_their_logs_apart(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """Each queue has its thread, and each line its own job."""
    for job_id in ("job-1", "job-2"):
        stack.add_job(job_id)
        stack.upload(clip("no_audio"), job_id)
    assert stack.chunk() == []
    stack.process_segments()
    with serving(stack):
        send(stack, CHUNKING, s3_event(build_source_key("job-2")))
        wait_until(lambda: stack.job().status is JobStatus.COMPLETED, "job-1 was not joined")
        wait_until(lambda: stack.job("job-2").status is JobStatus.CHUNKING_COMPLETE, "job-2 was not cut")
    assert {line["job_id"] for line in logs.named("job completed")} == {"job-1"}
    assert {line["job_id"] for line in logs.named("segment written") if "job-2" in line["key"]} == {"job-2"}


def test_the_time_of_a_message_runs_out() -> None:
    """As Lambda's context says it, and never below zero."""
    context = LocalContext("chunking")
    assert context.get_remaining_time_in_millis() == pytest.approx(900_000, abs=1000)
    assert LocalContext("chunking", end=time.monotonic() - 5).get_remaining_time_in_millis() == 0
    assert LocalContext("chunking").aws_request_id != context.aws_request_id


def test_an_event_is_what_lambda_makes_of_a_message() -> None:
    """The handlers cannot tell the difference."""
    message: Any = {
        "MessageId": "id",
        "ReceiptHandle": "receipt",
        "Body": "body",
        "MD5OfBody": "md5",
        "Attributes": {"ApproximateReceiveCount": "3"},
    }
    (record,) = build_event(message, "https://queue")["Records"]
    assert record["messageId"] == "id"
    assert record["receiptHandle"] == "receipt"
    assert record["body"] == "body"
    assert record["attributes"] == {"ApproximateReceiveCount": "3"}
    assert record["eventSource"] == "aws:sqs"


# The program


def run_main(environ: dict[str, str]) -> "subprocess.Popen[str]":
    kept = {name: value for name, value in os.environ.items() if name.startswith(("COV", "PATH", "PYTHON"))}
    return subprocess.Popen(
        [sys.executable, "-m", "media_worker.main"],
        env=kept | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_bad_environment_is_named_in_one_line() -> None:
    """Exit 2, every variable at once, no traceback."""
    program = run_main(ENVIRONMENT | {"CHUNK_SEGMENT_DURATION_SEC": "soon", "JOBS_TABLE_NAME": ""})
    printed, complaint = program.communicate(timeout=30)
    assert program.returncode == 2
    assert printed == ""
    assert complaint.startswith("media-worker: the environment does not describe a stack: ")
    assert complaint.count("\n") == 1
    assert "JOBS_TABLE_NAME is not set" in complaint
    assert "CHUNK_SEGMENT_DURATION_SEC='soon' is not usable" in complaint


class EmptyQueue(BaseHTTPRequestHandler):
    """Has no message, whoever asks."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Print nothing."""


@pytest.fixture
def empty_queues() -> Iterator[str]:
    """The address of queues without a message."""
    with ThreadingHTTPServer(("127.0.0.1", 0), EmptyQueue) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_program_well(empty_queues: str, number: signal.Signals) -> None:
    """Exit 0, no traceback."""
    cloud = {"AWS_ENDPOINT_URL": empty_queues, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    program = run_main(ENVIRONMENT | cloud)
    assert program.stdout
    assert '"polling"' in program.stdout.readline()
    program.send_signal(number)
    _, complaint = program.communicate(timeout=60)
    assert program.returncode == 0
    assert complaint == ""
