"""Concatenating changed segments, such as re-encoded ones: each has its own encoder delay, padding and timescale.

The video decides. Its segments follow each other without a gap and with every frame that they present. The other
tracks are placed relative to the video of their own segment, so that no error adds up, whatever their durations are:

    video   |---- 0 ----|---- 1 ----|---- 2 ----|
    audio   |.---- 0 ----|.--- 1 ---|.---- 2 ----.     delay and padding (dots) are dropped at the inner edges

Which samples of a track follow each other is decided in `splice`.
"""

from __future__ import annotations

import itertools
import math
from array import array
from collections import Counter
from dataclasses import dataclass, replace
from fractions import Fraction
from operator import sub
from typing import TYPE_CHECKING, TypeAlias

from .edit_list import PresentedRange, edits_of, exact_movie_timescale
from .errors import TracksDiffer, Unsupported
from .movie import Movie, Track
from .presented import ROUNDING_S, PresentedFrames, has_copy_at_end
from .samples import Runs, SampleTable, Timeline
from .splice import SegmentTrack, splice

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .boxes import Box

# Larger timescales would leave too few seconds in a composition offset of 32 bits.
MAX_TIMESCALE = 1 << 24

Row: TypeAlias = tuple[Track | None, ...]  # one track of the final: its part in each segment


@dataclass(frozen=True, slots=True)
class JoinedTrack:
    """A track of the final: `track`, but with the samples of `tables`, one for each segment at its offsets there."""

    track: Track
    tables: tuple[SampleTable, ...]


@dataclass(frozen=True, slots=True)
class JoinedMovie:
    """The final: its `moov` box, movie timescale and tracks, and when each segment starts in it."""

    box: Box
    timescale: int
    tracks: tuple[JoinedTrack, ...]
    starts_s: tuple[Fraction, ...] = ()
    main: int = 0  # the number of the main track


def concatenate(
    movies: Sequence[Movie], rows: Sequence[Row], starts_s: Sequence[Fraction] | None = None
) -> JoinedMovie:
    """The segments one after the other. `rows` are the matched tracks of `movies`.

    `starts_s`: when each segment starts, in seconds. Without it, each starts when the video of the one before it ends.

    Raises:
        TracksDiffer: a segment cannot be joined with the others; names it.
        Unsupported: an edit list of a segment cannot be joined.
    """
    tracks = [_presented_parts(row, movies) for row in rows]
    main_row = _main_row(movies, rows)
    if starts_s is not None:
        tracks[main_row] = _within_plan(tracks[main_row], starts_s)
    main = tracks[main_row]
    actual_s = _segment_starts_s(main, starts_s)
    timescale = exact_movie_timescale([main.timescale, *(track.timescale for track in tracks)])
    joined = tuple(_concatenate_track(track, actual_s, timescale) for track in tracks)
    return JoinedMovie(movies[0].box, timescale, joined, tuple(actual_s), main_row)


def _main_row(movies: Sequence[Movie], rows: Sequence[Row]) -> int:
    """The row of the main track of the first segment that has video, or the first row with samples."""
    for index, movie in enumerate(movies):
        main = movie.tracks[movie.main_track_number]
        if main.is_video:
            parts = [row[index] for row in rows]
            return next(n for n, part in enumerate(parts) if part is not None and part.track_id == main.track_id)
    return next(number for number, row in enumerate(rows) if any(part and part.table.count for part in row))


# What each segment presents of its tracks


@dataclass(frozen=True, slots=True)
class PresentedPart:
    """What a segment presents of one of its tracks, in ticks of `timescale`."""

    table: SampleTable
    timescale: int
    media_start: int  # the first media presented
    start: Fraction  # its presentation time in the segment
    length: int
    first_frame: int  # composition times of the first and the last frame presented
    last_frame: int
    rounding: Fraction = Fraction(0)  # what rounding took from `length`

    def scaled_to(self, timescale: int) -> PresentedPart:
        """The same in another timescale. Times are rounded, not durations, so that rounding errors do not add up."""
        if timescale == self.timescale:
            return self
        ratio = Fraction(timescale, self.timescale)
        media_start = _rounded(self.media_start * ratio)
        length = max(1, _rounded((self.media_start + self.length) * ratio) - media_start)
        return PresentedPart(
            _scaled(self.table, ratio),
            timescale,
            media_start,
            self.start * ratio,
            length,
            _rounded(self.first_frame * ratio),
            _rounded(self.last_frame * ratio),
            self.length * ratio - length,
        )


