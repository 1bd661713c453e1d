"""The part of a segment's track that is shown: from where in its media, from when, and for how long."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from .edits import Span
from .errors import Unsupported
from .movie import Track
from .tables import SampleTable


@dataclass(frozen=True, slots=True)
class Window:
    """One track in one segment. All in ticks of `timescale`."""

    table: SampleTable
    timescale: int
    media_start: int  # composition time of the first thing shown
    film_start: Fraction  # when that is, counted from the segment's own start
    length: int  # how long it lasts

    def scaled_to(self, timescale: int) -> Window:
        factor = timescale // self.timescale
        if factor == 1:
            return self
        offsets = self.table.offsets
        table = replace(
            self.table,
            durations=self.table.durations.scaled(factor),
            offsets=None if offsets is None else offsets.scaled(factor),
        )
        return Window(table, timescale, self.media_start * factor, self.film_start * factor, self.length * factor)


def window_of(track: Track, movie_timescale: int, segment_index: int) -> Window:
    """What a segment shows of a track with samples."""
    spans = track.spans(movie_timescale)
    if spans is None:
        raise Unsupported(f"segment {segment_index} does not run straight through {track.name}")
    first = spans[0]
    begin, film_start = math.floor(first.media_start), first.film_start
    composed = track.table.composition_start()
    if begin < composed:  # nothing is there before the first picture
        begin, film_start = composed, film_start + composed - begin
    if track.is_video and begin > composed and segment_index:
        raise Unsupported(f"segment {segment_index} hides pictures at the start of {track.name}")
    return Window(track.table, track.timescale, begin, film_start, _length(track, spans, begin, movie_timescale))


def _length(track: Track, spans: tuple[Span, ...], begin: int, movie_timescale: int) -> int:
    """How long a track is shown: what its edit list says, unless that is only the rounded length of its samples.

    Writers give edit lists in milliseconds (ffmpeg's movie timescale is 1000). Added up over 200 segments, such
    lengths would be off by many frames; sample durations are exact.
    """
    by_samples = track.table.composition_end() - begin
    end = spans[-1].media_end
    if end is None:
        return by_samples
    by_edits = end - begin
    is_exact = movie_timescale % track.timescale == 0
    is_rounded = not is_exact and abs(by_edits - by_samples) <= Fraction(track.timescale, movie_timescale)
    if is_rounded or (track.is_video and _hides_pictures(track.table, end)):
        return by_samples
    return round(by_edits)


def _hides_pictures(table: SampleTable, end: Fraction) -> bool:
    return max(table.last_composition_times(), default=0) >= end
