"""A clock that a test sets forward: sleeping takes no time, and a lease can expire at once."""

import datetime as dt
import threading
import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

_real_time, _real_monotonic, _real_sleep = time.time, time.monotonic, time.sleep


class Clock:
    """The real clock, set forward by `ahead_s` seconds."""

    def __init__(self, ahead_s: float = 0) -> None:
        self.ahead_s = ahead_s
        self._others: set[int | None] = set()

    def time(self) -> float:
        return _real_time() + self.ahead_s

    def monotonic(self) -> float:
        return _real_monotonic() + self.ahead_s

    def sleep(self, seconds: float) -> None:
        if threading.get_ident() in self._others:
            _real_sleep(seconds)
        else:
            self.ahead_s += seconds

    def patches(self) -> Any:
        """A context manager that makes this process read this clock.

        Threads that are there already, such as one that another test has left, do not move it.
        """
        clock = self
        self._others = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}

        class FakeDatetime(dt.datetime):
            @classmethod
            def now(cls, tz: dt.tzinfo | None = None) -> "FakeDatetime":
                return cls.fromtimestamp(clock.time(), tz)

        powertools = "aws_lambda_powertools.utilities.idempotency"
        dates = SimpleNamespace(datetime=FakeDatetime, timedelta=dt.timedelta)
        return _All(
            patch("time.time", self.time),
            patch("time.monotonic", self.monotonic),
            patch("time.sleep", self.sleep),
            patch(f"{powertools}.base.dt", dates),
            patch(f"{powertools}.persistence.base.dt", dates),
        )


class StoppedClock(Clock):
    """A clock that only a test moves, so that the same steps give the same result each time."""

    _START = 1_800_000_000.0

    def time(self) -> float:
        return self._START + self.ahead_s

    def monotonic(self) -> float:
        return self._START + self.ahead_s


class _All:
    def __init__(self, *patches: Any) -> None:
        self._patches = patches

    def __enter__(self) -> None:
        for each in self._patches:
            each.start()

    def __exit__(self, *_: object) -> None:
        for each in self._patches:
            each.stop()
