"""The samples of a track: times, sizes and chunks (ISO/IEC 14496-12, 8.6 and 8.7).

Ten hours of 60 fps video with audio have four million samples. So nothing here is an object per sample: numbers are in
arrays, and numbers that repeat are run-length encoded (`Runs`), as in the file.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field, replace
from itertools import accumulate, chain, compress, groupby, islice, repeat
from operator import add, eq, ge, mul, sub
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# The most samples that a decoder may hold back to reorder frames, with a wide margin (H.264 and HEVC: 16).
MAX_REORDER = 256
_BLOCK = 1 << 16
_MARK_DISTANCE = 1 << 10
# Tables with a fixed number of bytes for each sample.
PER_SAMPLE_BYTES = {b"sdtp": 1, b"stdp": 2}


def _running_sums(counts: array[int]) -> array[int]:
    """0, and the sum of the first 1, 2, ... counts, in 32 bits if they fit."""
    return array("I" if sum(counts) < 1 << 32 else "Q", accumulate(counts, initial=0))


@dataclass(frozen=True, slots=True)
class Runs:
    """Run-length encoded integers, as in `stts` and `ctts`: `counts[i]` times `values[i]`. Build it with `Runs.of`.

    Ten hours of PCM audio are 1.7 billion samples in one run, and a hostile file may declare more. So runs are only
    expanded by code that needs every item, and then in C.
    """

    counts: array[int]  # never 0
    values: array[int]
    starts: array[int] = field(repr=False, compare=False)  # first item of each run; the last entry is the length

    @classmethod
    def of(cls, counts: Iterable[int], values: Iterable[int]) -> Runs:
        """Runs with these counts and values. Runs with a count of 0 are dropped. Arrays are kept, not copied."""
        count_array = counts if isinstance(counts, array) else array("Q", counts)
        value_array = values if isinstance(values, array) else array("q", values)
        if count_array.count(0):
            kept = [(count, value) for count, value in zip(count_array, value_array, strict=True) if count]
            count_array, value_array = array("Q", (c for c, _ in kept)), array("q", (v for _, v in kept))
        return cls(count_array, value_array, _running_sums(count_array))

    @classmethod
    def constant(cls, count: int, value: int) -> Runs:
        """`count` items with the same value."""
        return cls.of([count] if count else [], [value] if count else [])

    @classmethod
    def from_values(cls, values: Iterable[int]) -> Runs:
        """The fewest runs that expand to `values`."""
        counts, kept = array("Q"), array("q")
        for value, group in groupby(values):
            counts.append(sum(1 for _ in group))
            kept.append(value)
        return cls.of(counts, kept)

    @classmethod
    def concat(cls, parts: Iterable[Runs]) -> Runs:
        """The items of all parts, one part after the other. Equal values where two parts meet become one run."""
        counts, values = array("Q"), array("q")
        for part in parts:
            skip = 0
            if counts and part.counts and values[-1] == part.values[0]:
                counts[-1] += part.counts[0]
                skip = 1
            counts.extend(islice(part.counts, skip, None))
            values.extend(islice(part.values, skip, None))
        return cls.of(counts, values)

    def __len__(self) -> int:
        return self.starts[-1]

    def __iter__(self) -> Iterator[int]:
        if len(self.values) == len(self):  # the composition offsets of most videos with B-frames
            return iter(self.values)
        return chain.from_iterable(map(repeat, self.values, self.counts))

    def __getitem__(self, index: int) -> int:
        return self.values[self.run_at(index)]

    def run_at(self, index: int) -> int:
        """The number of the run that contains item `index`."""
        return bisect_right(self.starts, index) - 1

    def slice(self, first: int, end: int) -> Runs:
        """Items `first` to `end` (exclusive)."""
        if first >= end:
            return Runs.constant(0, 0)
        low, high = self.run_at(first), self.run_at(end - 1)
        counts, values = self.counts[low : high + 1], self.values[low : high + 1]
        counts[-1] -= self.starts[high + 1] - end
        counts[0] -= first - self.starts[low]
        return Runs.of(counts, values)

    def resized(self, length: int, filler: int) -> Runs:
        """Exactly `length` items: truncated, or extended with `filler`."""
        if len(self) > length:
            return self.slice(0, length)
        missing = length - len(self)
        return self if not missing else Runs.concat((self, Runs.constant(missing, filler)))

    def merged(self) -> Runs:
        """The same items in the fewest runs of 64-bit integers, so that equal items have equal bytes."""
        if not any(map(eq, self.values, islice(self.values, 1, None))):
            return Runs(array("Q", self.counts), array("q", self.values), self.starts)
        counts, values = array("Q"), array("q")
        for value, group in groupby(zip(self.values, self.counts, strict=True), key=lambda pair: pair[0]):
            counts.append(sum(count for _, count in group))
            values.append(value)
        return Runs.of(counts, values)

    def shifted(self, by: int) -> Runs:
        """`by` added to every item."""
        return self if not by else Runs(self.counts, array("q", map(add, self.values, repeat(by))), self.starts)

    def scaled(self, factor: int) -> Runs:
        """Every item multiplied by `factor`."""
        return (
            self if factor == 1 else Runs(self.counts, array("q", map(mul, self.values, repeat(factor))), self.starts)
        )

    def with_last(self, value: int) -> Runs:
        """The same items, with `value` as the last one."""
        return Runs.concat((self.slice(0, len(self) - 1), Runs.constant(1, value)))

    def total(self) -> int:
        """The sum of all items."""
        return sum(map(mul, self.counts, self.values))


@dataclass(frozen=True, slots=True)
class Timeline:
    """Decode times of samples, computed from runs of durations without a table of all samples."""

    durations: Runs
    run_times: array[int] = field(repr=False, compare=False)

    @classmethod
    def of(cls, durations: Runs) -> Timeline:
        """The timeline of samples with these durations. The first sample is decoded at 0."""
        sums = accumulate(map(mul, durations.counts, durations.values), initial=0)
        return cls(durations, array("q", sums))

    def time_of(self, index: int) -> int:
        """The decode time of sample `index`, or the end if there is no such sample."""
        if index >= len(self.durations):
            return self.run_times[-1]
        run = self.durations.run_at(index)
        return self.run_times[run] + (index - self.durations.starts[run]) * self.durations.values[run]

    def first_at(self, time: int) -> int:
        """The first sample decoded at or after `time`, or the number of samples if there is none."""
        if time <= 0:
            return 0
        if time > self.run_times[-1]:
            return len(self.durations)
        run = max(0, bisect_right(self.run_times, time - 1) - 1)
        delta = self.durations.values[run]
        steps = -(-(time - self.run_times[run]) // delta) if delta else self.durations.counts[run]
        return self.durations.starts[run] + steps

    def all_times(self) -> array[int]:
        """The decode time of every sample. Only for tracks whose number of samples is limited by their tables."""
        if len(self.durations.values) == 1:  # a constant frame rate
            (duration,) = self.durations.values
            return array("q", range(0, len(self.durations) * duration, duration) if duration else self.durations)
        return array("q", islice(accumulate(self.durations, initial=0), len(self.durations)))


@dataclass(frozen=True, slots=True)
class Sizes:
    """The size of each sample in bytes: a constant (PCM), or a table.

    `marks` are the running sums of a whole track's table, of every 1024th sample only: those of all samples are twice
    as large as the table.
    """

    count: int
    constant: int | None
    table: array[int] | None = None
    marks: array[int] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def same(cls, count: int, size_bytes: int) -> Sizes:
        """The same size for all samples."""
        return cls(count, size_bytes)

    @classmethod
    def of(cls, table: array[int]) -> Sizes:
        """One size per sample."""
        sums = accumulate(table, initial=0)
        return cls(len(table), None, table, array("Q", islice(sums, 0, None, _MARK_DISTANCE)))

    @classmethod
    def concat(cls, parts: Sequence[Sizes]) -> Sizes:
        """The sizes of all parts, one part after the other. Constant if it is the same constant in all parts."""
        parts = [part for part in parts if part.count]
        constants = {part.constant for part in parts}
        if len(constants) == 1 and None not in constants:
            return cls(sum(part.count for part in parts), parts[0].constant)
        table = array("I")
        for part in parts:
            table.extend(part.table if part.table is not None else array("I", [part.constant or 0]) * part.count)
        return cls.of(table)

    def between(self, first: int, end: int) -> int:
        """The total size of samples `first` to `end` (exclusive)."""
        if self.table is None:
            return (end - first) * (self.constant or 0)
        if end - first <= _MARK_DISTANCE or self.marks is None:
            return sum(memoryview(self.table)[first:end])
        return self._up_to(end) - self._up_to(first)

    def _up_to(self, sample: int) -> int:
        assert self.table is not None
        assert self.marks is not None
        mark = sample // _MARK_DISTANCE
        return self.marks[mark] + sum(memoryview(self.table)[mark * _MARK_DISTANCE : sample])

    def slice(self, first: int, end: int) -> Sizes:
        """The sizes of samples `first` to `end` (exclusive)."""
        return Sizes(end - first, self.constant, None if self.table is None else self.table[first:end])

    def resized(self, count: int) -> Sizes:
        """The sizes of the first `count` samples."""
        return self if count == self.count else self.slice(0, count)


@dataclass(frozen=True, slots=True)
class Chunks:
    """The chunks of a track: runs of samples that are contiguous in the file."""

    offsets: array[int]
    counts: array[int]  # samples in each chunk, never 0
    descriptions: Runs  # the sample description of each chunk, from 1
    starts: array[int] = field(repr=False, compare=False)  # first sample of each chunk; the last entry is the total

    @classmethod
    def of(cls, offsets: array[int], counts: array[int], descriptions: Runs) -> Chunks:
        """Chunks at these offsets with these numbers of samples."""
        return cls(offsets, counts, descriptions, _running_sums(counts))

    @classmethod
    def none(cls) -> Chunks:
        """No chunks."""
        return cls.of(array("Q"), array("I"), Runs.constant(0, 0))

    @classmethod
    def concat(cls, parts: Sequence[Chunks]) -> Chunks:
        """The chunks of all parts, one part after the other."""
        offsets = array("Q", chain.from_iterable(part.offsets for part in parts))
        counts = array("I", chain.from_iterable(part.counts for part in parts))
        return cls.of(offsets, counts, Runs.concat(part.descriptions for part in parts))

    def slice(self, sizes: Sizes, first: int, end: int) -> Chunks:
        """The chunks with samples `first` to `end` (exclusive). The first and last chunk are trimmed to them."""
        if first >= end:
            return Chunks.none()
        low, high = bisect_right(self.starts, first) - 1, bisect_left(self.starts, end)
        offsets, counts = self.offsets[low:high], self.counts[low:high]
        offsets[0] += sizes.between(self.starts[low], first)
        counts[-1] -= self.starts[high] - end
        counts[0] -= first - self.starts[low]
        return Chunks.of(offsets, counts, self.descriptions.slice(low, high))

    def lengths(self, sizes: Sizes) -> Iterable[int]:
        """The size of each chunk in bytes."""
        if sizes.table is None:
            return map(mul, self.counts, repeat(sizes.constant or 0))
        if len(self.counts) == sizes.count:  # one sample in each chunk
            return sizes.table
        blocks = range(0, len(self.counts), _BLOCK)  # because a table of all sums is large
        return chain.from_iterable(self._sums(memoryview(sizes.table), low, low + _BLOCK) for low in blocks)

    def _sums(self, sizes: memoryview[int], low: int, high: int) -> Iterable[int]:
        """The sum of the sizes of each of the chunks `low` to `high` (exclusive)."""
        ends = array("I", accumulate(self.counts[low:high]))
        first = self.starts[low]
        running = array("Q", accumulate(sizes[first : first + ends[-1]], initial=0))
        at_ends = array("Q", map(running.__getitem__, ends))
        return chain(at_ends[:1], map(sub, at_ends[1:], at_ends))

    def max_end(self, sizes: Sizes) -> int:
        """The highest offset at which a chunk ends, or 0. Chunks that cannot be the one are not summed."""
        if not self.offsets:
            return 0
        largest = max(self.counts) * (max(sizes.table, default=0) if sizes.table is not None else sizes.constant or 0)
        highest = max(self.offsets)
        candidates = compress(range(len(self.offsets)), map(ge, self.offsets, repeat(highest - largest)))
        return max(self.offsets[number] + sizes.between(*self.starts[number : number + 2]) for number in candidates)

    def at(self, offsets: Iterable[int]) -> Chunks:
        """The same chunks at other offsets."""
        return Chunks(array("Q", offsets), self.counts, self.descriptions, self.starts)


@dataclass(frozen=True, slots=True)
class SampleGroup:
    """Samples that share a property, such as "needs one sample of pre-roll" (8.9): an `sbgp` box and its `sgpd`."""

    grouping: bytes  # grouping type, and in version 1 its parameter
    members: Runs  # description index of each sample; 0: in no group
    description: bytes  # payload of the sgpd box

    def slice(self, first: int, end: int) -> SampleGroup:
        """The group indexes of samples `first` to `end` (exclusive)."""
        return replace(self, members=self.members.slice(first, end))


@dataclass(frozen=True, slots=True)
class SampleTable:
    """Everything that `stbl` says about the samples of a track except their sample descriptions (`stsd`)."""

    durations: Runs  # stts: decode time from one sample to the next
    offsets: Runs | None  # ctts: composition time minus decode time
    sizes: Sizes
    sync: array[int] | None  # numbers of the sync samples, from 0. None: all samples
    chunks: Chunks
    per_sample: dict[bytes, bytes] = field(default_factory=dict)  # the payloads of `PER_SAMPLE_BYTES`
    groups: tuple[SampleGroup, ...] = ()
    partial_sync: array[int] | None = None  # QuickTime's stps: sync samples of open GOPs
    has_bounds: bool = False  # whether there was a cslg box. A new one is computed from the offsets

    @property
    def count(self) -> int:
        """The number of samples."""
        return self.sizes.count

    @property
    def media_duration(self) -> int:
        """The sum of all sample durations, in ticks."""
        return self.durations.total()

    @property
    def is_pcm(self) -> bool:
        """Whether the samples are PCM audio: one tick and the same size each."""
        return self.sizes.constant is not None and all(duration == 1 for duration in self.durations.values)

    @classmethod
    def empty(cls) -> SampleTable:
        """A table without samples."""
        return cls(Runs.constant(0, 0), None, Sizes.of(array("I")), None, Chunks.none())

    def slice(self, first: int, end: int) -> SampleTable:
        """Samples `first` to `end` (exclusive), numbered and timed from 0."""
        return SampleTable(
            durations=self.durations.slice(first, end),
            offsets=None if self.offsets is None else self.offsets.slice(first, end),
            sizes=self.sizes.slice(first, end),
            sync=_slice_numbers(self.sync, first, end),
            chunks=self.chunks.slice(self.sizes, first, end),
            per_sample={kind: _slice_bytes(kind, data, first, end) for kind, data in self.per_sample.items()},
            groups=tuple(group.slice(first, end) for group in self.groups),
            partial_sync=_slice_numbers(self.partial_sync, first, end),
            has_bounds=self.has_bounds,
        )

    def with_first_longer(self, by_bytes: int) -> SampleTable:
        """The same table, but the first sample begins this much earlier in the file, or later if it is negative."""
        first = Sizes.of(array("I", [self.sizes.between(0, 1) + by_bytes]))
        sizes = Sizes.concat([first, self.sizes.slice(1, self.count)])
        offsets = self.chunks.offsets
        return replace(self, sizes=sizes, chunks=self.chunks.at([offsets[0] - by_bytes, *offsets[1:]]))

    def slice_times(self, first: int, end: int) -> SampleTable:
        """Only the times of samples `first` to `end` (exclusive), without sizes and chunks."""
        offsets = None if self.offsets is None else self.offsets.slice(first, end)
        return SampleTable(self.durations.slice(first, end), offsets, Sizes.same(end - first, 0), None, Chunks.none())

    def composition_start(self) -> int:
        """The earliest composition time. It belongs to one of the first samples, not always to the first."""
        head = self.slice_times(0, min(self.count, MAX_REORDER))
        return min(head.all_composition_times(), default=0)

    def composition_end(self) -> int:
        """When the last frame ends: the latest composition time plus duration."""
        # Some writers (Android) give the last frame a duration of 0. An edit list up to its start would hide it.
        durations = (max(duration, 1) for duration in self._tail().durations)
        return max(map(add, self.last_composition_times(), durations), default=0)

    def last_composition_times(self) -> array[int]:
        """The composition times of the last samples in decode order. The latest composition time is among them."""
        tail = self._tail()
        begin = self.media_duration - tail.media_duration
        return array("q", (begin + time for time in tail.all_composition_times()))

    def all_composition_times(self) -> array[int]:
        """The composition time of every sample. Only for tracks whose number of samples is limited by their tables."""
        decode_times = Timeline.of(self.durations).all_times()
        if self.offsets is None:
            return decode_times
        return array("q", map(add, decode_times, self.offsets))

    def _tail(self) -> SampleTable:
        return self.slice_times(max(0, self.count - MAX_REORDER), self.count)


def _slice_bytes(kind: bytes, data: bytes, first: int, end: int) -> bytes:
    width = PER_SAMPLE_BYTES[kind]
    return data[first * width : end * width]


def _slice_numbers(numbers: array[int] | None, first: int, end: int) -> array[int] | None:
    if numbers is None:
        return None
    kept = numbers[bisect_left(numbers, first) : bisect_left(numbers, end)]
    return array("Q", (number - first for number in kept))


def concat_tables(parts: Sequence[SampleTable]) -> SampleTable:
    """The samples of all parts, one part after the other."""
    firsts = list(accumulate((part.count for part in parts), initial=0))
    return SampleTable(
        durations=Runs.concat(part.durations for part in parts),
        offsets=_concat_offsets(parts),
        sizes=Sizes.concat([part.sizes for part in parts]),
        sync=_concat_numbers([part.sync for part in parts], parts, firsts),
        chunks=Chunks.concat([part.chunks for part in parts]),
        per_sample=_concat_per_sample(parts),
        groups=_concat_groups([part for part in parts if part.count]),
        partial_sync=_concat_partial_sync(parts, firsts),
        has_bounds=any(part.has_bounds for part in parts),
    )


def _concat_offsets(parts: Sequence[SampleTable]) -> Runs | None:
    if all(part.offsets is None for part in parts):
        return None
    return Runs.concat(part.offsets or Runs.constant(part.count, 0) for part in parts)


def _concat_numbers(
    numbers: Sequence[array[int] | None], parts: Sequence[SampleTable], firsts: Sequence[int]
) -> array[int] | None:
    if all(each is None for each, part in zip(numbers, parts, strict=True) if part.count):
        return None
    joined = array("Q")
    for each, part, first in zip(numbers, parts, firsts, strict=False):
        joined.extend(first + number for number in (range(part.count) if each is None else each))
    return joined


def _concat_partial_sync(parts: Sequence[SampleTable], firsts: Sequence[int]) -> array[int] | None:
    if all(part.partial_sync is None for part in parts):
        return None
    return _concat_numbers([part.partial_sync or array("Q") for part in parts], parts, firsts)


def _concat_per_sample(parts: Sequence[SampleTable]) -> dict[bytes, bytes]:
    """The tables that every part has. Zeros for the samples of the other parts would be a statement about them."""
    kinds = set(PER_SAMPLE_BYTES)
    for part in parts:
        if part.count:
            kinds &= set(part.per_sample)
    return {kind: b"".join(part.per_sample.get(kind, b"") for part in parts) for kind in sorted(kinds)}


def _concat_groups(parts: Sequence[SampleTable]) -> tuple[SampleGroup, ...]:
    """The groupings that all parts describe in the same way. In the others, the same index has several meanings."""
    keys = dict.fromkeys((group.grouping, group.description) for part in parts for group in part.groups)
    joined = []
    for grouping, description in keys:
        if sum(other == grouping for other, _ in keys) == 1:
            members = Runs.concat(_members(part, grouping) for part in parts)
            joined.append(SampleGroup(grouping, members, description))
    return tuple(joined)


def _members(table: SampleTable, grouping: bytes) -> Runs:
    found = next((group.members for group in table.groups if group.grouping == grouping), None)
    return Runs.constant(table.count, 0) if found is None else found
