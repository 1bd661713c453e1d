"""What is printed: a job's id on every line of the job, and metrics that CloudWatch reads."""

import pytest
from media_worker import telemetry
from media_worker.telemetry import Steps, log_keys, logger

from tests.functional import logs as printed
from tests.functional.conftest import ClipMaker
from tests.functional.logs import Logs
from tests.functional.stack import Stack, s3_event

# What belongs to a batch and not to a job.
OF_NO_JOB = {"ignored"}


def run_through(stack: Stack, clip: ClipMaker) -> None:
    stack.add_job()
    stack.upload(clip("plain"))
    assert stack.chunk() == []
    stack.process_segments()
    assert stack.reassemble() == []


def test_every_line_of_a_job_names_the_job(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """Also lines from the threads that upload, and the request and message they belong to."""
    run_through(stack, clip)
    assert len(logs.named("segment written")) == 3
    assert len(logs.lines) > 20
    for line in logs.lines:
        assert line["job_id"] == "job-1", line
        assert line["service"] == "media-worker"
        if line["message"] != "asked for the reassembly":  # the segment worker's
            assert line["message_id"] == "message-0"
            assert line["receive_count"] == 1
            assert line["function_request_id"] == "request"


def test_lines_from_upload_threads_name_their_step(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """They keep the keys of whoever started them."""
    run_through(stack, clip)
    assert {line["step"] for line in logs.named("segment written")} == {"split"}


def test_a_jobs_keys_do_not_stay(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """The next record's lines are its own."""
    stack.add_job()
    stack.upload(b"no video")
    stack.deliver(stack.chunking, s3_event("input/job-1/source.mp4"), s3_event("elsewhere"))
    line = logs.the("ignored")
    assert line["message_id"] == "message-1"
    assert "job_id" not in line
    assert "step" not in line
    logger.info("afterwards")
    assert not {"message_id", "job_id", "function_request_id"} & set(logs.the("afterwards"))


def test_each_step_is_told_with_its_seconds_and_bytes(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """In the order of the story; the job's row has them too."""
    run_through(stack, clip)
    assert [line["step"] for line in logs.named("step done")] == [
        *("download", "plan", "split"),
        *("download", "check", "join", "upload", "verify"),
    ]
    assert logs.named("step done")[0]["bytes"] == clip("plain").stat().st_size
    row = stack.row("Jobs")
    assert set(row["chunking_steps"]["M"]) == {"download", "plan", "split"}
    assert set(row["reassembly_steps"]["M"]) == {"download", "check", "join", "upload", "verify"}
    assert row["chunking_steps"]["M"]["download"]["M"]["bytes"] == {"N": str(clip("plain").stat().st_size)}


def test_a_failed_job_is_told_with_its_reason(stack: Stack, logs: Logs) -> None:
    """One line at ERROR: what kind, why, in which step, with the traceback."""
    stack.add_job()
    stack.upload(b"no video")
    stack.chunk()
    line = logs.the("job failed")
    assert line["level"] == "ERROR"
    assert line["failure"] == "BadSource"
    assert line["reason"] == stack.job().error
    assert "FfmpegFailed" in line["exception"]
    assert logs.the("step ended early")["step"] == "plan"


def test_credentials_are_in_no_line(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """Nor is the receipt, with which a message can be deleted."""
    run_through(stack, clip)
    stack.reassemble(receive_count=2)
    text = str(logs.lines)
    assert "testing" not in text
    assert "receipt-0" not in text


# Metrics


def only(records: list[dict[str, object]], name: str) -> object:
    (value,) = (record[name] for record in records if name in record)
    return value


def test_an_invocation_prints_its_metrics(stack: Stack, clip: ClipMaker, capsys: pytest.CaptureFixture[str]) -> None:
    """Jobs, segments, seconds and bytes by step, in CloudWatch's embedded format."""
    stack.add_job()
    stack.upload(clip("plain"))
    stack.chunk()
    chunked = printed.metrics(capsys)
    assert only(chunked, "Records") == [1]
    assert only(chunked, "JobsChunked") == [1]
    assert only(chunked, "Segments") == [3]
    assert only(chunked, "DownloadBytes") == [clip("plain").stat().st_size]
    for step in ("Download", "Plan", "Split"):
        (seconds,) = only(chunked, f"{step}Seconds")  # type: ignore[misc]
        assert 0 < seconds < 60  # type: ignore[has-type]

    stack.process_segments()
    stack.reassemble()
    joined = printed.metrics(capsys)
    assert only(joined, "JobsCompleted") == [1]
    assert not any("JobsChunked" in record for record in joined), "each invocation has its own"
    assert {"CheckSeconds", "JoinSeconds", "UploadSeconds", "UploadBytes"} <= {
        name for record in joined for name in record
    }


def test_metrics_have_a_namespace_and_a_service(
    stack: Stack, clip: ClipMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    """The template's alarms and dashboard look there."""
    stack.reassemble()
    out = [line for line in capsys.readouterr().out.splitlines() if '"JobsCompleted"' in line or '"Records"' in line]
    assert out
    assert all('"Namespace":"MediaWorker"' in line.replace(" ", "") for line in out)
    assert all('"service":"media-worker"' in line.replace(" ", "") for line in out)


def test_failures_are_counted_by_kind(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    """A failed job, a record given back, a message that asks for nothing."""
    stack.add_job()
    stack.upload(b"no video")
    stack.add_job("waiting", status={"S": "chunking_complete"}, total_segments={"N": "1"})
    stack.chunk()
    assert only(printed.metrics(capsys), "JobsFailed") == [1]
    stack.reassemble("waiting")
    assert only(printed.metrics(capsys), "RecordsGivenBack") == [1]
    stack.reassemble("unknown")
    assert only(printed.metrics(capsys), "NothingToDo") == [1]


# The pieces


def test_keys_are_put_back(logs: Logs) -> None:
    """Inner keys cover outer ones and vanish, also after an error."""
    with log_keys(job_id="outer", a=1):
        with pytest.raises(ValueError, match="x"), log_keys(job_id="inner"):  # noqa: PT012  # it is raised at the end
            logger.info("inside")
            raise ValueError("x")
        logger.info("outside")
    assert logs.the("inside")["job_id"] == "inner"
    assert logs.the("inside")["a"] == 1
    assert logs.the("outside")["job_id"] == "outer"


def test_a_step_that_fails_is_not_reported_as_done(logs: Logs) -> None:
    """It ended early, and its line says of what."""
    steps = Steps()
    with pytest.raises(OSError, match="x"), steps.step("join"):
        raise OSError("x")
    assert steps.report == {}
    assert logs.the("step ended early")["failure"] == "OSError"


def test_steps_outside_of_an_invocation_print_no_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    """There is nothing to add them to."""
    with Steps().step("join", 5):
        pass
    telemetry.count("Records")
    assert printed.metrics(capsys) == []
