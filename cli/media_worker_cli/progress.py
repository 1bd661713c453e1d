"""Progress on stderr: bars on a terminal, plain lines elsewhere."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Literal, Protocol

from media_worker.jobs import JobStatus

from media_worker_cli.tables import describe_age
from media_worker_cli.watching import JobProgress

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Step = Literal["upload", "segments", "processing", "join", "fetch"]

_UNITS: dict[Step, str] = {
    "upload": "MB",
    "segments": "segments",
    "processing": "segments",
    "join": "",
    "fetch": "MB",
}
# A step's first and last line are always printed, the lines between them at most this often.
_LINE_INTERVAL_S = 5.0
_MB = 1_000_000
_RUNNING_LISTED = 4


class Display(Protocol):
    """Shows progress."""

    def say(self, text: str) -> None:
        """Print a message."""

    def show(self, step: Step, done: int, total: int | None, note: str = "") -> None:
        """Show how far a step is. The total is None while it is unknown. `note` follows it, such as a rate."""


@contextmanager
def display(stream: IO[str] | None = None) -> Iterator[Display]:
    """Bars if the stream (default: stderr) is a terminal and rich is installed, else lines."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield Lines(stream)
        return
    if (built := _build_bars(stream)) is None:
        yield Lines(stream)
        return
    with built as bars:
        yield Bars(bars)


def _build_bars(stream: IO[str]) -> "Progress | None":
    try:
        from rich import progress  # noqa: PLC0415 - optional
        from rich.console import Console  # noqa: PLC0415
    except ImportError:
        return None

    columns = (
        progress.SpinnerColumn(finished_text="✓"),
        progress.TextColumn("{task.description:<10}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[unit]:<8}"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    return progress.Progress(*columns, console=Console(file=stream))


@dataclass(slots=True)
class Bars:
    """One bar for each step, in the order in which the steps start."""

    bars: "Progress"
    _tasks: "dict[Step, TaskID]" = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Print a message above the bars."""
        self.bars.console.print(text, highlight=False, markup=False)

    def show(self, step: Step, done: int, total: int | None, note: str = "") -> None:
        """Update the step's bar."""
        if step not in self._tasks:
            self._tasks[step] = self.bars.add_task(step, total=total, unit=_UNITS[step], note=note)
        self.bars.update(self._tasks[step], completed=done, total=total, note=note)


@dataclass(slots=True)
class Lines:
    """A line when a step starts, a line when it is done, and few lines between."""

    stream: IO[str]
    _last: dict[Step, tuple[int, str, float]] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Print a message."""
        print(text, file=self.stream, flush=True)

    def show(self, step: Step, done: int, total: int | None, note: str = "") -> None:
        """Print a line if the step or its note has changed and a line is due."""
        if total is None:
            return
        last_done, last_note, last_at = self._last.get(step, (-1, "", float("-inf")))
        is_due = time.monotonic() - last_at >= _LINE_INTERVAL_S
        if (done != last_done and (done == total or is_due)) or (note != last_note and is_due):
            self._last[step] = (done, note, time.monotonic())
            text = f"{step}: {done} of {total} {_UNITS[step]}".rstrip()
            self.say(f"{text}, {note}" if note else text)


@dataclass(slots=True)
class Bytes:
    """Adds up the bytes of a transfer. boto3 reports them from several threads."""

    display: Display
    step: Step
    total_bytes: int
    _done_bytes: int = 0
    _started_at: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int) -> None:
        """Count transferred bytes and show the sum in MB, with the rate since the start."""
        with self._lock:
            self._done_bytes += count
            total = -(-self.total_bytes // _MB)
            done = total if self._done_bytes >= self.total_bytes else self._done_bytes // _MB
            rate = self._done_bytes / _MB / max(1e-3, time.monotonic() - self._started_at)
            self.display.show(self.step, done, total, f"{rate:.1f} MB/s")


@dataclass(slots=True)
class JobDisplay:
    """Shows the steps of one job (segments written, segments processed, join), and its notice once."""

    display: Display
    _notice: str | None = None

    def show(self, progress: JobProgress) -> None:
        """Show how far the job is."""
        job, show = progress.job, self.display.show
        if job.notice and job.notice != self._notice:
            self._notice = job.notice
            self.display.say(f"notice: {job.notice}")
        if (total := job.total_segments) is None:
            show("segments", 0, None)
            return
        show("segments", progress.written, total)
        show("processing", progress.processed, total, describe_work(progress))
        if progress.processed == total and progress.written == total:
            show("join", int(job.status is JobStatus.COMPLETED), 1)


def describe_work(progress: JobProgress) -> str:
    """The remaining time, and the segments that workers have with their progress."""
    left = progress.remaining_s
    parts = [] if left is None or progress.processed == progress.job.total_segments else [f"{describe_age(left)} left"]
    running = [each for each in progress.running if each.attempt]
    parts += [
        f"segment {each.index} {each.attempt.progress:.0%}"
        if each.attempt and each.attempt.progress is not None
        else f"segment {each.index}"
        for each in running[:_RUNNING_LISTED]
    ]
    more = len(running) - _RUNNING_LISTED
    return ", ".join(parts) + (f" and {more} more" if more > 0 else "")
