"""Progress of a run on stderr: bars on a terminal, plain lines anywhere else."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Literal, Protocol

from media_worker.jobs import JobStatus
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from local.watching import Sighting

type Step = Literal["upload", "segments", "processing", "join", "fetch"]

# Plain lines appear for a step's begin and end, and in between no more often than this.
_LINE_EVERY_S = 5.0
_MB = 1_000_000


class Display(Protocol):
    """Where progress is shown."""

    def say(self, text: str) -> None:
        """Tell what happens next."""

    def show(self, step: Step, done: int, total: int | None) -> None:
        """A step is this far; of a total that may not be known yet."""


@contextmanager
def display(stream: IO[str] | None = None) -> Iterator[Display]:
    """Bars when the stream (stderr) is a terminal, else lines."""
    stream = stream or sys.stderr
    console = Console(file=stream)
    if not console.is_terminal:
        yield Lines(stream)
        return
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]:<8}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        yield Bars(bars)


@dataclass(slots=True)
class Bars:
    """Bars of rich, one a step, in the order in which they begin."""

    bars: Progress
    _tasks: dict[Step, TaskID] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Tell what happens next, above the bars."""
        self.bars.console.print(text, highlight=False, markup=False)

    def show(self, step: Step, done: int, total: int | None) -> None:
        """Move a step's bar."""
        if step not in self._tasks:
            self._tasks[step] = self.bars.add_task(step, total=total, unit=_unit(step))
        self.bars.update(self._tasks[step], completed=done, total=total)


@dataclass(slots=True)
class Lines:
    """One line when a step begins to move, one when it is done, and few between."""

    stream: IO[str]
    _last: dict[Step, tuple[int, float]] = field(default_factory=dict)

    def say(self, text: str) -> None:
        """Tell what happens next."""
        print(text, file=self.stream, flush=True)

    def show(self, step: Step, done: int, total: int | None) -> None:
        """Print a step's progress when it is due and there is something to tell."""
        if total is None:
            return
        last_done, last_at = self._last.get(step, (-1, float("-inf")))
        is_end = done == total
        is_due = time.monotonic() - last_at >= _LINE_EVERY_S
        if done != last_done and (is_end or is_due):
            self._last[step] = (done, time.monotonic())
            self.say(f"{step}: {done} of {total} {_unit(step)}".rstrip())


@dataclass(slots=True)
class Bytes:
    """Counts the bytes of a transfer, whose parts report from several threads."""

    display: Display
    step: Step
    total_bytes: int
    _done_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int) -> None:
        """So many bytes more have gone."""
        with self._lock:
            self._done_bytes += count
            total = -(-self.total_bytes // _MB)
            done = total if self._done_bytes >= self.total_bytes else self._done_bytes // _MB
            self.display.show(self.step, done, total)


def show_sighting(to: Display, sighting: Sighting) -> None:
    """Show the three steps that a look at a job tells of."""
    total = sighting.job.total_segments
    if total is None:
        to.show("segments", 0, None)
        return
    to.show("segments", sighting.segments, total)
    to.show("processing", sighting.processed, total)
    if sighting.processed == total and sighting.segments == total:
        to.show("join", int(sighting.job.status is JobStatus.COMPLETED), 1)


def _unit(step: Step) -> str:
    return {"upload": "MB", "fetch": "MB", "join": ""}.get(step, "segments")
