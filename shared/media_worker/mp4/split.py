"""Cutting a film: first the plan (which samples go where), then for each segment its header and byte ranges.

plan = plan_split(movie, Fraction(300))       reads nothing, moves nothing
layout = lay_out(movie, plan, 0)              header bytes + ranges of the source: together a complete file
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from . import headers
from .cuts import Cut, CutPoints, cut_points
from .edits import Edit, Span, cut_spans, edits_of, exact_movie_timescale, film_time, is_shown, media_time_at
from .errors import Unsupported, numbers_that_fit
from .origin import Origin, TrackOrigin, digest_of, is_origin_box, origin_box
from .ranges import ByteRange, ranges_of
from .summary import MovieSummary, summary_of
from .writer import NewMovie, NewTrack, build_header

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .movie import Movie, Track

MAX_SEGMENTS = 100_000  # five digits in a segment's key


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """Where a film is cut: `starts_s[i]` is when segment i begins, `cuts[t][i]` where it begins in track t.

    Each list of cuts has one more entry than there are segments: the end of the track.
    """

    main_track: int
    starts_s: tuple[Fraction, ...]
    cuts: tuple[tuple[Cut, ...], ...]

    @property
    def total_segments(self) -> int:
        """How many segments there will be."""
        return len(self.starts_s)

    def samples(self, track_number: int, segment_index: int) -> tuple[int, int]:
        """The samples of one track in one segment: first, and one past the last."""
        cuts = self.cuts[track_number]
        return cuts[segment_index].sample, cuts[segment_index + 1].sample


@dataclass(frozen=True, slots=True)
class SegmentLayout:
    """A segment, ready to be put together: `header`, then these ranges of the source, in this order."""

    header: bytes
    ranges: tuple[ByteRange, ...]
    summary: MovieSummary  # what a reader has to find in the finished segment

    @property
    def media_bytes(self) -> int:
        """Bytes behind the header."""
        return sum(each.length for each in self.ranges)

    @property
    def size_bytes(self) -> int:
        """Bytes of the finished segment."""
        return len(self.header) + self.media_bytes


@numbers_that_fit()
def plan_split(movie: Movie, segment_duration_s: Fraction) -> SplitPlan:
    """Cut at the first possible place at or after each multiple of the duration.

    A film that does not run straight through its media (loops, slow motion by edit list) is one segment: cut by media
    order it would be shown in another order than it was made for.
    """
    if segment_duration_s <= 0:
        raise ValueError("segments need a duration above 0")
    main = main_track_number(movie)
    all_spans = [track.spans(movie.timescale) for track in movie.tracks]
    points = [cut_points(track.table) for track in movie.tracks]
    begins = [Cut(0, 0, 0) for _ in movie.tracks]
    starts_s, columns = [Fraction(0)], [begins]
    if all(spans is not None for spans in all_spans):
        spans = [spans for spans in all_spans if spans is not None]
        for start_s in _starts(movie.tracks[main], points[main], spans[main], segment_duration_s):
            starts_s.append(start_s)
            columns.append([_cut_at(*each, start_s) for each in zip(movie.tracks, points, spans, strict=True)])
            if len(starts_s) > MAX_SEGMENTS:
                raise Unsupported(f"more than {MAX_SEGMENTS} segments")
    columns.append([each.end for each in points])
    return SplitPlan(main, tuple(starts_s), tuple(zip(*columns, strict=True)))


def main_track_number(movie: Movie) -> int:
    """The track that decides where to cut: the video, or the longest track of a film without one."""
    pictures_of_chapters = {number for track in movie.tracks for number in headers.references(track.box, b"chap")}
    numbers = [number for number, track in enumerate(movie.tracks) if track.table.count]
    videos = [n for n in numbers if movie.tracks[n].is_video and movie.tracks[n].track_id not in pictures_of_chapters]

    def rank(number: int) -> tuple[bool, bool, Fraction]:
        track = movie.tracks[number]
        enabled = headers.is_enabled(track.box.need(b"tkhd"))
        length = Fraction(track.table.media_duration, track.timescale)
        # Of several videos the first: `max` keeps the first of equals. A single picture is a cover, not a film.
        return enabled, track.table.count > 1, Fraction(0) if track.is_video else length

    return max(videos or numbers, key=rank)


def _starts(track: Track, points: CutPoints, spans: Sequence[Span], step_s: Fraction) -> Iterator[Fraction]:
    """When each segment but the first begins."""
    multiple = 1
    while True:
        wanted = media_time_at(spans, multiple * step_s * track.timescale)
        cut = points.end if wanted is None else _first_shown(points, spans, wanted)
        if cut.sample >= points.end.sample:
            return
        start_s = film_time(spans, cut.media_time) / track.timescale
        if cut.sample > 0:
            yield start_s
        multiple = max(multiple, start_s // step_s) + 1


def _first_shown(points: CutPoints, spans: Sequence[Span], wanted: Fraction) -> Cut:
    """The first cut that no edit hides."""
    cut = points.first_at(wanted)
    while cut.sample < points.end.sample and not is_shown(spans, cut.media_time):
        following = media_time_at(spans, film_time(spans, cut.media_time))
        cut = points.end if following is None else points.first_at(following)
    return cut


def _cut_at(track: Track, points: CutPoints, spans: Sequence[Span], start_s: Fraction) -> Cut:
    """The first sample of a track that is shown at or after `start_s` (and can be decoded from there on)."""
    media_time = media_time_at(spans, start_s * track.timescale)
    return points.end if media_time is None else points.first_at(media_time)


@numbers_that_fit()
def lay_out(movie: Movie, plan: SplitPlan, segment_index: int, max_gap_bytes: int = 0) -> SegmentLayout:
    """One segment of the plan. Ranges no further apart than `max_gap_bytes` become one: bytes for requests."""
    timescale = movie.timescale
    if plan.total_segments > 1:
        main = movie.tracks[plan.main_track]
        timescale = exact_movie_timescale(
            [main.timescale, movie.timescale, *(track.timescale for track in movie.tracks)]
        )
    pieces = [_piece(movie, plan, segment_index, number, timescale) for number in range(len(movie.tracks))]
    ranges = ranges_of((track.table for track, _ in pieces), max_gap_bytes)
    origin = Origin(
        source=movie.fingerprint.hex(),
        segment_index=segment_index,
        total_segments=plan.total_segments,
        movie_timescale=movie.timescale,
        tracks=tuple(each for _, each in pieces),
        digest=digest_of((track.timescale, track.edits, track.table) for track, _ in pieces),
    )
    tracks = tuple(track.moved(ranges) for track, _ in pieces)
    box = movie.box.with_children(tuple(child for child in movie.box.children or () if not is_origin_box(child)))
    new = NewMovie(movie.ftyp, box, timescale, tracks, (origin_box(origin),))
    header = build_header(new, ranges.total_bytes)
    return SegmentLayout(header, ranges.ranges, summary_of(new, len(header) + ranges.total_bytes))


def _piece(
    movie: Movie, plan: SplitPlan, segment_index: int, track_number: int, movie_timescale: int
) -> tuple[NewTrack, TrackOrigin]:
    """One track's part of a segment."""
    track = movie.tracks[track_number]
    first, end = plan.samples(track_number, segment_index)
    table = track.table.slice(first, end)
    shift = 0
    edits = track.edits
    if plan.total_segments > 1:
        edits, shift = _edits_of_piece(movie, plan, segment_index, track_number, movie_timescale)
    if shift and table.offsets is not None:
        table = replace(table, offsets=table.offsets.shifted(shift))
    new = NewTrack(track.box, track.timescale, track.descriptions, edits, table)
    return new, TrackOrigin(first, shift, track.edits)


