"""The ffmpeg process, run on hostile input.

It gets an empty environment (no credentials), a deadline, and limits on address space, CPU time and file size. Its
stdin is empty, or fed with the media by a thread. Its command lines (`commands`) limit what it may open.
"""

import errno
import math
import os
import resource
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from media_worker.deadline import Deadline
from media_worker.errors import FfmpegFailed, FfmpegStopped, SettingsError

# Copying takes 64 MiB; the index of a day-long video takes a few hundred. A static ffmpeg maps little else.
_MEMORY_BYTES = 1024 * 1024 * 1024
_FILE_MARGIN_BYTES = 64 * 1024 * 1024
_STDERR_LINES = 20
_STDERR_LINE_CHARS = 500
# ffmpeg's exit code is the low byte of its negative error number.
_NO_SPACE = -errno.ENOSPC & 0xFF


def find_ffmpeg(chosen: str | None, default: str) -> str:
    """The path of an ffmpeg that runs: the chosen one, else the one at `default`, else the one on PATH.

    Raises:
        SettingsError: there is none, or it does not run.
    """
    path = chosen or (default if Path(default).is_file() else shutil.which("ffmpeg"))
    if not path:
        raise SettingsError(f"there is no ffmpeg at {default} or on PATH: install it, or set FFMPEG_PATH")
    try:
        subprocess.run([path, "-version"], capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise SettingsError(f"{path} does not run: {error}; set FFMPEG_PATH to an ffmpeg") from error
    return path


@dataclass(frozen=True, slots=True)
class Fed:
    """Media for ffmpeg's stdin. `blocks()` reads it from its start; not everything is read if ffmpeg needs less."""

    blocks: Callable[[], Generator[bytes]]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Ffmpeg:
    """Runs ffmpeg in a work directory, until the deadline at most."""

    path: str
    directory: Path
    deadline: Deadline

    def run(self, argv: Sequence[str], fed: Fed | None = None) -> str:
        """Run a command to its end and return its output."""
        with self.running(argv, fed) as process:
            return "\n".join(process.lines())

    @contextmanager
    def running(self, argv: Sequence[str], fed: Fed | None = None) -> Iterator["Process"]:
        """Run a command while the body runs; then wait for it, or kill it after an error.

        Raises:
            FfmpegFailed: it exited with an error code.
            FfmpegStopped: a signal, its deadline or a full disk ended it.
        """
        process = Process(argv, self.directory, self.deadline.remaining_s(), fed)
        try:
            yield process
            process.finish()
        finally:
            process.close()


@dataclass(slots=True)
class Process:
    """A running ffmpeg."""

    argv: Sequence[str]
    directory: Path
    limit_s: float
    fed: Fed | None = None
    _stderr: deque[str] = field(default_factory=lambda: deque(maxlen=_STDERR_LINES))
    _timed_out: bool = False
    _feed_error: BaseException | None = None
    _popen: "subprocess.Popen[str]" = field(init=False)
    _threads: list[threading.Thread] = field(default_factory=list)
    _clock: threading.Timer = field(init=False)

    def __post_init__(self) -> None:
        self._popen = subprocess.Popen(  # no shell; the names in argv are ours
            self.argv,
            cwd=self.directory,
            env={},
            stdin=subprocess.PIPE if self.fed else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._limit()
        self._start(self._read_stderr)
        if self.fed:
            self._start(self._feed)
        self._clock = threading.Timer(self.limit_s, self._time_out)
        self._clock.daemon = True
        self._clock.start()

    def _start(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _limit(self) -> None:
        """Set resource limits. After the start, not in `preexec_fn`, which is not safe with threads."""
        cpu_s = math.ceil(self.limit_s) * (os.cpu_count() or 1)  # this limit holds even after this process has died
        limits = {
            resource.RLIMIT_AS: _MEMORY_BYTES,
            resource.RLIMIT_CPU: max(1, cpu_s),
            resource.RLIMIT_FSIZE: self._most_bytes(),
            resource.RLIMIT_CORE: 0,
        }
        with suppress(ProcessLookupError):  # it has ended
            for kind, most in limits.items():
                resource.prlimit(self._popen.pid, kind, (most, most))

    def _most_bytes(self) -> int:
        """Copied packets take no more than their source, unless its tables name bytes repeatedly."""
        fed_bytes = self.fed.size_bytes if self.fed else 0
        return 2 * (fed_bytes + sum(map(_size_bytes, self.directory.iterdir()))) + _FILE_MARGIN_BYTES

    def lines(self) -> Iterator[str]:
        """Its output, line by line, as it is printed."""
        assert self._popen.stdout
        for line in self._popen.stdout:
            yield line.rstrip("\n")

    def finish(self) -> None:
        """Wait for its end and raise its error, if any."""
        code = self._popen.wait()
        self._join()
        if self._feed_error:
            raise self._feed_error
        tail = self.messages
        if self._timed_out:
            raise FfmpegStopped(f"ffmpeg did not end within {self.limit_s:.0f} s and was killed: {tail}")
        if -code == signal.SIGXFSZ:
            raise FfmpegFailed(self.argv, code, "its output would be far larger than its input")
        if code < 0:
            raise FfmpegStopped(f"ffmpeg was killed by {signal.Signals(-code).name}: {tail}")
        if code == _NO_SPACE:
            raise FfmpegStopped(f"ffmpeg ran out of disk space: {tail}")
        if code > 0:
            raise FfmpegFailed(self.argv, code, tail)

    def close(self) -> None:
        """Leave nothing running."""
        self._clock.cancel()
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait()
        self._join()
        for stream in (self._popen.stdout, self._popen.stderr):
            if stream:
                stream.close()

    @property
    def messages(self) -> str:
        """The last lines that it has printed to stderr."""
        return "\n".join(self._stderr)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _feed(self) -> None:
        """Write the media to its stdin until it has ended. An error in reading the media ends it."""
        assert self.fed
        assert self._popen.stdin
        stdin = self._popen.stdin.buffer  # type: ignore[attr-defined]
        try:
            with suppress(BrokenPipeError), stdin, closing(self.fed.blocks()) as blocks:
                for block in blocks:
                    stdin.write(block)
        except BaseException as error:  # noqa: BLE001 (raised again by `finish`)
            self._feed_error = error
            self._popen.kill()

    def _read_stderr(self) -> None:
        assert self._popen.stderr
        # readline with a limit: a hostile file can cause an endless line.
        while line := self._popen.stderr.readline(_STDERR_LINE_CHARS):
            if text := line.strip():
                self._stderr.append(text)

    def _time_out(self) -> None:
        self._timed_out = True
        self._popen.kill()


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a test file, removed in the meantime
        return 0
