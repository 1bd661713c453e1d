"""Processed segments whose first sample lasts too long, because it should begin later.

All tracks of an AVI, or of a fragmented MP4 that ffmpeg writes into a pipe, begin at time 0. A first sample that should
begin later is made longer instead, by the delay of another track's encoder:

    as it should be     |     |  0  |  1  |  2  ...
    as it is written    |     0     |  1  |  2  ...
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from .edit_list import PresentedRange, edits_of, exact_movie_timescale, rescaled
from .presented import ROUNDING_S
from .provenance import find_provenance
from .samples import MAX_REORDER, Runs

if TYPE_CHECKING:
    from .movie import Movie, Track


def with_late_starts(movie: Movie, duration_s: Fraction | None, first_frame_s: Fraction | None) -> Movie:
    """The movie with empty edits where the first samples of its tracks are too long. Unchanged segments stay so.

    Video stays if `duration_s`, its planned duration, is None. If its frame rate varies, its first frame should last
    `first_frame_s`. Otherwise (None) the first frame should last as long as the second one, and video changes only if
    it then lasts about as long as planned.
    Audio changes only if it has no edit list, which would say that its first sample is the encoder's delay.
    """
    if find_provenance(movie.box) is not None:
        return movie
    gaps = [_gap(track, duration_s, first_frame_s, movie.timescale) for track in movie.tracks]
    if not any(gaps):
        return movie
    timescale = exact_movie_timescale([*(track.timescale for track in movie.tracks), movie.timescale])
    tracks = (
        _started_late(track, gap, movie.timescale, timescale)
        if gap
        else replace(track, edits=rescaled(track.edits, movie.timescale, timescale))
        for track, gap in zip(movie.tracks, gaps, strict=True)
    )
    return replace(movie, timescale=timescale, tracks=tuple(tracks))


def _gap(track: Track, duration_s: Fraction | None, first_frame_s: Fraction | None, movie_timescale: int) -> int:
    """By how many ticks the first sample is too long."""
    durations = track.table.durations
    if len(durations) < 3 or not durations[1]:  # noqa: PLR2004  the last may differ
        return 0
    gap = max(0, durations[0] - durations[1])
    if track.handler == b"soun":
        return 0 if track.edits else gap
    if not track.is_video or duration_s is None:
        return 0
    if first_frame_s is not None:
        return _gap_after(track, first_frame_s)
    too_long = track.table.composition_end() - track.table.composition_start() - duration_s * track.timescale
    return gap if _begins_at_0(track, movie_timescale) and abs(too_long - gap) < abs(too_long) else 0


def _gap_after(track: Track, first_frame_s: Fraction) -> int:
    """By how many ticks the first frame of video with a varying frame rate lasts longer than it should."""
    durations = track.table.durations
    if track.edits or len(durations.values) == 1:  # a worker may have made the rate constant
        return 0
    head = track.table.slice_times(0, min(track.table.count, MAX_REORDER))
    first, second = sorted(head.all_composition_times())[:2]
    gap = second - first - first_frame_s * track.timescale
    return min(round(gap), durations[0] - 1) if gap > ROUNDING_S * track.timescale else 0


def _begins_at_0(track: Track, movie_timescale: int) -> bool:
    ranges = track.presented_ranges(movie_timescale) or ()
    return len(ranges) == 1 and ranges[0].start == 0 and ranges[0].media_start <= track.table.composition_start()


def _started_late(track: Track, gap: int, movie_timescale: int, new_timescale: int) -> Track:
    durations = track.table.durations
    shortened = Runs.concat([Runs.constant(1, durations[0] - gap), durations.slice(1, len(durations))])
    table = replace(track.table, durations=shortened)
    (presented,) = track.presented_ranges(movie_timescale) or ()
    edits = edits_of(
        [PresentedRange(presented.start + gap, presented.media_start, None)],
        movie_start=Fraction(0),
        media_zero=0,
        media_end=table.composition_end(),
        track_timescale=track.timescale,
        movie_timescale=new_timescale,
    )
    return replace(track, table=table, edits=edits)
