"""The output: every log line of a job has its job id, and CloudWatch can read the metrics."""

import json

import pytest
from media_worker import telemetry
from media_worker.telemetry import Steps, log_keys, logger

from tests.functional import logs as printed
from tests.functional.conftest import ClipMaker
from tests.functional.logs import Logs
from tests.functional.stack import Stack, s3_event


def run_through(stack: Stack, clip: ClipMaker) -> None:
    stack.add_job()
    stack.upload(clip("plain"))
    assert stack.chunk() == []
    stack.process_segments()
    assert stack.reassemble() == []


def test_every_line_of_a_job_names_the_job(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """Lines from upload threads too; each line also has the message and the request."""
    run_through(stack, clip)
    assert len(logs.all("segment_written")) == 3
    for line in logs.lines:
        if line["event"] != "visibility_not_changed":  # about a message; moto does not know its receipt handle
            assert line["job_id"] == "job-1", line
        assert line["service"] == "media-worker"
        if line["event"] != "reassembly_requested":  # the segment worker logs it
            assert line["message_id"] == "message-0"
            assert line["receive_count"] == 1
            assert line["function_request_id"] == "request"


def test_lines_from_upload_threads_name_their_step(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """Threads keep the log keys of their caller."""
    run_through(stack, clip)
    assert {line["step"] for line in logs.all("segment_written")} == {"split"}


def test_log_keys_end_with_their_record(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """The lines of the next record have its own keys only."""
    stack.add_job()
    stack.upload(b"no video")
    stack.deliver(stack.chunking, s3_event("input/job-1/source.mp4"), s3_event("elsewhere"))
    line = logs.one("record_ignored")
    assert line["message_id"] == "message-1"
    assert "job_id" not in line
    assert "step" not in line
    logger.info("Afterwards", event="afterwards")
    assert not {"message_id", "job_id", "function_request_id"} & set(logs.one("afterwards"))


def test_each_step_is_logged_with_its_seconds_and_bytes(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """In the order of the work; the job's row has them too."""
    run_through(stack, clip)
    assert [line["step"] for line in logs.all("step_done")] == [
        *("read", "plan", "split"),
        *("check", "join", "verify"),
    ]
    assert logs.all("step_done")[2]["bytes"] == clip("plain").stat().st_size
    row = stack.row("Jobs")
    assert set(row["chunking_steps"]["M"]) == {"read", "plan", "split"}
    assert set(row["reassembly_steps"]["M"]) == {"check", "join", "verify"}
    assert row["chunking_steps"]["M"]["split"]["M"]["bytes"] == {"N": str(clip("plain").stat().st_size)}


def test_a_failed_job_is_logged_with_its_reason(stack: Stack, logs: Logs) -> None:
    """One line at ERROR has the class of the error, the reason and the traceback."""
    stack.add_job()
    stack.upload(b"no video")
    stack.chunk()
    line = logs.one("job_failed")
    assert line["level"] == "ERROR"
    assert line["failure"] == "BadSource"
    assert line["reason"] == stack.job().error
    assert "FfmpegFailed" in line["exception"]
    assert {line["step"] for line in logs.all("step_failed")} == {"read", "remux"}


def test_credentials_are_not_logged(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """Nor is the receipt handle, which allows to delete a message."""
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
    """Jobs, segments, seconds and bytes by step, in CloudWatch's embedded metric format."""
    stack.add_job()
    stack.upload(clip("plain"))
    stack.chunk()
    chunked = printed.metrics(capsys)
    assert only(chunked, "Records") == [1]
    assert only(chunked, "JobsChunked") == [1]
    assert only(chunked, "Segments") == [3]
    assert only(chunked, "SplitBytes") == [clip("plain").stat().st_size]
    for step in ("Plan", "Split"):
        (seconds,) = only(chunked, f"{step}Seconds")  # type: ignore[misc]
        assert 0 < seconds < 60  # type: ignore[has-type]

    stack.process_segments()
    stack.reassemble()
    joined = printed.metrics(capsys)
    assert only(joined, "JobsCompleted") == [1]
    assert not any("JobsChunked" in record for record in joined), "each invocation has its own"
    assert {"CheckSeconds", "JoinSeconds", "JoinBytes", "VerifySeconds"} <= {
        name for record in joined for name in record
    }


def test_metrics_have_a_namespace_and_a_service(
    stack: Stack, clip: ClipMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    """The template's alarms and dashboard use them."""
    stack.reassemble()
    out = [line for line in capsys.readouterr().out.splitlines() if '"JobsCompleted"' in line or '"Records"' in line]
    assert out
    assert all('"Namespace":"MediaWorker"' in line.replace(" ", "") for line in out)
    assert all('"service":"media-worker"' in line.replace(" ", "") for line in out)


def test_metrics_of_two_stacks_do_not_mix(
    stack: Stack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a name of the stack, it is a dimension beside the service: each metric stays one time series."""
    monkeypatch.setattr(telemetry, "STACK", "stack-a")
    stack.reassemble()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if '"Records"' in line]
    record = json.loads(line)
    assert record["stack"] == "stack-a"
    assert [sorted(names) for each in record["_aws"]["CloudWatchMetrics"] for names in each["Dimensions"]] == [
        ["service", "stack"]
    ]


def test_failures_are_counted_by_kind(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    """A failed job, a returned record and a message with nothing to do have a metric each."""
    stack.add_job()
    stack.upload(b"no video")
    stack.add_job("waiting", status={"S": "chunking_complete"}, total_segments={"N": "1"})
    stack.chunk()
    assert only(printed.metrics(capsys), "JobsFailed") == [1]
    stack.reassemble("waiting")
    assert only(printed.metrics(capsys), "RecordsReturned") == [1]
    stack.reassemble("unknown")
    assert only(printed.metrics(capsys), "NothingToDo") == [1]


# Log keys and steps


def test_log_keys_are_restored(logs: Logs) -> None:
    """Inner keys replace outer ones and end with their block, also after an error."""
    with log_keys(job_id="outer", a=1):
        with pytest.raises(ValueError, match="x"), log_keys(job_id="inner"):  # noqa: PT012  # the last statement raises
            logger.info("Inside", event="inside")
            raise ValueError("x")
        logger.info("Outside", event="outside")
    assert logs.one("inside")["job_id"] == "inner"
    assert logs.one("inside")["a"] == 1
    assert logs.one("outside")["job_id"] == "outer"


def test_a_step_that_fails_is_not_reported_as_done(logs: Logs) -> None:
    """A line says that it failed, and why."""
    steps = Steps()
    with pytest.raises(OSError, match="x"), steps.step("join"):
        raise OSError("x")
    assert steps.report == {}
    assert logs.one("step_failed")["failure"] == "OSError"


def test_steps_outside_of_an_invocation_print_no_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    """There is no invocation to print them."""
    with Steps().step("join", 5):
        pass
    telemetry.count("Records")
    assert printed.metrics(capsys) == []
