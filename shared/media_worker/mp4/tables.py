"""The sample table of one track: every sample's time, size and place (ISO/IEC 14496-12, 8.6 and 8.7).

Arrays and runs, never one object per sample: ten hours of 60 fps video with audio are four million samples.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, repeat
from operator import add, mul, sub

from .groups import SampleGroup
from .runs import Runs, Timeline


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of each sample: one number for all (PCM), or a table with its running sums."""

    count: int
    constant: int | None
    table: array[int] | None = None
    sums: array[int] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def same(cls, count: int, size_bytes: int) -> Sizes:
        return cls(count, size_bytes)

    @classmethod
    def of(cls, table: array[int]) -> Sizes:
        return cls(len(table), None, table, array("Q", accumulate(table, initial=0)))

    def between(self, first: int, end: int) -> int:
        """The bytes of samples `first` to `end` (exclusive) together."""
        if self.sums is None:
            return (end - first) * (self.constant or 0)
        return self.sums[end] - self.sums[first]

    def slice(self, first: int, end: int) -> Sizes:
        return Sizes.of(self.table[first:end]) if self.table is not None else Sizes(end - first, self.constant)

    def resized(self, count: int) -> Sizes:
        return self if count == self.count else self.slice(0, count)

    @classmethod
    def concat(cls, parts: Sequence[Sizes]) -> Sizes:
        parts = [part for part in parts if part.count]
        constants = {part.constant for part in parts}
        if len(constants) == 1 and None not in constants:
            return cls(sum(part.count for part in parts), parts[0].constant)
        table = array("I")
        for part in parts:
            table.extend(part.table if part.table is not None else array("I", [part.constant or 0]) * part.count)
        return cls.of(table)


@dataclass(frozen=True, slots=True)
class Chunks:
    """Where the samples lie: runs of samples that are contiguous in the file."""

    offsets: array[int]
    counts: array[int]  # samples in each chunk, never 0
    descriptions: Runs  # the sample description of each chunk, from 1
    starts: array[int] = field(repr=False, compare=False)  # first sample of each chunk; the last entry is the total

    @classmethod
    def of(cls, offsets: array[int], counts: array[int], descriptions: Runs) -> Chunks:
        return cls(offsets, counts, descriptions, array("Q", accumulate(counts, initial=0)))

    @classmethod
    def none(cls) -> Chunks:
        return cls.of(array("Q"), array("I"), Runs.constant(0, 0))

    def slice(self, sizes: Sizes, first: int, end: int) -> Chunks:
        """The chunks with samples `first` to `end` (exclusive), the outer ones trimmed to that."""
        if first >= end:
            return Chunks.none()
        low, high = bisect_right(self.starts, first) - 1, bisect_left(self.starts, end)
        offsets, counts = self.offsets[low:high], self.counts[low:high]
        offsets[0] += sizes.between(self.starts[low], first)
        counts[-1] -= self.starts[high] - end
        counts[0] -= first - self.starts[low]
        return Chunks.of(offsets, counts, self.descriptions.slice(low, high))

    def lengths(self, sizes: Sizes) -> Iterable[int]:
        """The bytes of each chunk."""
        if sizes.sums is None:
            return map(mul, self.counts, repeat(sizes.constant or 0))
        sums = array("Q", map(sizes.sums.__getitem__, self.starts))
        return map(sub, sums[1:], sums)

    def moved(self, offsets: Iterable[int], description_shift: int = 0) -> Chunks:
        return Chunks(array("Q", offsets), self.counts, self.descriptions.shifted(description_shift), self.starts)

    @classmethod
    def concat(cls, parts: Sequence[Chunks]) -> Chunks:
        offsets = array("Q", chain.from_iterable(part.offsets for part in parts))
        counts = array("I", chain.from_iterable(part.counts for part in parts))
        return cls.of(offsets, counts, Runs.concat(part.descriptions for part in parts))


# No codec holds back more pictures than this (H.264 and HEVC: 16), times a wide margin.
MAX_REORDER = 256


