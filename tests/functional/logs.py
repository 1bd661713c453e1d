"""The output of the functions: log lines, and metrics in CloudWatch's embedded metric format."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from media_worker.telemetry import logger


class Logs:
    """The log lines so far, parsed. Tests select them by `event`, because the message is prose and may change."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]

    def all(self, event: str) -> list[dict[str, Any]]:
        """The lines of this event."""
        return [line for line in self.lines if line.get("event") == event]

    def one(self, event: str) -> dict[str, Any]:
        """The line of this event; there is exactly one."""
        (line,) = self.all(event)
        return line


@contextmanager
def captured() -> Iterator[Logs]:
    """Capture the log at the level that the functions use."""
    stream = io.StringIO()
    level = logger.log_level
    logger.setLevel("INFO")
    before = logger.registered_handler.setStream(stream)  # type: ignore[attr-defined]
    try:
        yield Logs(stream)
    finally:
        logger.registered_handler.setStream(before)  # type: ignore[attr-defined]
        logger.setLevel(level)


def metrics(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The printed metrics: for each record, the values by name."""
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    return [
        {
            metric["Name"]: record[metric["Name"]]
            for directive in record["_aws"]["CloudWatchMetrics"]
            for metric in directive["Metrics"]
        }
        for record in records
    ]
