"""The user's command for a segment: words with {input} and {output} in them, run without a shell."""

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

from local.errors import JobFailed, UsageError

_TAIL_LINES = 5
_TAIL_BYTES = 8192


def parse_command(text: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The words of a command line, as a shell would split them.

    Raises:
        UsageError: a quote is open, {input} or {output} is missing, or there is no such program.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"the segment command cannot be read: {error}: {text}") from error
    for placeholder in ("{input}", "{output}"):
        if not any(placeholder in word for word in words):
            raise UsageError(f"the segment command has no {placeholder}: {text}")
    if not shutil.which(words[0], path=environ.get("PATH")):
        raise UsageError(f"the segment command's program {words[0]!r} is not found")
    return words


def fill(words: Sequence[str], source: Path, processed: Path) -> list[str]:
    """The command for one segment."""
    return [word.replace("{input}", str(source)).replace("{output}", str(processed)) for word in words]


@dataclass(slots=True)
class Commands:
    """Runs the command, for several segments at once, and can end all that run."""

    words: tuple[str, ...]
    environ: Mapping[str, str]
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ended: bool = False

    def run(self, index: int, source: Path, processed: Path) -> None:
        """Run it for one segment.

        Raises:
            JobFailed: it failed or wrote nothing; the message holds what it said last and names the segment.
        """
        argv = fill(self.words, source, processed)
        with tempfile.TemporaryFile() as output:
            process = self._start(argv, output)
            code = process.wait()
            with self._lock:
                self._running.discard(process)
            if code != 0:
                raise JobFailed(f"{_tail(output)}segment {index}: the segment command {_describe_end(code)}")
        if not processed.is_file() or processed.stat().st_size == 0:
            raise JobFailed(f"segment {index}: the segment command ended well but wrote no output: {shlex.join(argv)}")

    def end(self) -> None:
        """Kill what runs, with all that it started, and start nothing more."""
        with self._lock:
            self._ended = True
            for process in self._running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def _start(self, argv: list[str], output: IO[bytes]) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._ended:
                raise JobFailed("the segment command was not started: the run has ended")
            process = subprocess.Popen(
                argv,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._running.add(process)
            return process


def _describe_end(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"


def _tail(output: IO[bytes]) -> str:
    """Its last lines, each with its end."""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _TAIL_BYTES))
    # A carriage return starts a line anew, as ffmpeg's counter does: only what was left standing counts.
    lines = [line.rpartition("\r")[2].rstrip() for line in output.read().decode(errors="replace").split("\n")]
    return "".join(f"{line}\n" for line in [line for line in lines if line][-_TAIL_LINES:])