def _scaled(table: SampleTable, ratio: Fraction) -> SampleTable:
    """A table with all times multiplied by `ratio`, to the nearest tick."""
    offsets = table.offsets
    if ratio.denominator == 1:
        factor = ratio.numerator
        scaled = None if offsets is None else offsets.scaled(factor)
        return replace(table, durations=table.durations.scaled(factor), offsets=scaled)
    decoded = Timeline.of(table.durations).all_times()
    decoded.append(table.media_duration)
    new_decoded = _all_rounded(decoded, ratio)
    durations = Runs.from_values(max(1, after - before) for before, after in itertools.pairwise(new_decoded))
    if offsets is None:
        return replace(table, durations=durations)
    new_composed = _all_rounded(table.all_composition_times(), ratio)
    return replace(table, durations=durations, offsets=Runs.from_values(map(sub, new_composed, new_decoded)))


def _all_rounded(times: array[int], ratio: Fraction) -> array[int]:
    up, down = 2 * ratio.numerator, 2 * ratio.denominator
    return array("q", ((time * up + ratio.denominator) // down for time in times))


def _rounded(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


@dataclass(frozen=True, slots=True)
class _TrackParts:
    """A track of the final: its row, and what each segment presents of it in a common timescale (None: nothing)."""

    row: Row
    parts: tuple[PresentedPart | None, ...]
    timescale: int


def _presented_parts(row: Row, movies: Sequence[Movie]) -> _TrackParts:
    parts = [
        presented_part(track, movie.timescale, index, is_last=index == len(movies) - 1)
        if track is not None and track.table.count
        else None
        for index, (track, movie) in enumerate(zip(row, movies, strict=True))
    ]
    timescale = common_timescale([part.timescale for part in parts if part])
    if not any(parts):
        timescale = next(track.timescale for track in row if track is not None)
    return _TrackParts(row, tuple(part and part.scaled_to(timescale) for part in parts), timescale)


def common_timescale(timescales: Sequence[int]) -> int:
    """A timescale in which the ticks of all parts are whole numbers, or those of most parts if it would be too large.

    Encoders that choose another timescale for each segment (10240, 10002, 19996) have no useful common multiple.
    """
    result = 1
    for timescale, _ in Counter(timescales).most_common():
        candidate = math.lcm(result, timescale)
        if candidate <= MAX_TIMESCALE or result == 1:
            result = candidate
    return result


def presented_part(track: Track, movie_timescale: int, segment_index: int, *, is_last: bool) -> PresentedPart:
    """What a segment presents of a track that has samples.

    Raises:
        Unsupported: its edit list presents several ranges, or not forward at normal speed.
    """
    ranges = track.presented_ranges(movie_timescale)
    if ranges is None:
        raise Unsupported(f"the edit list of {track.name} in segment {segment_index} loops or changes the speed")
    if len(ranges) > 1:
        raise Unsupported(f"the edit list of {track.name} in segment {segment_index} has several parts")
    if track.is_video:
        return _presented_video(track, ranges[0], movie_timescale, segment_index)
    first = ranges[0]
    media_start, start = math.floor(first.media_start), first.start
    composition_start = track.table.composition_start()
    if media_start < composition_start:  # nothing can be presented before the first sample
        media_start, start = composition_start, start + composition_start - media_start
    length = _presented_length(track, first, media_start, movie_timescale, is_last=is_last)
    presented = (time for time in track.table.last_composition_times() if time < media_start + length)
    last = max(presented, default=media_start)
    return PresentedPart(track.table, track.timescale, media_start, start, length, media_start, last)


def _presented_video(
    track: Track, presented: PresentedRange, movie_timescale: int, segment_index: int
) -> PresentedPart:
    frames = PresentedFrames(track, movie_timescale)
    if not frames.count:
        raise TracksDiffer(segment_index, f"{track.name} presents no frame")
    first, last = frames.media_time_of(0), frames.media_time_of(frames.count - 1)
    media_start = first
    if segment_index == 0 and track.table.composition_start() < presented.media_start < first:
        # The edit list starts in the middle of a frame that readers discard. They present the next one at once, so the
        # final must start there, too.
        media_start = math.floor(presented.media_start)
    start = frames.time_of(0) - (first - media_start)
    length = max(1, math.floor(frames.time_of(frames.count) - start + Fraction(1, 2)))
    return PresentedPart(track.table, track.timescale, media_start, start, length, first, last)


def _presented_length(
    track: Track, presented: PresentedRange, media_start: int, movie_timescale: int, *, is_last: bool
) -> int:
    """How long a track is presented: by its edit list, unless that is just the rounded duration of its samples.

    ffmpeg's movie timescale is 1000, so its edit lists are in milliseconds. The sum of 200 such durations would be off
    by many frames. The durations of samples are exact.
    """
    by_samples = track.table.composition_end() - media_start
    if presented.media_end is None:
        return by_samples
    by_edits = presented.media_end - media_start
    is_exact = movie_timescale % track.timescale == 0
    # Nothing follows the last segment, so its edit list is applied exactly.
    is_rounded = not (is_exact or is_last) and abs(by_edits - by_samples) <= Fraction(track.timescale, movie_timescale)
    return by_samples if is_rounded else max(1, round(by_edits))


# The timeline of the final


def _within_plan(main: _TrackParts, planned_s: Sequence[Fraction]) -> _TrackParts:
    """The video without a last frame that is presented when the next segment starts.

    That is the copy of the next segment's first frame, of a worker that ignores edit lists.
    """
    parts = list(main.parts)
    rounding = main.timescale * ROUNDING_S
    for index, (part, (start_s, next_s)) in enumerate(zip(parts, itertools.pairwise(planned_s), strict=False)):
        if part is None:
            continue
        until = (next_s - start_s) * main.timescale
        if has_copy_at_end(part.table, part.first_frame, part.last_frame, until, rounding):
            before = max(time for time in part.table.last_composition_times() if time < part.last_frame)
            parts[index] = replace(part, length=part.last_frame - part.media_start, last_frame=before)
    return replace(main, parts=tuple(parts))


def _segment_starts_s(main: _TrackParts, planned_s: Sequence[Fraction] | None) -> list[Fraction]:
    """The time of the final that is 0 in each segment, in seconds.

    The first frame of a segment is presented at its planned start. Without a plan, it is presented when the last frame
    of the segment before it ends, or, in the first segment, as its edit list says.
    """
    starts_s: list[Fraction] = []
    end = Fraction(0)
    last = Fraction(-1)  # when the last frame so far starts
    for index, part in enumerate(main.parts):
        if part is None:
            raise TracksDiffer(index, "its video track has no samples")
        following = end if index else part.start
        start = following
        if planned_s is not None:
            start = planned_s[index] * main.timescale - (part.first_frame - part.media_start)
        if start <= last:
            raise TracksDiffer(index - 1, "its video extends beyond the planned start of the next segment")
        starts_s.append((start - part.start) / main.timescale)
        end = start + part.length + part.rounding
        last = start + part.last_frame - part.media_start
    return starts_s


def _concatenate_track(track: _TrackParts, starts_s: Sequence[Fraction], movie_timescale: int) -> JoinedTrack:
    sources = [source for source in track.row if source is not None]
    first = next((source for source in sources if source.table.count), sources[0])
    parts = [
        None if part is None else _on_timeline(part, start_s)
        for part, start_s in zip(track.parts, starts_s, strict=True)
    ]
    joined = splice(parts, handler=first.handler, rounding=math.ceil(track.timescale * ROUNDING_S))
    edits = edits_of(
        joined.ranges,
        movie_start=Fraction(0),
        media_zero=0,
        media_end=0,
        track_timescale=track.timescale,
        movie_timescale=movie_timescale,
    )
    return JoinedTrack(replace(first, timescale=track.timescale, edits=edits), joined.tables)


def _on_timeline(part: PresentedPart, segment_start_s: Fraction) -> SegmentTrack:
    start = math.floor(segment_start_s * part.timescale + part.start + Fraction(1, 2))
    return SegmentTrack(part.table, part.media_start, start, part.length)
