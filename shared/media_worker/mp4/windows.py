"""The part of a segment's track that is shown: from where in its media, from when, and for how long."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from .errors import Unsupported

if TYPE_CHECKING:
    from .edits import Span
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
        """The same on a clock that runs a whole number of times faster."""
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


def window_of(track: Track, movie_timescale: int, segment_index: int, *, is_last: bool) -> Window:
    """What a segment shows of a track with samples."""
    spans = track.spans(movie_timescale)
    if spans is None:
        raise Unsupported(f"segment {segment_index} does not run straight through {track.name}")
    if len(spans) > 1:
        raise Unsupported(f"segment {segment_index} shows {track.name} in several parts")
    first = spans[0]
    begin, film_start = math.floor(first.media_start), first.film_start
    composed = track.table.composition_start()
    # Nothing is there before the first picture. And inside the film there is no edit list to hide pictures with: the
    # ones that a segment hides at its start are the leading pictures of an open GOP, which belong to the film.
    shows_hidden = track.is_video and segment_index > 0
    if begin < composed or shows_hidden:
        begin, film_start = composed, film_start + composed - begin
    return Window(
        track.table, track.timescale, begin, film_start, _length(track, first, begin, movie_timescale, is_last=is_last)
    )


def _length(track: Track, span: Span, begin: int, movie_timescale: int, *, is_last: bool) -> int:
    """How long a track is shown: what its edit list says, unless that is only the rounded length of its samples.

    Writers give edit lists in milliseconds (ffmpeg's movie timescale is 1000). Added up over 200 segments, such
    lengths would be off by many frames; sample durations are exact.
    """
    by_samples = track.table.composition_end() - begin
    if span.media_end is None:
        return by_samples
    by_edits = span.media_end - begin
    is_exact = movie_timescale % track.timescale == 0
    # The last segment adds to nothing: there the edit list is obeyed to the letter.
    is_rounded = not (is_exact or is_last) and abs(by_edits - by_samples) <= Fraction(track.timescale, movie_timescale)
    # Only at the end of the film can pictures stay hidden; in the middle there is no edit that would hide them.
    shows_all = track.is_video and not is_last and max(track.table.last_composition_times()) >= span.media_end
    return by_samples if is_rounded or shows_all else max(1, round(by_edits))
