"""Locks between processes: files that the kernel unlocks when the process that holds them ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock file. Its content is not used."""

    path: Path

    @contextmanager
    def exclusive(self) -> Iterator[IO[str]]:
        """Wait for the lock and hold it alone."""
        with self._held(fcntl.LOCK_EX) as file:
            yield file

    @contextmanager
    def shared(self) -> Iterator[IO[str]]:
        """Wait for an exclusive holder to end, and hold the lock together with other shared holders."""
        with self._held(fcntl.LOCK_SH) as file:
            yield file

    def is_exclusive(self) -> bool:
        """Whether a process holds the lock exclusively. Several processes may ask at once."""
        return not self._can_acquire(fcntl.LOCK_SH)

    def is_held(self) -> bool:
        """Whether a process holds the lock, exclusively or shared. Only one process may ask at a time."""
        return not self._can_acquire(fcntl.LOCK_EX)

    def _can_acquire(self, operation: int) -> bool:
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
