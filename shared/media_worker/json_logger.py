"""The logger of segment workers: JSON lines like those of Powertools, from the standard library alone."""

import json
import logging
import os
import sys
import time
from collections.abc import Mapping
from contextvars import ContextVar
from typing import IO, Any

_keys: "ContextVar[Mapping[str, object]]" = ContextVar("log_keys", default={})  # noqa: B039 - never changed


class JsonLogger:
    """`info("Segment processed", event="segment_processed", ...)`: the part of Powertools' Logger that we use."""

    def __init__(self, service: str) -> None:
        self.registered_handler: logging.StreamHandler[IO[str]] = logging.StreamHandler(sys.stdout)
        self.registered_handler.setFormatter(JsonFormatter(service))
        self._logger = logging.getLogger(service)
        self._logger.propagate = False
        self._logger.handlers = [self.registered_handler]
        self._logger.setLevel(os.environ.get("POWERTOOLS_LOG_LEVEL", "INFO").upper())

    @property
    def log_level(self) -> int:
        """The lowest level that is written."""
        return self._logger.level

    def setLevel(self, level: int | str) -> None:  # noqa: N802 - Powertools' name
        """Set the lowest level that is written."""
        self._logger.setLevel(level)

    def debug(self, message: str, **keys: object) -> None:
        """Write a line for developers."""
        self._write(logging.DEBUG, message, keys)

    def info(self, message: str, **keys: object) -> None:
        """Write a line."""
        self._write(logging.INFO, message, keys)

    def warning(self, message: str, **keys: object) -> None:
        """Write a line about something unexpected."""
        self._write(logging.WARNING, message, keys)

    def error(self, message: str, **keys: object) -> None:
        """Write a line about a failure."""
        self._write(logging.ERROR, message, keys)

    def exception(self, message: str, **keys: object) -> None:
        """Write a line about a failure, with the traceback of the current exception."""
        self._write(logging.ERROR, message, keys, exc_info=True)

    def thread_safe_get_current_keys(self) -> dict[str, object]:
        """The keys on every line of this context."""
        return dict(_keys.get())

    def thread_safe_append_keys(self, **keys: object) -> None:
        """Put these keys on every line of this context."""
        _keys.set({**_keys.get(), **keys})

    def thread_safe_clear_keys(self) -> None:
        """Remove the keys of this context."""
        _keys.set({})

    def _write(self, level: int, message: str, keys: Mapping[str, object], *, exc_info: bool = False) -> None:
        extra = {"keys": {**_keys.get(), **keys}}
        self._logger.log(level, message, extra=extra, exc_info=exc_info, stacklevel=3)


class JsonFormatter(logging.Formatter):
    """One JSON object per line."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        milliseconds = f"{record.msecs:03.0f}"
        line: dict[str, Any] = {
            "level": record.levelname,
            "location": f"{record.funcName}:{record.lineno}",
            "message": record.getMessage(),
            "timestamp": time.strftime(f"%Y-%m-%dT%H:%M:%S.{milliseconds}Z", time.gmtime(record.created)),
            "service": self._service,
            **record.__dict__.get("keys", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
