"""Both functions as one process: it polls, handles, deletes and returns messages, and finishes its work before it
stops.
"""

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
from pathlib import Path
from typing import Any

import pytest
from media_worker import chunking, main
from media_worker.engines.ffmpeg import find_ffmpeg
from media_worker.jobs import JobStatus
from media_worker.keys import build_source_key
from media_worker.main import LocalContext, build_event, serve
from media_worker.s3 import write_once

from tests.functional.conftest import ClipMaker
from tests.functional.logs import Logs
from tests.functional.stack import ENVIRONMENT, Stack, s3_event

CHUNKING, REASSEMBLY = ENVIRONMENT["CHUNKING_QUEUE_URL"], ENVIRONMENT["REASSEMBLY_QUEUE_URL"]


@pytest.fixture(autouse=True)
def short_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll an empty queue for one second instead of five."""
    monkeypatch.setattr(main, "_LONG_POLL_S", 1)
    monkeypatch.setattr(main, "_PAUSE_AFTER_ERROR_S", 0.05)


@contextmanager
def serving(stack: Stack) -> Iterator[threading.Event]:
    """Run the process in a thread during the body."""
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
    """The number of visible and of invisible messages."""
    attributes = stack.aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    return int(attributes["ApproximateNumberOfMessages"]), int(attributes["ApproximateNumberOfMessagesNotVisible"])


def test_a_video_goes_through_both_queues(stack: Stack, clip: ClipMaker) -> None:
    """The process takes a job from its S3 event to its final and deletes the messages."""
    stack.add_job()
    stack.upload(clip("no_audio"))
    with serving(stack):
        send(stack, CHUNKING, s3_event(build_source_key("job-1")))
        wait_until(lambda: stack.job().status is JobStatus.CHUNKING_COMPLETE, "the source was not chunked")
        stack.process_segments()
        wait_until(lambda: stack.job().status is JobStatus.COMPLETED, "the segments were not joined")
    assert messages(stack, CHUNKING) == messages(stack, REASSEMBLY) == (0, 0)


def test_a_returned_message_is_not_deleted(stack: Stack, logs: Logs) -> None:
    """It stays in the queue and is invisible during the back-off."""
    stack.add_job(status={"S": "chunking_complete"}, total_segments={"N": "1"})
    with serving(stack):
        send(stack, REASSEMBLY, {"job_id": "job-1"})
        wait_until(lambda: logs.all("record_returned"), "the message was not handled")
        wait_until(lambda: messages(stack, REASSEMBLY) == (0, 1), "the message is gone")
    assert logs.one("record_returned")["delay_s"] == 5
    assert logs.one("record_returned")["receive_count"] == 1


def test_a_malformed_message_ends_in_the_dead_letter_queue(stack: Stack, logs: Logs) -> None:
    """It is returned without a delay until the redrive policy moves it."""
    dead = stack.aws.sqs.create_queue(QueueName="dead")["QueueUrl"]
    policy = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:dead", "maxReceiveCount": "3"}
    stack.aws.sqs.set_queue_attributes(QueueUrl=CHUNKING, Attributes={"RedrivePolicy": json.dumps(policy)})
    with serving(stack):
        send(stack, CHUNKING, "not json")
        wait_until(lambda: messages(stack, dead)[0] == 1, "it is not in the dead-letter queue")
    assert [line["receive_count"] for line in logs.all("record_returned")] == [1, 2, 3]
    (letter,) = stack.aws.sqs.receive_message(QueueUrl=dead)["Messages"]
    assert letter["Body"] == "not json"


def test_the_current_message_is_finished(stack: Stack, clip: ClipMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop during the uploads: the source is chunked and the message deleted before the process ends."""
    uploading, go_on = threading.Event(), threading.Event()

    def wait_for_stop(*args: Any, **options: Any) -> bool:
        uploading.set()
        assert go_on.wait(20)
        return write_once(*args, **options)

    monkeypatch.setattr(chunking, "write_once", wait_for_stop)
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
    """Polling continues after an error of SQS."""
    stack.aws.sqs.delete_queue(QueueUrl=CHUNKING)
    with serving(stack):
        wait_until(lambda: len(logs.all("polling_failed")) > 1, "it polled once")
        stack.aws.sqs.create_queue(QueueName="chunking")
        send(stack, CHUNKING, "not json")
        wait_until(lambda: logs.all("record_returned"), "the polling has ended")


