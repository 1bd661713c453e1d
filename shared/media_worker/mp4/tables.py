"""The sample table of one track: every sample's time, size and place (ISO/IEC 14496-12, 8.6 and 8.7).

Arrays and runs, never one object per sample: ten hours of 60 fps video with audio are four million samples.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from dataclasses import dataclass, field
from itertools import accumulate
from operator import add
from typing import TYPE_CHECKING

from .groups import SampleGroup
from .places import Chunks, Sizes
from .runs import Runs, Timeline

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    has_bounds: bool = False  # was there a cslg? It is made anew from the offsets

    @property
    def count(self) -> int:
        """How many samples there are."""
        return self.sizes.count

    @property
    def media_duration(self) -> int:
        """How long they last, in ticks."""
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
            has_bounds=self.has_bounds,
        )

    def composition_start(self) -> int:
        """When the first picture is composed: the earliest of the first few, for they may be out of order."""
        head = self.slice_times(0, min(self.count, MAX_REORDER))
        return min(head.all_composition_times(), default=0)

    def composition_end(self) -> int:
        """When the last picture to be shown has been shown."""
        # Some writers (Android) give the last picture no duration; an edit list that ended with it would hide it.
        lasting = (max(duration, 1) for duration in self._tail().durations)
        return max(map(add, self.last_composition_times(), lasting), default=0)

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
        """A track without samples."""
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
    """Only what every part has: zeros would claim something about the samples of the others."""
    kinds = set(PER_SAMPLE_BYTES)
    for part in parts:
        if part.count:
            kinds &= set(part.per_sample)
    return {kind: b"".join(part.per_sample.get(kind, b"") for part in parts) for kind in sorted(kinds)}
