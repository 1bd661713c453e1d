"""ffmpeg, run on hostile input.

It gets an empty environment (no credentials), no stdin, a deadline, and limits on address space, CPU time and file
size. Its command lines limit what it may open.
"""

import errno
import math
import os
import resource
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from media_worker.deadline import Deadline
from media_worker.engines.commands import (
    NO_COVERS,
    PICTURE_CODECS,
    Media,
    Track,
    frames_command,
    parse_frames,
    parse_tracks,
    probe_command,
    trial_command,
)
from media_worker.engines.cuts import Frame
from media_worker.errors import FfmpegFailed, FfmpegStopped

# Copying takes 64 MiB; the index of a day-long video takes a few hundred. A static ffmpeg maps little else.
_MEMORY_BYTES = 1024 * 1024 * 1024
_FILE_MARGIN_BYTES = 64 * 1024 * 1024
_STDERR_LINES = 20
_STDERR_LINE_CHARS = 500
# ffmpeg's exit code is the low byte of its negative error number.
_NO_SPACE = -errno.ENOSPC & 0xFF


@dataclass(frozen=True, slots=True)
class Ffmpeg:
    """Runs ffmpeg in a work directory, until the deadline at most."""

    path: str
    directory: Path
    deadline: Deadline

    def probe(self, name: str) -> Media:
        """The tracks of a file, and which of them an MP4 cannot hold.

        Raises:
            FfmpegFailed: this is not a media file of a supported container.
        """
        tracks = parse_tracks(self.run(probe_command(self.path, name)))
        if self._mp4_holds(name, ("-map", "0", *NO_COVERS)):
            covers = [track for track in tracks if track.kind == "video" and self._is_cover(name, track)]
            return Media(tracks, tuple(covers))
        refused = [track for track in tracks if not self._mp4_holds(name, ("-map", f"0:{track.index}", *NO_COVERS))]
        return Media(tracks, tuple(refused))

    def frames(self, name: str) -> Iterator[Frame]:
        """The frames of the first video track, in decoding order.

        Raises:
            FfmpegFailed: there is no video track, or the file is damaged.
        """
        with self.running(frames_command(self.path, name)) as process:
            yield from parse_frames(process.lines())

    def run(self, argv: Sequence[str]) -> str:
        """Run a command to its end and return its output."""
        with self.running(argv) as process:
            return "\n".join(process.lines())

    @contextmanager
    def running(self, argv: Sequence[str]) -> Iterator["Process"]:
        """Run a command while the body runs; then wait for it, or kill it after an error.

        Raises:
            FfmpegFailed: it exited with an error code.
            FfmpegStopped: a signal, its deadline or a full disk ended it.
        """
        process = Process(argv, self.directory, self.deadline.remaining_s())
        try:
            yield process
            process.finish()
        finally:
            process.close()

    def _mp4_holds(self, name: str, maps: Sequence[str]) -> bool:
        trial_name = f"trial-{Path(name).name}.mp4"  # other files may be tested at the same time
        try:
            self.run(trial_command(self.path, name, maps, trial_name))
        except FfmpegFailed:
            return False
        finally:
            (self.directory / trial_name).unlink(missing_ok=True)
        return True

    def _is_cover(self, name: str, track: Track) -> bool:
        return track.codec in PICTURE_CODECS and not self._mp4_holds(name, ("-map", f"0:{track.index}", *NO_COVERS))


@dataclass(slots=True)
class Process:
    """A running ffmpeg."""

    argv: Sequence[str]
    directory: Path
    limit_s: float
    _stderr: deque[str] = field(default_factory=lambda: deque(maxlen=_STDERR_LINES))
    _timed_out: bool = False
    _popen: "subprocess.Popen[str]" = field(init=False)
    _reader: threading.Thread = field(init=False)
    _clock: threading.Timer = field(init=False)

    def __post_init__(self) -> None:
        self._popen = subprocess.Popen(  # no shell; the names in argv are ours
            self.argv,
            cwd=self.directory,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._limit()
        self._reader = threading.Thread(target=self._read_stderr, daemon=True)
        self._reader.start()
        self._clock = threading.Timer(self.limit_s, self._time_out)
        self._clock.daemon = True
        self._clock.start()

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
        return 2 * sum(map(_size_bytes, self.directory.iterdir())) + _FILE_MARGIN_BYTES

    def lines(self) -> Iterator[str]:
        """Its output, line by line, as it is printed."""
        assert self._popen.stdout
        for line in self._popen.stdout:
            yield line.rstrip("\n")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop it while the body runs, so that it does not fill the disk."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def finish(self) -> None:
        """Wait for its end and raise its error, if any."""
        code = self._popen.wait()
        self._reader.join()
        tail = "\n".join(self._stderr)
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
        self._reader.join()
        for stream in (self._popen.stdout, self._popen.stderr):
            if stream:
                stream.close()

    def _read_stderr(self) -> None:
        assert self._popen.stderr
        # readline with a limit: a hostile file can cause an endless line.
        while line := self._popen.stderr.readline(_STDERR_LINE_CHARS):
            if text := line.strip():
                self._stderr.append(text)

    def _time_out(self) -> None:
        self._timed_out = True
        self._popen.kill()

    def _signal(self, number: signal.Signals) -> None:
        if self._popen.poll() is None:
            self._popen.send_signal(number)


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # a test file, removed in the meantime
        return 0
