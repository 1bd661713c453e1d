"""Segments that were downloaded and not processed yet, so that a retry on the same machine does not download again.

A segment stays here from its download until it is processed. Each attempt gets a hard link: an entry that is removed to
make room does not take the file from an attempt that reads it.
"""

import hashlib
import os
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from media_worker.errors import RetryableError
from media_worker.s3 import StoredObject
from media_worker.telemetry import logger

# Room for the output and for the file system, beside the segment.
_MARGIN_BYTES = 64 * 1024 * 1024
# Marks a complete entry: a command that writes to its input changes the time, and the entry does not count any more.
_MTIME_NS = 0
# A download that has not grown for an hour was left by a worker that was killed.
_ABANDONED_NS = 3600 * 10**9


class DiskFull(RetryableError):
    """The segment does not fit on the worker's disk."""


@dataclass(frozen=True, slots=True)
class SegmentCache:
    """A directory of at most `most_bytes`, which several workers of a machine may share."""

    directory: Path
    most_bytes: int

    def fetch(self, stored: StoredObject, target: Path, download: Callable[[StoredObject, Path], None]) -> bool:
        """Put an object's content at `target`. Returns whether it had to be downloaded.

        Raises:
            DiskFull: there is no room, even after removing other entries.
        """
        entry = self._entry(stored)
        if self._link(entry, target, stored.size_bytes):
            return False
        self._make_room(stored.size_bytes)
        partial = self.directory / f"{entry.name}.{uuid.uuid4().hex}.partial"
        try:
            download(stored, partial)
            partial.chmod(0o444)
            os.utime(partial, ns=(time.time_ns(), _MTIME_NS))
            partial.replace(entry)
        finally:
            partial.unlink(missing_ok=True)
        if not self._link(entry, target, stored.size_bytes):
            raise DiskFull(f"the downloaded segment {stored.uri} was removed by another worker of this machine")
        return True

    def remove(self, stored: StoredObject) -> None:
        """Remove a segment that no attempt will need."""
        self._entry(stored).unlink(missing_ok=True)

    def _entry(self, stored: StoredObject) -> Path:
        self.directory.mkdir(parents=True, exist_ok=True)
        name = f"{stored.bucket}/{stored.key}/{stored.etag}".encode()
        return self.directory / f"{hashlib.sha256(name).hexdigest()[:32]}.mp4"

    def _link(self, entry: Path, target: Path, size_bytes: int) -> bool:
        """Link an entry to `target`, if it is there and unchanged."""
        try:
            status = entry.stat()
            if status.st_size != size_bytes or status.st_mtime_ns != _MTIME_NS:
                entry.unlink(missing_ok=True)
                return False
            os.utime(entry, ns=(time.time_ns(), _MTIME_NS))
            os.link(entry, target)
        except FileNotFoundError:
            return False
        return True

    def _make_room(self, size_bytes: int) -> None:
        """Remove the entries that were used longest ago, until the new one fits."""
        entries = sorted(self._sizes(), key=lambda each: each[0])
        used = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if used + size_bytes <= self.most_bytes and self._fits(size_bytes):
                return
            logger.info("Removing a segment from the cache", event="cache_entry_removed", file=path.name, bytes=size)
            path.unlink(missing_ok=True)
            used -= size
        if not self._fits(size_bytes):
            free = shutil.disk_usage(self.directory).free
            raise DiskFull(
                f"the segment of {size_bytes / 1e6:,.0f} MB and its output do not fit into {self.directory}: "
                f"{free / 1e6:,.0f} MB are free"
            )

    def _fits(self, size_bytes: int) -> bool:
        return shutil.disk_usage(self.directory).free >= 2 * size_bytes + _MARGIN_BYTES

    def _sizes(self) -> list[tuple[int, int, Path]]:
        """Last use, size and path of each entry. Downloads that a killed worker left count too, as the oldest."""
        found: list[tuple[int, int, Path]] = []
        for path in self.directory.iterdir():
            with suppress(FileNotFoundError):
                status = path.stat()
                in_progress = path.suffix == ".partial" and time.time_ns() - status.st_mtime_ns < _ABANDONED_NS
                if not in_progress:
                    found.append((0 if path.suffix == ".partial" else status.st_atime_ns, status.st_size, path))
        return found