def _shown_from(track: Track, begin: Cut, segment_index: int) -> int | None:
    """The media time from which a piece is shown; None: as the source's edit list says.

    Without an edit list, a first picture that is composed late is shown late. Players that make up an edit list of
    their own disagree about it as soon as there is one, so the delay is spelled out as an empty edit.
    """
    if segment_index:
        return begin.media_time
    return None if track.edits else track.table.composition_start()


def _edits_of_piece(
    movie: Movie, plan: SplitPlan, segment_index: int, track_number: int, movie_timescale: int
) -> tuple[tuple[Edit, ...], int]:
    """The edit list that keeps a piece in sync, and how far its composition offsets have to move for it.

    Media times in an edit list cannot be negative, but composition offsets can (ctts version 1).
    """
    track = movie.tracks[track_number]
    spans = track.spans(movie.timescale)
    begin, end = plan.cuts[track_number][segment_index : segment_index + 2]
    if spans is None or begin.sample == end.sample:
        return (), 0
    shift = max(0, begin.decode_time - begin.media_time) if segment_index else 0
    cut = cut_spans(
        spans,
        _shown_from(track, begin, segment_index),
        end.media_time if end.sample < track.table.count else None,
    )
    edits = edits_of(
        cut,
        film_origin=plan.starts_s[segment_index] * track.timescale,
        media_origin=begin.decode_time - shift,
        media_end=plan.cuts[track_number][-1].media_time,
        track_timescale=track.timescale,
        movie_timescale=movie_timescale,
    )
    return edits, shift
