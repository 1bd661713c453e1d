"""Edit lists: which media time is presented at which time of the movie (ISO/IEC 14496-12, 8.6.6).

Times of the movie are called presentation times. All times here are in ticks of the track; presentation times are
`Fraction` because the movie timescale is often coarser than the track's.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from .boxes import Box, full_box, unpack, version_and_flags
from .errors import BrokenFile

if TYPE_CHECKING:
    from collections.abc import Sequence

EMPTY = -1
NORMAL_RATE = 0x10000
_COUNT = struct.Struct(">4xI")
_ENTRY = {0: struct.Struct(">IiI"), 1: struct.Struct(">QqI")}


@dataclass(frozen=True, slots=True)
class Edit:
    """An entry of an edit list: present media from `media_time` (track ticks) for `duration` (movie ticks).

    If `media_time` is `EMPTY`, nothing is presented for that duration.
    """

    duration: int
    media_time: int
    rate: int = NORMAL_RATE

    @property
    def is_empty(self) -> bool:
        """Whether it presents nothing."""
        return self.media_time == EMPTY


@dataclass(frozen=True, slots=True)
class PresentedRange:
    """A range of media that an edit presents: `media_start` to `media_end`, beginning at presentation time `start`."""

    start: Fraction
    media_start: Fraction
    media_end: Fraction | None  # None: to the end of the media

    @property
    def end(self) -> Fraction | None:
        """The presentation time of its end, or None if it extends to the end of the media."""
        return None if self.media_end is None else self.start + self.media_end - self.media_start


def parse_elst(elst: Box | None) -> tuple[Edit, ...]:
    """The entries of an edit list. No edit list means that the media is presented from its start to its end."""
    if elst is None:
        return ()
    version, _ = version_and_flags(elst)
    entry = _ENTRY.get(version)
    (count,) = unpack(_COUNT, elst)
    if entry is None or 8 + count * entry.size > len(elst.payload):
        raise BrokenFile("box elst has fewer entries than it declares")
    return tuple(Edit(*entry.unpack_from(elst.payload, 8 + i * entry.size)) for i in range(count))


def build_elst(edits: Sequence[Edit]) -> Box:
    """The edit list as a box. Version 1 if a number needs 64 bits."""
    is_large = any(edit.duration >= 1 << 32 or edit.media_time >= 1 << 31 for edit in edits)
    entry = _ENTRY[1 if is_large else 0]
    head = full_box(1 if is_large else 0) + struct.pack(">I", len(edits))
    return Box(b"elst", head + b"".join(entry.pack(edit.duration, edit.media_time, edit.rate) for edit in edits))


def presented_ranges(
    edits: Sequence[Edit], track_timescale: int, movie_timescale: int
) -> tuple[PresentedRange, ...] | None:
    """The ranges of media that an edit list presents, in order.

    None if it does not present the media forward, at normal speed and at most once.
    """
    ranges: list[PresentedRange] = []
    time = Fraction(0)
    for number, edit in enumerate(edits):
        length = Fraction(edit.duration * track_timescale, movie_timescale)
        if edit.is_empty:
            time += length
            continue
        # A duration of 0 in the last entry means "to the end of the media" (8.6.6.1).
        is_open = edit.duration == 0 and number == len(edits) - 1
        start = Fraction(edit.media_time)
        goes_back = bool(ranges) and (ranges[-1].media_end is None or start < ranges[-1].media_end)
        if edit.rate != NORMAL_RATE or edit.media_time < 0 or goes_back or (edit.duration == 0 and not is_open):
            return None
        ranges.append(PresentedRange(time, start, None if is_open else start + length))
        time += length
    if edits and not ranges:
        return None
    return tuple(ranges) or (PresentedRange(time, Fraction(0), None),)


def every_range(edits: Sequence[Edit], track_timescale: int, movie_timescale: int) -> tuple[PresentedRange, ...]:
    """The ranges of media that an edit list presents, also if it repeats media. Its speeds are taken as normal."""
    ranges: list[PresentedRange] = []
    time = Fraction(0)
    for number, edit in enumerate(edits):
        length = Fraction(edit.duration * track_timescale, movie_timescale)
        if not edit.is_empty:
            start = Fraction(max(0, edit.media_time))
            is_open = edit.duration == 0 and number == len(edits) - 1
            ranges.append(PresentedRange(time, start, None if is_open else start + length))
        time += length
    return tuple(ranges) if edits else (PresentedRange(time, Fraction(0), None),)


def presentation_time(ranges: Sequence[PresentedRange], media_time: Fraction | int) -> Fraction:
    """When `media_time` is presented. For media that is not presented: when the next presented media is."""
    for each in ranges:
        if each.media_end is None or media_time < each.media_end:
            return each.start + max(Fraction(0), media_time - each.media_start)
    end = ranges[-1].end
    assert end is not None  # a range without an end contains every later time
    return end


def media_time_at(ranges: Sequence[PresentedRange], time: Fraction) -> Fraction | None:
    """The first media time presented at or after presentation time `time`, or None if there is none."""
    for each in ranges:
        if each.end is None or time < each.end:
            return each.media_start + max(Fraction(0), time - each.start)
    return None


def is_presented(ranges: Sequence[PresentedRange], media_time: int) -> bool:
    """Whether `media_time` is presented at all."""
    return any(
        each.media_start <= media_time and (each.media_end is None or media_time < each.media_end) for each in ranges
    )


def clip_ranges(
    ranges: Sequence[PresentedRange], media_start: int | None, media_end: int | None
) -> tuple[PresentedRange, ...]:
    """The parts of `ranges` between two media times (None: no limit). Presentation times do not change."""
    clipped: list[PresentedRange] = []
    for each in ranges:
        start = each.media_start if media_start is None else max(each.media_start, Fraction(media_start))
        end = each.media_end if media_end is None else min(_or(each.media_end, media_end), Fraction(media_end))
        if end is None or start < end:
            clipped.append(PresentedRange(each.start + start - each.media_start, start, end))
    return tuple(clipped)


def _or(value: Fraction | None, default: int) -> Fraction:
    return Fraction(default) if value is None else value


def edits_of(
    ranges: Sequence[PresentedRange],
    *,
    movie_start: Fraction,
    media_zero: int,
    media_end: int,
    track_timescale: int,
    movie_timescale: int,
) -> tuple[Edit, ...]:
    """The edit list that presents `ranges` in a file of its own.

    The file's movie begins at presentation time `movie_start`: what is presented before is left out. Media time 0 of
    the file is `media_zero`. Ranges without an end extend to `media_end`.
    """

    def to_movie(time: Fraction) -> int:
        return _rounded(time * movie_timescale / track_timescale)

    edits: list[Edit] = []
    presented_until = 0  # in movie ticks. Times are rounded, not lengths, so that rounding errors do not add up
    for each in ranges:
        start = to_movie(each.start - movie_start)
        length = max(_or(each.media_end, media_end), each.media_start) - each.media_start
        end = to_movie(each.start - movie_start + length)
        if start > presented_until:
            edits.append(Edit(start - presented_until, EMPTY))
        duration = max(end, presented_until) - max(start, presented_until)
        too_early = max(movie_start - each.start, Fraction(0))
        edits.append(Edit(duration, _rounded(each.media_start + too_early) - media_zero))
        presented_until = max(end, presented_until)
    return tuple(edits)


def rescaled(edits: Sequence[Edit], before: int, after: int) -> tuple[Edit, ...]:
    """The same edit list in another movie timescale. Times are rounded, not durations, so that errors do not add up."""
    ends = accumulate((edit.duration for edit in edits), initial=0)
    times = [_rounded(Fraction(end * after, before)) for end in ends]
    return tuple(replace(edit, duration=end - start) for edit, (start, end) in zip(edits, pairwise(times), strict=True))


def exact_movie_timescale(timescales: Sequence[int]) -> int:
    """A movie timescale in which the ticks of all tracks are whole numbers.

    If that exceeds 31 bits, the ticks of the first timescales in the list are whole numbers. (The field has 32 bits,
    but ffmpeg reads it as a signed number, and replaces a negative one by 1: audio would be delayed by months.)
    """
    result = 1
    for timescale in timescales:
        candidate = math.lcm(result, timescale)
        if candidate < 1 << 31:
            result = candidate
    return result


def _rounded(value: Fraction) -> int:
    """Round half up. `round` rounds half to even, so equal lengths could become different ones."""
    return math.floor(value + Fraction(1, 2))
