"""The cut rule: at which samples of a track a segment can start.

A decoder can start at a sync sample. In an open GOP, leading samples follow the sync sample in decode order but are
presented before it, and refer to frames before it:

    decode order          ... P  B  B | S  L  L  P  B  B | S' L' L' ...
    presentation order    ... B  B  P  L  L | S  B  B  P  L' L' | S' ...

So leading samples belong to the segment before: it ends with a copy of the sync sample and its leading samples, and its
edit list ends when the sync sample is presented (`split` does that). A closed GOP has no leading samples.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, TypeAlias

from .presented import refuse_too_many
from .samples import MAX_REORDER, SampleTable, Timeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from fractions import Fraction

    from media_worker.byte_ranges import ByteRange

    from .forward_keys import ForwardKeys

PCM_PACKET_SAMPLES = 1024
# "Visual random access entry": sync samples of open GOPs (ISO/IEC 14496-12, 10.4).
_RANDOM_ACCESS_GROUP = b"rap "


@dataclass(frozen=True, slots=True)
class Cut:
    """A sample that a segment may start with, its composition time and its decode time in track ticks.

    `leading` samples follow it in decode order and are presented before it. `key` are bytes of the file to put before
    it, in the same sample, so that a decoder can start there (`forward_keys`).
    """

    sample: int
    media_time: int
    decode_time: int
    leading: int = 0
    key: ByteRange | None = None

    @property
    def overlap(self) -> int:
        """How many samples from this one on are also at the end of the segment before."""
        return self.leading + 1 if self.leading else 0


class CutPoints:
    """The samples of one track at which a segment can start."""

    def __init__(
        self,
        table: SampleTable,
        *,
        with_open_gops: bool = False,
        any_sample: bool = False,
        forward_keys: ForwardKeys | None = None,
    ) -> None:
        """Find the cut points.

        `with_open_gops`: also sync samples that have leading samples. `any_sample`: every sample may be a sync sample,
        whatever the table says, so the caller must verify the samples. `forward_keys`: also forward key frames, if the
        samples are presented in decode order, as in AV1.

        Raises:
            Unsupported: the track has too many reordered samples.
        """
        self._table, self._forward_keys = table, forward_keys
        self._timeline = Timeline.of(table.durations)
        self.end = Cut(table.count, table.composition_end(), self._timeline.run_times[-1])
        self._sync = None if any_sample else _sync_samples(table, with_open_gops=with_open_gops)
        self._reordered: _GopStarts | None = None
        self._earliest: array[int] | None = None
        if table.offsets is not None and any(table.offsets.values):
            refuse_too_many(table)
            # Without stss, all samples are sync samples (8.6.2). Reordered frames depend on each other, so here the
            # writer forgot the box, and only the first sample is known to be one.
            known = array("Q", [0]) if self._sync is None and not any_sample else self._sync
            self._reordered = _gop_starts(table, known, MAX_REORDER if with_open_gops else 0)

    def first_at(self, time: Fraction | int) -> Cut:
        """The first cut point at or after media time `time`, or `end` if there is none."""
        if self._reordered is None:
            return self._first_in_order(math.ceil(time))
        samples, times, leading = self._reordered
        index = bisect_left(times, math.ceil(time))
        if index == len(times):
            return self.end
        return Cut(samples[index], times[index], self._timeline.time_of(samples[index]), leading[index])

    def from_time(self, time: Fraction | int) -> Iterator[Cut]:
        """All cut points at or after media time `time`, in order."""
        while (cut := self.first_at(time)).sample < self.end.sample:
            yield cut
            time = cut.media_time + 1

    def back_from(self, time: Fraction | int) -> Iterator[Cut]:
        """All cut points at or before media time `time`, the latest first."""
        while (cut := self._last_at(math.floor(time))) is not None:
            yield cut
            time = cut.media_time - 1

    def end_of(self, media_end: int) -> int:
        """The sample behind the last one, in decode order, whose composition time is before `media_end`."""
        if self._reordered is None:
            return min(self._timeline.first_at(media_end), self._table.count)
        if self._earliest is None:
            self._earliest = _earliest_from_here(self._table.all_composition_times())
        return bisect_left(self._earliest, media_end)

    def _last_at(self, time: int) -> Cut | None:
        if self._reordered is None:
            return self._last_in_order(time)
        samples, times, leading = self._reordered
        index = bisect_right(times, time) - 1
        if index < 0:
            return None
        return Cut(samples[index], times[index], self._timeline.time_of(samples[index]), leading[index])

    def _last_in_order(self, time: int) -> Cut | None:
        sample = min(self._timeline.first_at(time + 1), self._table.count) - 1
        if sample >= 0 and self._sync is not None:
            index = bisect_right(self._sync, sample) - 1
            sync = self._sync[index] if index >= 0 else -1
            found = self._forward_keys.last(sync + 1, sample + 1) if self._forward_keys and sync < sample else None
            sample = sync if found is None else found
        return self._cut_in_order(sample) if time >= 0 and sample >= 0 else None

    def _first_in_order(self, time: int) -> Cut:
        """The same for a track whose samples are presented in decode order."""
        table = self._table
        sample = self._timeline.first_at(time)
        if table.is_pcm:
            sample = _next_pcm_packet(table, sample)
        if self._sync is not None:
            index = bisect_left(self._sync, sample)
            sync = self._sync[index] if index < len(self._sync) else table.count
            found = self._forward_keys.first(sample, sync) if self._forward_keys and sample < sync else None
            sample = sync if found is None else found
        return self._cut_in_order(sample) if sample < table.count else self.end

    def _cut_in_order(self, sample: int) -> Cut:
        decode_time = self._timeline.time_of(sample)
        key = self._forward_keys.key_of(sample) if self._forward_keys else None
        return Cut(sample, decode_time, decode_time, key=key)


def _sync_samples(table: SampleTable, *, with_open_gops: bool) -> array[int] | None:
    """The samples at which a decoder can start, or None if it can start at all of them."""
    if table.sync is None or not with_open_gops:
        return table.sync
    groups = [group.members for group in table.groups if group.grouping == _RANDOM_ACCESS_GROUP]
    others = [list(table.partial_sync or ())]
    for members in groups:
        in_group = (range(*members.starts[run : run + 2]) for run, value in enumerate(members.values) if value)
        others.extend(map(list, in_group))
    return array("Q", sorted(set(table.sync).union(*others))) if any(others) else table.sync


_GopStarts: TypeAlias = "tuple[array[int], array[int], array[int]]"  # Python 3.11 knows no array[int]


def _gop_starts(table: SampleTable, sync: array[int] | None, max_leading: int) -> _GopStarts:
    """The sync samples at which a segment can start, their composition times and how many leading samples they have.

    Every sample before one of them is presented before it. Its leading samples follow it immediately.
    """
    times = table.all_composition_times()
    latest_so_far = array("q", accumulate(times, max))
    earliest_from_here = _earliest_from_here(times)

    def leading_of(sample: int) -> int:
        """The number of leading samples, or -1 if a segment cannot start here."""
        time = times[sample]
        if sample and latest_so_far[sample - 1] >= time:
            return -1
        end = sample + 1
        if end == len(times) or earliest_from_here[end] > time:
            return 0
        while end < len(times) and times[end] < time and end - sample <= max_leading:
            end += 1
        is_rest_later = end == len(times) or earliest_from_here[end] > time
        return end - sample - 1 if is_rest_later and end - sample - 1 <= max_leading else -1

    candidates: Iterable[int] = range(table.count) if sync is None else sync
    samples, counts = array("Q"), array("H")
    for sample in candidates:
        if (leading := leading_of(sample)) >= 0:
            samples.append(sample)
            counts.append(leading)
    return samples, array("q", map(times.__getitem__, samples)), counts


def _earliest_from_here(times: array[int]) -> array[int]:
    """For each sample, the earliest of its own time and the times of the samples behind it."""
    earliest = array("q", accumulate(reversed(times), min))
    earliest.reverse()
    return earliest


def _next_pcm_packet(table: SampleTable, sample: int) -> int:
    """The next sample at which players start a packet. They read up to 1024 samples at once, but not across chunks."""
    chunks = table.chunks
    number = bisect_right(chunks.starts, sample) - 1
    if sample >= table.count:
        return table.count
    begin = chunks.starts[number]
    rounded = begin + -(-(sample - begin) // PCM_PACKET_SAMPLES) * PCM_PACKET_SAMPLES
    return min(rounded, chunks.starts[number + 1])
