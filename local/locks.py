"""Locks between processes: files that the kernel unlocks when their holder dies."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock file. Its content means nothing."""

    path: Path

    @contextmanager
    def taken(self) -> Iterator[IO[str]]:
        """Hold the lock alone; wait for it."""
        with self._held(fcntl.LOCK_EX) as file:
            yield file

    @contextmanager
    def shared(self) -> Iterator[IO[str]]:
        """Hold the lock beside others that share it; wait for one who holds it alone."""
        with self._held(fcntl.LOCK_SH) as file:
            yield file

    def is_taken(self) -> bool:
        """Whether somebody holds it alone. Two who ask at the same time do not see each other."""
        return not self._can_be(fcntl.LOCK_SH)

    def is_held(self) -> bool:
        """Whether somebody holds it, alone or shared. Only one may ask at a time."""
        return not self._can_be(fcntl.LOCK_EX)

    def _can_be(self, operation: int) -> bool:
        try:
            with self._held(operation | fcntl.LOCK_NB):
                return True
        except BlockingIOError:
            return False

    @contextmanager
    def _held(self, operation: int) -> Iterator[IO[str]]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            fcntl.flock(file, operation)
            yield file
