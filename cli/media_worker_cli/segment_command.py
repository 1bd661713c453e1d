"""The user's command for a segment. It contains {input} and {output} and runs without a shell."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from media_worker_cli.errors import JobFailed, UsageError

_TAIL_LINES = 5
_TAIL_BYTES = 8192


def parse_command(text: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The words of a command line, split as a shell splits them.

    Raises:
        UsageError: a quote is not closed, {input} or {output} is missing, or the program is not found.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"cannot parse the segment command: {error}: {text}") from error
    for placeholder in ("{input}", "{output}"):
        if not any(placeholder in word for word in words):
            raise UsageError(f"the segment command contains no {placeholder}: {text}")
    if not shutil.which(words[0], path=environ.get("PATH")):
        raise UsageError(f"the segment command's program {words[0]!r} is not found")
    return words


def fill(words: Sequence[str], source: Path, target: Path) -> list[str]:
    """The command for one segment, with the two file names filled in."""
    return [word.replace("{input}", str(source)).replace("{output}", str(target)) for word in words]


@dataclass(slots=True)
class SegmentCommand:
    """Runs the command for several segments at once, and can kill all running commands."""

    words: tuple[str, ...]
    environ: Mapping[str, str]
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _killed: bool = False

    def run(self, index: int, source: Path, target: Path) -> None:
        """Run the command for one segment.

        Raises:
            JobFailed: it failed or wrote no output. The message holds its last lines and names the segment.
        """
        argv = fill(self.words, source, target)
        with tempfile.TemporaryFile() as output:
            process = self._start(argv, output)
            code = process.wait()
            with self._lock:
                self._running.discard(process)
            if code != 0:
                raise JobFailed(f"{_tail(output)}segment {index}: the segment command {_describe_exit(code)}")
        if not target.is_file() or target.stat().st_size == 0:
            raise JobFailed(f"segment {index}: the segment command succeeded but wrote no output: {shlex.join(argv)}")

    def kill(self) -> None:
        """Kill the running commands with all their children, and start no more."""
        with self._lock:
            self._killed = True
            for process in self._running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def _start(self, argv: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._killed:
                raise JobFailed("the segment command was not started: the run has ended")
            process = subprocess.Popen(
                argv,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a process group of its own, so that its children can be killed too
            )
            self._running.add(process)
            return process


def _describe_exit(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"


def _tail(output: IO[bytes]) -> str:
    """The last lines of the output, each with a line feed."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _TAIL_BYTES))
    # ffmpeg's progress counter overwrites its line after a carriage return. Only the last state counts.
    lines = [line.rpartition("\r")[2].rstrip() for line in output.read().decode(errors="replace").split("\n")]
    return "".join(f"{line}\n" for line in [line for line in lines if line][-_TAIL_LINES:])