@dataclass(frozen=True, slots=True)
class SampleTable:
    """All that `stbl` says about the samples of one track, apart from what they are (`stsd`)."""

    durations: Runs  # stts: decode time from one sample to the next
    offsets: Runs | None  # ctts: composition time minus decode time
    sizes: Sizes
    sync: array[int] | None  # numbers from 0 of the sync samples; None: all of them
    chunks: Chunks
    per_sample: dict[bytes, bytes] = field(default_factory=dict)  # sdtp and the like: so many bytes for each sample
    groups: tuple[SampleGroup, ...] = ()
    partial_sync: array[int] | None = None  # QuickTime's stps: open-GOP pictures

    @property
    def count(self) -> int:
        return self.sizes.count

    @property
    def media_duration(self) -> int:
        return self.durations.total()

    @property
    def is_pcm(self) -> bool:
        """One tick and the same few bytes for each sample: sound as plain numbers."""
        return self.sizes.constant is not None and all(duration == 1 for duration in self.durations.values)

    def slice(self, first: int, end: int) -> SampleTable:
        """Samples `first` to `end` (exclusive) on their own, numbered and timed from 0."""
        return SampleTable(
            durations=self.durations.slice(first, end),
            offsets=None if self.offsets is None else self.offsets.slice(first, end),
            sizes=self.sizes.slice(first, end),
            sync=_sliced_numbers(self.sync, first, end),
            chunks=self.chunks.slice(self.sizes, first, end),
            per_sample={kind: _sliced_bytes(kind, data, first, end) for kind, data in self.per_sample.items()},
            groups=tuple(group.slice(first, end) for group in self.groups),
            partial_sync=_sliced_numbers(self.partial_sync, first, end),
        )

    def composition_start(self) -> int:
        """When the first picture is composed: the earliest of the first few, for they may be out of order."""
        head = self.slice_times(0, min(self.count, MAX_REORDER))
        return min(head.all_composition_times(), default=0)

    def composition_end(self) -> int:
        """When the last picture to be shown has been shown."""
        if self.offsets is None:
            return self.media_duration
        tail = self._tail()
        return max(map(add, self.last_composition_times(), tail.durations), default=0)

    def last_composition_times(self) -> array[int]:
        """Composition times of the last few samples: the last one shown is among them."""
        tail = self._tail()
        begin = self.media_duration - tail.media_duration
        return array("q", (begin + time for time in tail.all_composition_times()))

    def _tail(self) -> SampleTable:
        return self.slice_times(max(0, self.count - MAX_REORDER), self.count)

    def slice_times(self, first: int, end: int) -> SampleTable:
        """Only the times of samples `first` to `end` (exclusive); no sizes, no places."""
        offsets = None if self.offsets is None else self.offsets.slice(first, end)
        return SampleTable(self.durations.slice(first, end), offsets, Sizes.same(end - first, 0), None, Chunks.none())

    @classmethod
    def empty(cls) -> SampleTable:
        return cls(Runs.constant(0, 0), None, Sizes.of(array("I")), None, Chunks.none())

    def all_composition_times(self) -> array[int]:
        """Composition time of every sample. Only for tracks whose sample count is bounded by their tables."""
        decode_times = Timeline.of(self.durations).all_times()
        if self.offsets is None:
            return decode_times
        return array("q", map(add, decode_times, self.offsets))


PER_SAMPLE_BYTES = {b"sdtp": 1, b"stdp": 2}


def _sliced_bytes(kind: bytes, data: bytes, first: int, end: int) -> bytes:
    width = PER_SAMPLE_BYTES[kind]
    return data[first * width : end * width]


def _sliced_numbers(numbers: array[int] | None, first: int, end: int) -> array[int] | None:
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
        groups=SampleGroup.concat([(part.groups, part.count) for part in parts]),
        partial_sync=_concat_partial_sync(parts, firsts),
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
    """Only what every part has: zeros would claim something about the samples of the others."""
    kinds = set(PER_SAMPLE_BYTES)
    for part in parts:
        if part.count:
            kinds &= set(part.per_sample)
    return {kind: b"".join(part.per_sample.get(kind, b"") for part in parts) for kind in sorted(kinds)}
