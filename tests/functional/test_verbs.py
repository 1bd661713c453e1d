"""The commands for jobs: what they print, and their exit codes."""

import json
from dataclasses import replace
from typing import Any

import pytest
from media_worker.completions import record_segment
from media_worker.keys import build_segment_key
from media_worker.messages import parse_segment_body
from media_worker_cli import job_commands
from media_worker_cli.main import main
from media_worker_cli.stack import Stack as CliStack

from tests.functional.stack import Stack
from tests.functional.test_listing import add, create_indexes


@pytest.fixture
def command(stack: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command; returns its exit code, stdout and the last line of stderr."""
    create_indexes(stack)
    url = stack.aws.sqs.create_queue(QueueName="segments")["QueueUrl"]
    stack.aws = replace(stack.aws, settings=replace(stack.aws.settings, segment_queue_url=url))
    monkeypatch.setattr(job_commands, "choose_stack", lambda _: CliStack("test", stack.aws, {}))
    monkeypatch.setattr("getpass.getuser", lambda: "ann")
    monkeypatch.setattr("socket.gethostname", lambda: "studio")
    monkeypatch.setattr(job_commands, "now_s", lambda: 100_000)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        streams = capsys.readouterr()
        return code, streams.out, (streams.err.splitlines() or [""])[-1]

    return run


def test_jobs_are_a_table(command: Any, stack: Stack) -> None:
    """Newest first. A job at work has the duration until now; a failed one ended when it failed."""
    add(stack, "old", 10_000, completed_at={"N": "11800"}, total_segments={"N": "12"})
    add(stack, "bad", 96_400, "failed", failed_at={"N": "96430"}, error={"S": "no video\nat all"})
    add(stack, "new", 99_880, "chunking_complete", total_segments={"N": "2"})
    code, out, _ = command("jobs")
    assert code == 0
    assert out.splitlines() == [
        "JOB  STATUS             SEGMENTS  AGE    DURATION  ERROR",
        "new  chunking_complete  0/2       2 min  2 min",
        "bad  failed             -         1 h    30 s      no video; at all",
        "old  completed          12/12     1 d    30 min",
    ]
    assert command("jobs", "--limit", "1")[2] == "there are more than 1: list them with --limit"
    assert command("jobs", "--since", "2h", "--status", "failed")[1].splitlines()[1].startswith("bad")
    assert command("jobs", "--status", "created") == (0, "", "there are no such jobs")


def test_jobs_as_json(command: Any, stack: Stack) -> None:
    """Times are Unix seconds; errors are whole."""
    add(stack, "bad", 96_400, "failed", failed_at={"N": "96430"}, error={"S": "x" * 100})
    listed = json.loads(command("jobs", "--json")[1])
    assert listed["more"] is False
    assert listed["jobs"][0] | {"error": len(listed["jobs"][0]["error"])} == {
        "job_id": "bad",
        "status": "failed",
        "created_at": 96_400,
        "ended_at": 96_430,
        "segments": None,
        "processed": None,
        "title": None,
        "error": 100,
        "notice": None,
    }


def test_cancel_retry_delete(command: Any, stack: Stack) -> None:
    """Each can be repeated."""
    stack.add_job()
    assert command("cancel", "job-1") == (0, "job-1 is cancelled; it was created\n", "")
    assert stack.job().error == "cancelled by ann@studio"
    assert command("cancel", "job-1") == (0, "job-1 was cancelled already\n", "")
    refused = "media-worker: it has to be split, but the source of job job-1 does not exist: submit it again"
    assert command("retry", "job-1") == (1, "", refused)
    stack.upload(b"source")
    code, out, _ = command("retry", "job-1", "--json")
    assert code == 0
    assert json.loads(out)["status"] == "created"
    assert command("retry", "job-1") == (0, "job-1 is created: it does not need a retry\n", "")
    assert command("delete", "job-1") == (0, "job-1 is deleted, with 1 object\n", "")
    assert command("delete", "job-1") == (0, "job-1 was deleted already\n", "")


@pytest.mark.parametrize("verb", ["show", "cancel", "retry", "resend", "delete"])
def test_an_unknown_job_is_wrong_usage(command: Any, verb: str) -> None:
    """So is a job id with a slash."""
    assert command(verb, "no") == (2, "", "media-worker: there is no job 'no'")
    assert command(verb, "a/b")[0] == 2


def test_an_operation_that_the_status_forbids_is_a_failure(command: Any, stack: Stack) -> None:
    """The error says why."""
    stack.add_job(status={"S": "completed"})
    assert command("cancel", "job-1") == (1, "", "media-worker: job job-1 is completed: it cannot be cancelled")
    assert command("retry", "job-1", "--segments", "x")[0] == 2


def test_resend_announces_segments_without_a_completion(command: Any, stack: Stack) -> None:
    """A job that does not wait for segments is refused."""
    stack.add_job(total_segments={"N": "3"}, status={"S": "chunking_complete"})
    for index in range(3):
        key = build_segment_key("job-1", index, 3, "sbs")
        stack.aws.s3.put_object(Bucket=stack.aws.settings.input_bucket_name, Key=key, Body=b"segment")
    record_segment(stack.aws, job_id="job-1", segment_index=1, output_s3_uri="s3://out/1.mp4")
    announced = "job-1 waits for its segments: segments 0, 2 announced again\n"
    assert command("resend", "job-1") == (0, announced, "")
    url = stack.aws.settings.segment_queue_url or ""
    received = stack.aws.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    keys = [parse_segment_body(message["Body"], stack.aws.settings.input_bucket_name)[0] for message in received]
    assert sorted(key.segment_index for key in keys) == [0, 2]
    stack.add_job("job-2")
    refused = "media-worker: job job-2 is created: it does not wait for segments"
    assert command("resend", "job-2") == (1, "", refused)
