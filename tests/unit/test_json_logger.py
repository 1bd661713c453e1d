"""The logger of segment workers writes the same fields as the functions' logger, without Powertools."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from media_worker.json_logger import JsonLogger


@pytest.fixture
def logger(monkeypatch: pytest.MonkeyPatch) -> JsonLogger:
    monkeypatch.delenv("POWERTOOLS_LOG_LEVEL", raising=False)
    return JsonLogger("test-json-logger")


@contextmanager
def written(logger: JsonLogger) -> Iterator[list[dict[str, Any]]]:
    """The lines that the body writes, parsed."""
    stream, lines = io.StringIO(), list[dict[str, Any]]()
    before = logger.registered_handler.setStream(stream)
    try:
        yield lines
    finally:
        logger.registered_handler.setStream(before or io.StringIO())
        logger.thread_safe_clear_keys()
        lines += [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_the_fields_of_the_functions_logs(logger: JsonLogger) -> None:
    """Level, location of the caller, message, time, service and the given keys."""
    with written(logger) as lines:
        logger.info("Segment processed", event="segment_processed", frames=250)
    (line,) = lines
    assert line["level"] == "INFO"
    assert line["location"].startswith("test_a_line_has_the_fields_of_the_functions_logs:")
    assert (line["message"], line["event"], line["frames"]) == ("Segment processed", "segment_processed", 250)
    assert line["service"] == "test-json-logger"
    assert line["timestamp"].endswith("Z")


def test_levels(logger: JsonLogger) -> None:
    """Lines below the level are not written."""
    with written(logger) as lines:
        for write in (logger.debug, logger.info, logger.warning, logger.error):
            write("x")
    assert [line["level"] for line in lines] == ["INFO", "WARNING", "ERROR"]
    logger.setLevel("DEBUG")
    assert logger.log_level == logging.DEBUG
    with written(logger) as lines:
        logger.debug("x")
    assert [line["level"] for line in lines] == ["DEBUG"]


def test_an_exception_has_its_traceback(logger: JsonLogger) -> None:
    """At ERROR, with the exception's class and text."""
    with written(logger) as lines:
        try:
            int("too short")
        except ValueError:
            logger.exception("Failed", event="failed")
    assert lines[0]["level"] == "ERROR"
    assert "ValueError: invalid literal" in lines[0]["exception"]


def test_keys_stay_in_their_context(logger: JsonLogger) -> None:
    """Two workers in threads of one process do not see each other's job."""
    with written(logger) as lines:
        logger.thread_safe_append_keys(job_id="job-1")
        other = threading.Thread(target=lambda: logger.info("other"))
        other.start()
        other.join()
        logger.info("own")
        assert logger.thread_safe_get_current_keys() == {"job_id": "job-1"}
        logger.thread_safe_clear_keys()
        logger.info("cleared")
    assert ["job_id" in line for line in lines] == [False, True, False]


def test_values_that_are_not_json_are_written_as_text(logger: JsonLogger) -> None:
    """A path or a fraction does not break the line."""
    with written(logger) as lines:
        logger.info("x", value=threading.current_thread)
    assert "current_thread" in lines[0]["value"]
