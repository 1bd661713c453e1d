"""Context frames: a segment also presents frames before its own first frame and after its own last one.

Models that look at several frames at once need them at the borders of a segment. With two context frames (`C`), own
frames (`O`) and frames that the edit list hides (`h`), a segment is:

    presentation order    h h h h C C | O O O ... O O | C C h
                          ^ sync sample  ^ own start     ^ own end

Decoding starts at the last sync sample at or before the first context frame, and ends with the last sample that is
presented: a reader that ignores edit lists sees the frames since that sync sample, and at the end at most the frames
that were decoded before the last context frame and follow it.

Segments without context are the same with nothing hidden before: `SampleRange` describes both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from .edit_list import clip_ranges, edits_of
from .presented import PresentedFrames
from .provenance import digest_of, find_provenance
from .samples import Timeline

if TYPE_CHECKING:
    from .cut_points import Cut
    from .movie import Movie, Track
    from .provenance import TrackProvenance


@dataclass(frozen=True, slots=True)
class SampleRange:
    """What a segment has of a track: samples `begin.sample` to `end` (exclusive), without the leading samples of begin.

    It presents them from `media_start` to `media_end`, in ticks of the track (None: to the end of the media).
    """

    begin: Cut
    end: int
    media_start: int
    media_end: int | None

    @property
    def is_empty(self) -> bool:
        """Whether the segment has no sample of the track."""
        return self.begin.sample >= self.end


@dataclass(frozen=True, slots=True)
class SegmentContext:
    """Frames that a segment presents before and after its own, and when the first of them is presented.

    `ranges` is what the segment has of each track.
    """

    before: int
    after: int
    start_s: Fraction
    ranges: tuple[SampleRange, ...]


# A segment that a worker returned as it was


def own_part(movie: Movie) -> Movie:
    """An untouched segment with an edit list that presents its own frames only. Other movies do not change.

    A segment is untouched if it has its provenance and its tables did not change, so it is known exactly which of its
    frames are context.
    """
    provenance = find_provenance(movie.box)
    if provenance is None or not (provenance.context_before or provenance.context_after):
        return movie
    is_same = len(provenance.tracks) == len(movie.tracks)
    if not is_same or provenance.digest != digest_of(movie.tracks, provenance.version):
        return movie
    main = movie.tracks[movie.main_track_number]
    frames = PresentedFrames(main, movie.timescale)
    end = frames.count - provenance.context_after
    start_s = frames.time_of(provenance.context_before) / main.timescale
    own = [_own_samples(track, known) for track, known in zip(movie.tracks, provenance.tracks, strict=True)]
    own[movie.main_track_number] = (
        frames.media_time_of(provenance.context_before),
        frames.media_time_of(end) if provenance.context_after else None,
    )
    is_first = not provenance.segment_index
    tracks = (
        _narrowed(track, movie.timescale, Fraction(0) if is_first else start_s, *times)
        for track, times in zip(movie.tracks, own, strict=True)
    )
    return replace(movie, tracks=tuple(tracks))


def _own_samples(track: Track, known: TrackProvenance) -> tuple[int | None, int | None]:
    """The media times between which a track presents the segment's own samples. None: no limit."""
    timeline, count = Timeline.of(track.table.durations), track.table.count
    start = timeline.time_of(known.repeated_samples) if 0 < known.repeated_samples < count else None
    end = timeline.time_of(count - known.trailing_samples) if 0 < known.trailing_samples <= count else None
    return start, end


def _narrowed(
    track: Track, movie_timescale: int, movie_start_s: Fraction, media_start: int | None, media_end: int | None
) -> Track:
    """A track that presents media from `media_start` to `media_end` only, in a movie that begins at `movie_start_s`."""
    ranges = track.presented_ranges(movie_timescale)
    if ranges is None or not track.table.count:
        return track
    clipped = clip_ranges(ranges, media_start, media_end)
    if not clipped:
        return replace(track, edits=(), table=track.table.slice(0, 0))
    edits = edits_of(
        clipped,
        movie_start=movie_start_s * track.timescale,
        media_zero=0,
        media_end=track.table.composition_end(),
        track_timescale=track.timescale,
        movie_timescale=movie_timescale,
    )
    return replace(track, edits=edits)
