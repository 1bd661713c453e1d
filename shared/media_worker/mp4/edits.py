"""Edit lists: from the time in a track's media to the time in the film, and back (ISO/IEC 14496-12, 8.6.6).

All positions here are counted in ticks of the track, as `Fraction` where the coarser movie timescale makes them so.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from fractions import Fraction
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
    """One line of an edit list: show `duration` movie ticks of media from `media_time` (track ticks), or nothing."""

    duration: int
    media_time: int
    rate: int = NORMAL_RATE

    @property
    def is_empty(self) -> bool:
        """Whether it shows nothing."""
        return self.media_time == EMPTY


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of media that is shown: media `media_start`..`media_end` appears at `film_start`."""

    film_start: Fraction
    media_start: Fraction
    media_end: Fraction | None  # None: as far as the media goes

    @property
    def film_end(self) -> Fraction | None:
        """When it is over; None when it goes on as far as the media does."""
        return None if self.media_end is None else self.film_start + self.media_end - self.media_start


def parse_edits(elst: Box | None) -> tuple[Edit, ...]:
    """The edit list as it stands; an absent one is empty and means "everything, from the start"."""
    if elst is None:
        return ()
    version, _ = version_and_flags(elst)
    entry = _ENTRY.get(version)
    (count,) = unpack(_COUNT, elst)
    if entry is None or 8 + count * entry.size > len(elst.payload):
        raise BrokenFile("the edit list is longer than its box")
    return tuple(Edit(*entry.unpack_from(elst.payload, 8 + i * entry.size)) for i in range(count))


def build_elst(edits: Sequence[Edit]) -> Box:
    """The edit list as a box, in the version that its numbers need."""
    is_large = any(edit.duration >= 1 << 32 or edit.media_time >= 1 << 31 for edit in edits)
    entry = _ENTRY[1 if is_large else 0]
    head = full_box(1 if is_large else 0) + struct.pack(">I", len(edits))
    return Box(b"elst", head + b"".join(entry.pack(edit.duration, edit.media_time, edit.rate) for edit in edits))


def spans_of(edits: Sequence[Edit], track_timescale: int, movie_timescale: int) -> tuple[Span, ...] | None:
    """What is shown and when, or None when the film does not run forward through the media at normal speed."""
    spans: list[Span] = []
    film = Fraction(0)
    for number, edit in enumerate(edits):
        length = Fraction(edit.duration * track_timescale, movie_timescale)
        if edit.is_empty:
            film += length
            continue
        # A duration of 0 in the last edit means "all there is" (8.6.6.1).
        is_open = edit.duration == 0 and number == len(edits) - 1
        start = Fraction(edit.media_time)
        goes_back = bool(spans) and (spans[-1].media_end is None or start < spans[-1].media_end)
        if edit.rate != NORMAL_RATE or edit.media_time < 0 or goes_back or (edit.duration == 0 and not is_open):
            return None
        spans.append(Span(film, start, None if is_open else start + length))
        film += length
    if edits and not spans:
        return None
    return tuple(spans) or (Span(film, Fraction(0), None),)


def film_time(spans: Sequence[Span], media_time: Fraction | int) -> Fraction:
    """When `media_time` is shown; media that an edit hides counts as shown at the next visible moment."""
    for span in spans:
        if span.media_end is None or media_time < span.media_end:
            return span.film_start + max(Fraction(0), media_time - span.media_start)
    end = spans[-1].film_end
    assert end is not None  # an open span has taken every time above
    return end


def media_time_at(spans: Sequence[Span], film: Fraction) -> Fraction | None:
    """The first media time shown at or after `film`; None when the film is over by then."""
    for span in spans:
        if span.film_end is None or film < span.film_end:
            return span.media_start + max(Fraction(0), film - span.film_start)
    return None


def is_shown(spans: Sequence[Span], media_time: int) -> bool:
    """Whether any part of the edit list shows this moment of the media."""
    return any(
        span.media_start <= media_time and (span.media_end is None or media_time < span.media_end) for span in spans
    )


def cut_spans(spans: Sequence[Span], first: int | None, end: int | None) -> tuple[Span, ...]:
    """What is left of `spans` for media from `first` to `end` (None: without a limit)."""
    cut: list[Span] = []
    for span in spans:
        start = span.media_start if first is None else max(span.media_start, Fraction(first))
        stop = span.media_end if end is None else min(_or(span.media_end, end), Fraction(end))
        if stop is None or start < stop:
            cut.append(Span(span.film_start + start - span.media_start, start, stop))
    return tuple(cut)


def _or(value: Fraction | None, default: int) -> Fraction:
    return Fraction(default) if value is None else value


def edits_of(
    spans: Sequence[Span],
    *,
    film_origin: Fraction,
    media_origin: int,
    media_end: int,
    track_timescale: int,
    movie_timescale: int,
) -> tuple[Edit, ...]:
    """The edit list for `spans`, on a film that begins at `film_origin` and media that begin at `media_origin`."""

    def to_movie(position: Fraction) -> int:
        return _rounded(position * movie_timescale / track_timescale)

    edits: list[Edit] = []
    shown_until = 0  # in movie ticks; positions are rounded, never lengths, so that nothing adds up
    for span in spans:
        start = to_movie(span.film_start - film_origin)
        length = max(_or(span.media_end, media_end), span.media_start) - span.media_start
        end = to_movie(span.film_start - film_origin + length)
        if start > shown_until:
            edits.append(Edit(start - shown_until, EMPTY))
        edits.append(Edit(max(end, shown_until) - max(start, shown_until), _rounded(span.media_start) - media_origin))
        shown_until = max(end, shown_until)
    return tuple(edits)


def exact_movie_timescale(timescales: Sequence[int]) -> int:
    """A movie timescale in which every track's ticks are whole, as far as 32 bits allow (most important ones first)."""
    result = 1
    for timescale in timescales:
        candidate = math.lcm(result, timescale)
        if candidate < 1 << 32:
            result = candidate
    return result


def _rounded(value: Fraction) -> int:
    """Half up: `round` would send neighbours in different directions."""
    return math.floor(value + Fraction(1, 2))
