"""Collecting the samples of one track from its fragments, until they are an ordinary sample table."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from .errors import BrokenFile, Unsupported
from .places import Chunks, Sizes
from .runs import Runs
from .tables import SampleTable

# 37 hours of 60 fps; a run of samples without fields of their own costs the file nothing and the reader 16 bytes each.
MAX_SAMPLES = 8_000_000
MAX_DURATION = (1 << 31) - 1
# Sample flags (8.8.3.1). "Depends on others" counts as well: some writers set only that.
NON_SYNC, DEPENDS_ON_OTHERS = 0x10000, 0x1000000

type Column = array[int] | int


@dataclass(frozen=True, slots=True)
class Run:
    """The samples of a `trun`: a column of the table, or the number that holds for all of them."""

    count: int
    durations: Column
    sizes: Column
    flags: Column
    first_flags: int | None
    offsets: Column

    @property
    def size_bytes(self) -> int:
        """Bytes of media in the run."""
        return self.count * self.sizes if isinstance(self.sizes, int) else sum(self.sizes)


@dataclass(slots=True)
class Gathered:
    """One track's samples so far."""

    start_time: int | None = None  # decode time of the first sample
    now: int = 0  # decode time of the next one
    durations: array[int] = field(default_factory=lambda: array("I"))
    sizes: array[int] = field(default_factory=lambda: array("I"))
    offsets: array[int] = field(default_factory=lambda: array("i"))
    sync: array[int] = field(default_factory=lambda: array("Q"))
    chunk_offsets: array[int] = field(default_factory=lambda: array("Q"))
    chunk_counts: array[int] = field(default_factory=lambda: array("I"))
    descriptions: array[int] = field(default_factory=lambda: array("I"))

    def continue_at(self, time: int) -> None:
        """The next sample is decoded at `time`: the duration of the last one makes up for a gap."""
        if not self.durations:
            self.start_time = self.now = time
            return
        last = self.durations[-1] + time - self.now
        if not 0 <= last <= MAX_DURATION:
            raise Unsupported("fragments whose times overlap or jump")
        self.durations[-1] = last
        self.now = time

    def add(self, run: Run, data_at: int, description: int) -> None:
        """Append a run whose media lies at `data_at`."""
        if not run.count:
            return
        if len(self.sizes) + run.count > MAX_SAMPLES:
            raise Unsupported(f"more than {MAX_SAMPLES} samples in fragments")
        first = len(self.sizes)
        self.durations.extend(_column("I", run.durations, run.count))
        self.sizes.extend(_column("I", run.sizes, run.count))
        self.offsets.extend(_column("i", run.offsets, run.count))
        flags = _column("I", run.flags, run.count)
        if run.first_flags is not None:
            flags[0] = run.first_flags
        self.sync.extend(first + n for n, flag in enumerate(flags) if not flag & (NON_SYNC | DEPENDS_ON_OTHERS))
        self.chunk_offsets.append(data_at)
        self.chunk_counts.append(run.count)
        self.descriptions.append(description)
        self.now += sum(self.durations[first:])

    def to_table(self, *, all_sync: bool) -> SampleTable:
        """The samples as a table of their own."""
        if max(self.durations, default=0) > MAX_DURATION:
            raise BrokenFile("a sample longer than its clock can count")
        if min(self.offsets, default=0) < 0:
            # By the book the first picture is shown on time; ffmpeg shows it (in fragments only) later than the sound.
            raise Unsupported("fragments with negative composition offsets: players disagree about their start")
        is_sync = all_sync or len(self.sync) == len(self.sizes)
        return SampleTable(
            durations=Runs.from_values(self.durations),
            offsets=Runs.from_values(self.offsets) if any(self.offsets) else None,
            sizes=Sizes.of(self.sizes),
            sync=None if is_sync else self.sync,
            chunks=Chunks.of(self.chunk_offsets, self.chunk_counts, Runs.from_values(self.descriptions)),
        )


def _column(code: str, column: Column, count: int) -> array[int]:
    return array(code, [column]) * count if isinstance(column, int) else array(code, column)
