"""Private work directories under /tmp, removed at the end and after a crash."""

import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from media_worker.errors import NoRoom
from media_worker.telemetry import logger

# What ffmpeg and the file system need beside the media.
_MARGIN_BYTES = 64 * 1024 * 1024


@contextmanager
def work_directory(root: Path | None = None) -> Iterator[Path]:
    """A new directory that only this process uses, below `root` (default: one in /tmp). Directories of killed
    processes are removed first.

    A process holds a lock on its directory. The kernel releases the lock when the process dies, so a directory
    without a lock has no owner.
    """
    root = root or Path(tempfile.gettempdir()) / "media-worker"
    root.mkdir(mode=0o700, exist_ok=True)
    with _locked(root):  # so that a new directory is never taken for a leftover before it is locked
        _remove_leftovers(root)
        path = Path(tempfile.mkdtemp(dir=root))
        lock = _open(path)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
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
            lock = _open(path)
        except OSError:
            continue  # just removed by its owner, or not a directory: a file, a link
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # in use
        else:
            logger.info("Removing a leftover work directory", event="leftover_removed", work_directory=str(path))
            _kill_those_in(path)
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(lock)


def _kill_those_in(directory: Path) -> None:
    """Kill processes that still run in the directory: on a machine, ffmpeg outlives a killed worker."""
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or belongs to another user
            if (process / "cwd").readlink() == directory.resolve():
                os.kill(int(process.name), signal.SIGKILL)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for the lock on a directory and hold it."""
    lock = _open(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _open(path: Path) -> int:
    """Open a directory, not a link to one, to lock it; child processes do not inherit it."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
