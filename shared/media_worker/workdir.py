"""Private work directories under /tmp, removed whatever happens."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from media_worker.errors import NoRoom
from media_worker.telemetry import logger

_LOCK_NAME = "lock"
# What ffmpeg and the file system need beside the media.
_MARGIN_BYTES = 64 * 1024 * 1024


@contextmanager
def work_directory() -> Iterator[Path]:
    """A new directory that only this process uses. Removes what killed invocations left, first.

    A directory belongs to a live process as long as that holds the lock on the file in it; the kernel lets go of the
    lock when the process dies, however it dies.
    """
    root = Path(tempfile.gettempdir()) / "media-worker"
    root.mkdir(mode=0o700, exist_ok=True)
    _remove_leftovers(root)
    path = Path(tempfile.mkdtemp(dir=root))
    lock = os.open(path / _LOCK_NAME, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def require_room(path: Path, size_bytes: int, what: str) -> None:
    """Stop before a download that cannot fit.

    Raises:
        NoRoom: says how much is needed and how much there is.
    """
    free = shutil.disk_usage(path).free
    needed = size_bytes + _MARGIN_BYTES
    if needed > free:
        raise NoRoom(
            f"{what} needs {needed / 1e6:,.0f} MB of temporary space and {free / 1e6:,.0f} MB are free: "
            "give the function a larger EphemeralStorage (10,240 MB at most) or upload a smaller file"
        )


def _remove_leftovers(root: Path) -> None:
    for path in root.iterdir():
        try:
            lock = os.open(path / _LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # being made, or being removed, by another process
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # in use
        else:
            logger.info("removing what a killed invocation left", work_directory=str(path))
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)
