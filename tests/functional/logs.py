"""What the functions print: log lines, and metrics in CloudWatch's embedded format."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from media_worker.telemetry import logger


class Logs:
    """The log lines so far, as an operator's tool reads them."""

    def __init__(self, stream: io.StringIO) -> None:
        self._stream = stream

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]

    def named(self, message: str) -> list[dict[str, Any]]:
        """The lines with this message."""
        return [line for line in self.lines if line["message"] == message]

    def the(self, message: str) -> dict[str, Any]:
        """The one line with this message."""
        (line,) = self.named(message)
        return line


@contextmanager
def captured() -> Iterator[Logs]:
    """Take what the logger prints instead of standard output, at the level that the functions have."""
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
    """The metrics that were printed, an entry a record: name -> values."""
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"_aws"' in line]
    return [
        {
            metric["Name"]: record[metric["Name"]]
            for directive in record["_aws"]["CloudWatchMetrics"]
            for metric in directive["Metrics"]
        }
        for record in records
    ]