def test_two_messages_at_a_time_keep_their_logs_apart(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """Each queue has a thread of its own, and each log line has its own job id."""
    for job_id in ("job-1", "job-2"):
        stack.add_job(job_id)
        stack.upload(clip("no_audio"), job_id)
    assert stack.chunk() == []
    stack.process_segments()
    with serving(stack):
        send(stack, CHUNKING, s3_event(build_source_key("job-2")))
        wait_until(lambda: stack.job().status is JobStatus.COMPLETED, "job-1 was not joined")
        wait_until(lambda: stack.job("job-2").status is JobStatus.CHUNKING_COMPLETE, "job-2 was not chunked")
    assert {line["job_id"] for line in logs.all("job_completed")} == {"job-1"}
    assert {line["job_id"] for line in logs.all("segment_written") if "job-2" in line["key"]} == {"job-2"}


def test_the_remaining_time_decreases() -> None:
    """It is never negative, as in Lambda's context."""
    context = LocalContext("chunking")
    assert context.get_remaining_time_in_millis() == pytest.approx(900_000, abs=1000)
    assert LocalContext("chunking", end=time.monotonic() - 5).get_remaining_time_in_millis() == 0
    assert LocalContext("chunking").aws_request_id != context.aws_request_id


def test_an_event_looks_like_lambdas() -> None:
    """The record has the fields of an SQS event source mapping."""
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


def test_a_bad_environment_is_reported_in_one_line() -> None:
    """Exit code 2; the line names every bad variable, without a traceback."""
    program = run_main(ENVIRONMENT | {"CHUNK_SEGMENT_DURATION_SEC": "soon", "JOBS_TABLE_NAME": ""})
    printed, complaint = program.communicate(timeout=30)
    assert program.returncode == 2
    assert printed == ""
    assert complaint.startswith("media-worker: the environment does not describe a stack: ")
    assert complaint.count("\n") == 1
    assert "JOBS_TABLE_NAME is not set" in complaint
    assert "CHUNK_SEGMENT_DURATION_SEC='soon' is not usable" in complaint


def test_without_ffmpeg_it_does_not_start(tmp_path: Path) -> None:
    """Exit code 2 and one line, also for a program that is not ffmpeg."""
    for path, complaint in ((None, "there is no ffmpeg at /opt/bin/ffmpeg or on PATH"), ("/dev/null", "does not run")):
        environment = ENVIRONMENT | {"FFMPEG_PATH": path or "", "PATH": str(tmp_path)}
        program = run_main(environment)
        _, said = program.communicate(timeout=30)
        assert (program.returncode, said.count("\n")) == (2, 1)
        assert complaint in said


def test_ffmpeg_is_found_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If FFMPEG_PATH is not set and there is none where the layer has it."""
    (tmp_path / "ffmpeg").symlink_to(ENVIRONMENT["FFMPEG_PATH"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_ffmpeg(None, "/nowhere/ffmpeg") == str(tmp_path / "ffmpeg")


class EmptyQueue(BaseHTTPRequestHandler):
    """A queue without messages."""

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
    """The endpoint of a server whose queues are empty."""
    with ThreadingHTTPServer(("127.0.0.1", 0), EmptyQueue) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_program(empty_queues: str, number: signal.Signals) -> None:
    """Exit code 0, without a traceback."""
    cloud = {"AWS_ENDPOINT_URL": empty_queues, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    program = run_main(ENVIRONMENT | cloud)
    assert program.stdout
    assert json.loads(program.stdout.readline())["event"] == "polling_started"
    program.send_signal(number)
    _, complaint = program.communicate(timeout=60)
    assert program.returncode == 0
    assert complaint == ""
