"""Where a track may be cut so that both sides decode on their own."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from .errors import Unsupported
from .runs import Timeline

if TYPE_CHECKING:
    from collections.abc import Callable
    from fractions import Fraction

    from .tables import SampleTable

# A composition time for each sample is 8 bytes in memory: this bounds what a hostile run count can cost.
MAX_REORDERED_SAMPLES = 32_000_000
PCM_PACKET_SAMPLES = 1024


@dataclass(frozen=True, slots=True)
class Cut:
    """A sample that a segment may begin with, and when it is composed and decoded (track ticks)."""

    sample: int
    media_time: int
    decode_time: int


@dataclass(frozen=True, slots=True)
class CutPoints:
    """The places where one track may be cut, in order."""

    end: Cut
    first_at: Callable[[Fraction], Cut]  # the first place at or after a media time; `end` when there is none


def cut_points(table: SampleTable) -> CutPoints:
    """The cut points of a track: its sync samples, unless pictures that follow them are shown before them."""
    timeline = Timeline.of(table.durations)
    end = Cut(table.count, table.composition_end(), timeline.run_times[-1])
    if table.offsets is None or not any(table.offsets.values):
        return CutPoints(end, lambda time: _first_in_order(table, timeline, end, time))
    if table.count > MAX_REORDERED_SAMPLES:
        raise Unsupported(f"{table.count} samples out of order")
    samples, times = _closed_sync_samples(table)

    def first_at(time: Fraction) -> Cut:
        index = bisect_left(times, math.ceil(time))
        if index == len(times):
            return end
        return Cut(samples[index], times[index], timeline.time_of(samples[index]))

    return CutPoints(end, first_at)


def _first_in_order(table: SampleTable, timeline: Timeline, end: Cut, time: Fraction) -> Cut:
    sample = timeline.first_at(math.ceil(time))
    if table.is_pcm:
        sample = _next_pcm_packet(table, sample)
    if table.sync is not None:
        index = bisect_left(table.sync, sample)
        sample = table.sync[index] if index < len(table.sync) else table.count
    decode_time = timeline.time_of(sample)
    return Cut(sample, decode_time, decode_time) if sample < table.count else end


def _next_pcm_packet(table: SampleTable, sample: int) -> int:
    """The next place where players begin a packet: they read up to 1024 samples at once, but never across chunks."""
    chunks = table.chunks
    number = bisect_right(chunks.starts, sample) - 1
    if sample >= table.count:
        return table.count
    begin = chunks.starts[number]
    rounded = begin + -(-(sample - begin) // PCM_PACKET_SAMPLES) * PCM_PACKET_SAMPLES
    return min(rounded, chunks.starts[number + 1])


def _closed_sync_samples(table: SampleTable) -> tuple[array[int], array[int]]:
    """Sync samples with everything decoded before them shown before them, and everything after them after them.

    A picture after a sync sample that is shown before it ("leading", open GOP) refers to pictures of the previous
    segment: it could not be decoded there.
    """
    times = table.all_composition_times()
    shown_so_far = array("q", accumulate(times, max))
    still_to_come = array("q", accumulate(reversed(times), min))
    still_to_come.reverse()
    # Reordered pictures are predicted from each other, so a missing stss (8.6.2: "all are sync samples") is an
    # omission of the writer, and only the first sample can be trusted.
    sync = table.sync if table.sync is not None else array("Q", [0])
    closed = array(
        "Q",
        (n for n in sync if still_to_come[n] == times[n] and (n == 0 or shown_so_far[n - 1] < times[n])),
    )
    return closed, array("q", (times[number] for number in closed))
