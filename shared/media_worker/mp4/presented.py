"""The frames of a track that a movie presents: how many, when, and how long each lasts.

Edit lists are in ticks of the movie, which are often coarser than those of the track: ffmpeg writes milliseconds. So
the end of an edit list may be up to one movie tick beside the end of a frame. A frame that an edit list touches only by
that much is not presented.

`FrameOrder` has the composition times of all frames in order. `PresentedFrames` numbers the frames that the edit list
presents, from 0 in the order of presentation.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, pairwise
from operator import sub
from typing import TYPE_CHECKING

from .edit_list import PresentedRange, every_range
from .errors import Unsupported
from .samples import MAX_REORDER, SampleTable, Timeline

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .movie import Track

# A composition time of each sample takes 8 bytes of memory. This limits what a hostile file can use.
MAX_REORDERED_SAMPLES = 32_000_000
# How exact the times of a segment are that a worker wrote: ffmpeg's movie timescale is 1000.
ROUNDING_S = Fraction(1, 1000)
_SORTED_AT_ONCE = 1 << 15


@dataclass(frozen=True, slots=True)
class Presented:
    """What a video track presents, or one segment of it.

    frames: presented frames. Those that the edit list hides do not count.
    start_s: presentation time of the first presented frame in the movie.
    duration_s: from the first presented frame to the end of the last.
    longest_frame_s: the longest interval from one presented frame to the next. For the last frame it is its duration.
    first_frame_s: the interval from the first presented frame to the next.
    """

    frames: int
    start_s: Fraction
    duration_s: Fraction
    longest_frame_s: Fraction
    first_frame_s: Fraction

    @property
    def end_s(self) -> Fraction:
        """When the last frame ends."""
        return self.start_s + self.duration_s


# Composition times in order


class FrameOrder:
    """The composition times of the frames of a track, in the order of presentation and in ticks.

    Frames that are presented in decode order need no table: their times are computed from runs of durations.
    """

    def __init__(self, table: SampleTable) -> None:
        """Sort the composition times.

        Raises:
            Unsupported: the track has too many reordered samples.
        """
        self.count = table.count
        self.end = table.composition_end()
        self._timeline = Timeline.of(table.durations)
        self._times: array[int] | None = None
        if table.offsets is not None and any(table.offsets.values):
            refuse_too_many(table)
            self._times = _sorted(table.all_composition_times())

    def time_of(self, frame: int) -> int:
        """The composition time of a frame, or the end of the last frame if there is no such frame."""
        if frame >= self.count:
            return self.end
        return self._timeline.time_of(frame) if self._times is None else self._times[frame]

    def first_at(self, time: Fraction | int) -> int:
        """The first frame at or after `time`, or the number of frames if there is none."""
        if self._times is None:
            return min(self._timeline.first_at(math.ceil(time)), self.count)
        return bisect_left(self._times, math.ceil(time))

    def longest_interval(self, first: int, last: int) -> int:
        """The longest interval between consecutive frames from `first` to `last` (inclusive)."""
        if self._times is None:
            return max(self._timeline.durations.slice(first, last).values, default=0)
        return max(map(sub, self._times[first + 1 : last + 1], self._times[first:last]), default=0)


def refuse_too_many(table: SampleTable) -> None:
    """Raise `Unsupported` if the composition times of all samples would take too much memory."""
    if table.count > MAX_REORDERED_SAMPLES:
        raise Unsupported(f"{table.count} reordered samples, more than the limit of {MAX_REORDERED_SAMPLES}")


def _sorted(times: array[int]) -> array[int]:
    """The times in order. Sorted in blocks, because a list of all of them takes five times the memory."""
    ordered = array("q")
    waiting: list[int] = []
    for start in range(0, len(times), _SORTED_AT_ONCE):
        waiting = sorted([*waiting, *times[start : start + _SORTED_AT_ONCE]])
        if ordered and waiting[0] < ordered[-1]:  # reordered further than any decoder does
            return array("q", sorted(times))
        ordered.extend(waiting[:-MAX_REORDER])
        waiting = waiting[-MAX_REORDER:]
    ordered.extend(waiting)
    return ordered


# Presented frames


@dataclass(frozen=True, slots=True)
class _Part:
    """Frames `first` to `end` (exclusive) in the order of composition, which one entry of the edit list presents."""

    range: PresentedRange
    first: int
    end: int


class PresentedFrames:
    """The frames that a track presents. Their presentation times are in ticks of the track."""

    def __init__(self, track: Track, movie_timescale: int, order: FrameOrder | None = None) -> None:
        """Find the presented frames. `order`: the track's, if it is already known."""
        self.order = FrameOrder(track.table) if order is None else order
        self.timescale = track.timescale
        is_exact = movie_timescale % track.timescale == 0
        self._rounding = Fraction(0) if is_exact else Fraction(track.timescale, movie_timescale)
        self._parts = tuple(self._find_parts(every_range(track.edits, track.timescale, movie_timescale)))
        self._firsts = list(accumulate((part.end - part.first for part in self._parts), initial=0))

    @property
    def count(self) -> int:
        """The number of presented frames."""
        return self._firsts[-1]

    def before(self, media_time: int) -> int:
        """How many presented frames have an earlier composition time."""
        frame = self.order.first_at(media_time)
        return sum(min(max(frame, part.first), part.end) - part.first for part in self._parts)

    def media_time_of(self, number: int) -> int:
        """The composition time of presented frame `number`."""
        part = self._part_of(number)
        return self.order.time_of(self._parts[part].first + number - self._firsts[part])

    def time_of(self, number: int) -> Fraction:
        """The presentation time of presented frame `number`, or the end of the last one if there is no such frame."""
        if number >= self.count:
            return self._end_of(self._parts[-1]) if self._parts else Fraction(0)
        presented = self._parts[self._part_of(number)].range
        return presented.start + max(Fraction(0), self.media_time_of(number) - presented.media_start)

    def between(self, first: int, end: int) -> Presented:
        """Presented frames `first` to `end` (exclusive). The last one lasts until the next one, if there is one."""
        start, stop = self.time_of(first), self.time_of(end)
        return Presented(
            frames=end - first,
            start_s=start / self.timescale,
            duration_s=(stop - start) / self.timescale,
            longest_frame_s=self._longest(first, end) / self.timescale,
            first_frame_s=(self.time_of(first + 1) - start) / self.timescale,
        )

    def all(self) -> Presented:
        """All presented frames."""
        return self.between(0, self.count)

    def _find_parts(self, ranges: tuple[PresentedRange, ...]) -> Iterator[_Part]:
        previous: _Part | None = None
        for each in ranges:
            first = self._first_presented(each.media_start)
            if previous is not None and previous.range.media_end is not None:
                is_next = previous.range.media_end <= each.media_start
                first = max(first, previous.end) if is_next else first
            end = self.order.count if each.media_end is None else self._end_presented(first, each.media_end)
            if first < end:
                previous = _Part(each, first, end)
                yield previous

    def _first_presented(self, media_start: Fraction) -> int:
        """The first frame from `media_start` on. Readers discard a frame that starts before it."""
        frame = self.order.first_at(media_start)
        if frame and media_start - self.order.time_of(frame - 1) < self._tolerance(frame - 1):
            return frame - 1
        return frame

    def _end_presented(self, first: int, media_end: Fraction) -> int:
        """The frame behind the last one that is presented before `media_end`."""
        end = self.order.first_at(media_end)
        while end > first and media_end - self.order.time_of(end - 1) <= self._tolerance(end - 1):
            end -= 1
        return end

    def _tolerance(self, frame: int) -> Fraction:
        """How much of a frame may be presented or hidden by rounding: a movie tick, but less than half of the frame."""
        return min(self._rounding, Fraction(self.order.time_of(frame + 1) - self.order.time_of(frame), 2))

    def _part_of(self, number: int) -> int:
        return bisect_right(self._firsts, number, 0, len(self._parts)) - 1

    def _end_of(self, part: _Part) -> Fraction:
        """The presentation time at which the last frame of a part ends: where the edit list ends, or by itself."""
        presented = part.range
        media_end = Fraction(self.order.time_of(part.end))
        if presented.media_end is not None and media_end - presented.media_end > self._tolerance(part.end - 1):
            media_end = presented.media_end
        return presented.start + media_end - presented.media_start

    def _longest(self, first: int, end: int) -> Fraction:
        if first >= end:
            return Fraction(0)
        # Intervals inside a part, then from the last frame of each part to the frame that is presented next.
        longest, edges = Fraction(0), {end - 1}
        for part, (part_first, part_end) in zip(self._parts, pairwise(self._firsts), strict=True):
            low, high = max(first, part_first), min(end, part_end)
            if low < high:
                at = part.first - part_first
                longest = max(longest, Fraction(self.order.longest_interval(low + at, high - 1 + at)))
                edges.add(high - 1)
        return max(longest, *(self.time_of(edge + 1) - self.time_of(edge) for edge in edges))


def has_copy_at_end(table: SampleTable, first: int, last: int, until: Fraction, rounding: Fraction) -> bool:
    """Whether the last presented frame is the first frame of the next segment, which a worker has copied.

    It is if it starts when the segment should end: `until` ticks after the first frame, exact to `rounding`. `first`
    and `last` are the composition times of the first and the last presented frame.
    """
    before = max((time for time in table.last_composition_times() if time < last), default=first)
    return last > first and last - first >= until - rounding > before - first
