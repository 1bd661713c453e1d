"""The user's command for a segment: filling in its words, running it, and reading its progress.

The command runs without a shell, in a process group of its own, below a supervisor that kills it when the worker dies.
Lines such as `frame=120` and `progress=0.42`, on either output, are its progress; ffmpeg's are of that form. All other
lines are passed on to standard error.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from media_worker import supervisor
from media_worker.errors import AttemptFailed, SettingsError

if TYPE_CHECKING:
    from media_worker.worker import Segment

# Between SIGTERM and SIGKILL, when a command is stopped.
GRACE_S = 5.0
_POLL_S = 0.1
_TAIL_LINES = 10
_LINE_CHARS = 500
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_FRAME = re.compile(r"frame= *([0-9]+)")
_PROGRESS = re.compile(r"progress= *([0-9]*\.?[0-9]+)")
# tqdm and ffmpeg overwrite their line after a carriage return.
_LINE_ENDS = re.compile(rb"[\r\n]+")
_READ_BYTES = 64 * 1024
_ENVIRONMENT_PREFIX = "MEDIA_WORKER_"


def check_command(words: Sequence[str], environ: Mapping[str, str]) -> None:
    """Check a command before the first segment.

    Raises:
        SettingsError: there is none, or its program is not found.
    """
    if not words:
        raise SettingsError("there is no command: write it after `--`")
    if not shutil.which(words[0], path=environ.get("PATH")):
        raise SettingsError(f"the command's program {words[0]!r} is not found")


def placeholders(segment: "Segment") -> dict[str, str]:
    """What a command can be told about its segment, by placeholder. Empty: not known."""
    return {
        "input": str(segment.input),
        "output": str(segment.output),
        "frames": "" if segment.frames is None else str(segment.frames),
        "context_before": str(segment.context_before),
        "context_after": str(segment.context_after),
        "first_frame": "" if segment.first_frame is None else str(segment.first_frame),
        "fps": "" if segment.fps is None else str(segment.fps),
        "start": "" if segment.start_s is None else f"{float(segment.start_s):.6f}",
        "duration": "" if segment.duration_s is None else f"{float(segment.duration_s):.6f}",
        "mode": segment.mode,
        "attempt": str(segment.attempt),
        "job": segment.job_id,
        "index": str(segment.index),
    }


def fill(words: Sequence[str], values: Mapping[str, str]) -> list[str]:
    """The command with its placeholders filled in. Other words in braces stay."""
    return [_PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), word) for word in words]


def run_command(
    words: Sequence[str], segment: "Segment", environ: Mapping[str, str], timeout_s: float | None = None
) -> None:
    """Run the command for a segment, until it ends or the segment is halted.

    Raises:
        AttemptFailed: it exited with an error, was killed, or ran out of time. The text holds its last lines.
        Halted: the worker stops, or the segment is not wanted any more; the command was killed.
    """
    values = placeholders(segment)
    variables = {_ENVIRONMENT_PREFIX + name.upper(): value for name, value in values.items()}
    with _running(fill(words, values), {**environ, **variables}, segment) as command:
        ends_at = None if timeout_s is None else time.monotonic() + timeout_s
        while (code := command.poll()) is None:
            segment.check()
            if ends_at is not None and time.monotonic() >= ends_at:
                command.kill()
                raise AttemptFailed(command.describe(f"did not end within {timeout_s:g} s"))
            time.sleep(_POLL_S)
        command.read_to_end()
        if code:
            raise AttemptFailed(command.describe(_describe_exit(code)))


@contextmanager
def _running(argv: Sequence[str], environ: Mapping[str, str], segment: "Segment") -> Iterator["_Command"]:
    """A running command. At the end of the body nothing of it is left."""
    command = _Command(argv, environ, segment)
    try:
        yield command
    finally:
        command.kill()


class _Command:
    """The processes of a command, and what it printed."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], segment: "Segment") -> None:
        self._segment = segment
        self._popen = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(supervisor.__file__)), *argv],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a process group, so that all children of the command can be killed
        )
        assert self._popen.stdout
        assert self._popen.stderr
        self._tails = (deque[str](maxlen=_TAIL_LINES), deque[str](maxlen=_TAIL_LINES))
        streams = (self._popen.stdout, self._popen.stderr)
        self._readers = [
            threading.Thread(target=self._read, args=(stream, tail), daemon=True)
            for stream, tail in zip(streams, self._tails, strict=True)
        ]
        for reader in self._readers:
            reader.start()

    def poll(self) -> int | None:
        """The exit code, once there is one."""
        return self._popen.poll()

    def read_to_end(self) -> None:
        """Wait for the last lines. A child that the command left behind may keep its outputs open: not for ever."""
        for reader in self._readers:
            reader.join(timeout=1)

    def kill(self) -> None:
        """Stop every process of the command: SIGTERM, a few seconds, SIGKILL."""
        if self._popen.poll() is None:
            self._signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(GRACE_S)
        self._signal(signal.SIGKILL)
        self._popen.wait()
        self.read_to_end()
        if self._popen.stdin:
            self._popen.stdin.close()

    def describe(self, end: str) -> str:
        """How the command ended and its last lines: those of stderr, or if there are none, those of stdout."""
        self.read_to_end()
        printed, errors = ("\n".join(tail) for tail in self._tails)
        return f"{errors or printed}\nthe command {end}".strip()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):  # macOS says EPERM for a group of zombies
            os.killpg(self._popen.pid, number)

    def _read(self, stream: IO[bytes], tail: "deque[str]") -> None:
        rest = b""
        while data := stream.read1(_READ_BYTES):  # type: ignore[attr-defined]
            *lines, rest = _LINE_ENDS.split(rest + data)
            for line in lines:
                self._take(line, tail)
            rest = rest[-_READ_BYTES:]
        self._take(rest, tail)
        stream.close()

    def _take(self, line: bytes, tail: "deque[str]") -> None:
        text = line.decode(errors="replace").rstrip()
        if not text or self._is_progress(text.strip()):
            return
        tail.append(text[:_LINE_CHARS])
        sys.stderr.write(f"{text}\n")

    def _is_progress(self, text: str) -> bool:
        """Whether a line is progress, which is passed on to the segment."""
        if match := _FRAME.match(text):
            self._segment.report(frame=int(match[1]))
        elif match := _PROGRESS.fullmatch(text):
            self._segment.report(progress=float(match[1]))
        return match is not None


def _describe_exit(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
