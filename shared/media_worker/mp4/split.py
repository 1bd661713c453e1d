"""Splitting a movie: which samples belong to which segment, and the header and byte ranges of each segment.

plan = plan_split(movie, Fraction(300))       decides where to cut; reads nothing
layout = lay_out(movie, plan, 0)              segment 0: header and byte ranges of the source, together a complete file

Cut points of a track are samples at which a decoder can start (`CutPoints`: the cut rule). The main track (the video)
decides when segments start; the other tracks are cut at their first cut point at or after that time. The edit list of
each segment keeps its tracks in sync.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from typing import TYPE_CHECKING

from media_worker.keys import MAX_SEGMENTS

from .chapters import with_segment_chapters
from .edit_list import (
    Edit,
    PresentedRange,
    clip_ranges,
    edits_of,
    exact_movie_timescale,
    is_presented,
    media_time_at,
    presentation_time,
)
from .errors import Unsupported, overflow_is_unsupported
from .provenance import Provenance, TrackProvenance, build_provenance, digest_of, without_provenance
from .samples import SampleTable, Timeline
from .writer import MAX_GAP_BYTES, Layout, MediaRanges, layout_of, media_ranges

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .movie import Movie, Track

# A composition time of each sample takes 8 bytes of memory. This limits what a hostile file can use.
MAX_REORDERED_SAMPLES = 32_000_000
PCM_PACKET_SAMPLES = 1024


@dataclass(frozen=True, slots=True)
class Cut:
    """A sample that a segment may begin with, its composition time and its decode time in track ticks."""

    sample: int
    media_time: int
    decode_time: int


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """Where a movie is cut. Segment i begins at `starts_s[i]`, and in track t at `cuts[t][i]`.

    Each track has one cut more than there are segments: its end.
    """

    main_track: int
    starts_s: tuple[Fraction, ...]
    cuts: tuple[tuple[Cut, ...], ...]

    @property
    def total_segments(self) -> int:
        """The number of segments."""
        return len(self.starts_s)

    def samples(self, track_number: int, segment_index: int) -> tuple[int, int]:
        """The samples of a track in a segment: the first, and the one behind the last."""
        cuts = self.cuts[track_number]
        return cuts[segment_index].sample, cuts[segment_index + 1].sample


# The cut rule


class CutPoints:
    """The samples of one track at which a decoder can start and every earlier frame is presented earlier."""

    def __init__(self, table: SampleTable) -> None:
        """Find the cut points.

        Raises:
            Unsupported: the track has too many reordered samples.
        """
        self._table = table
        self._timeline = Timeline.of(table.durations)
        self.end = Cut(table.count, table.composition_end(), self._timeline.run_times[-1])
        self._reordered = _closed_gop_starts(table) if table.offsets is not None and any(table.offsets.values) else None

    def first_at(self, time: Fraction) -> Cut:
        """The first cut point at or after media time `time`, or `end` if there is none."""
        if self._reordered is None:
            return self._first_in_order(math.ceil(time))
        samples, times = self._reordered
        index = bisect_left(times, math.ceil(time))
        if index == len(times):
            return self.end
        return Cut(samples[index], times[index], self._timeline.time_of(samples[index]))

    def _first_in_order(self, time: int) -> Cut:
        """The same for a track whose samples are presented in decode order."""
        table = self._table
        sample = self._timeline.first_at(time)
        if table.is_pcm:
            sample = _next_pcm_packet(table, sample)
        if table.sync is not None:
            index = bisect_left(table.sync, sample)
            sample = table.sync[index] if index < len(table.sync) else table.count
        decode_time = self._timeline.time_of(sample)
        return Cut(sample, decode_time, decode_time) if sample < table.count else self.end


def _closed_gop_starts(table: SampleTable) -> tuple[array[int], array[int]]:
    """Sync samples that start a closed GOP, and their composition times.

    A leading sample follows the sync sample of an open GOP in decode order but is presented before it. It refers to
    frames of the previous segment, so it cannot be decoded in this one.
    """
    if table.count > MAX_REORDERED_SAMPLES:
        raise Unsupported(f"{table.count} reordered samples, more than the limit of {MAX_REORDERED_SAMPLES}")
    times = table.all_composition_times()
    latest_so_far = array("q", accumulate(times, max))
    earliest_from_here = array("q", accumulate(reversed(times), min))
    earliest_from_here.reverse()
    # Without stss, all samples are sync samples (8.6.2). Reordered frames depend on each other, so here the writer
    # forgot the box, and only the first sample is known to be one.
    sync = table.sync if table.sync is not None else array("Q", [0])
    closed = array(
        "Q",
        (n for n in sync if earliest_from_here[n] == times[n] and (n == 0 or latest_so_far[n - 1] < times[n])),
    )
    return closed, array("q", (times[number] for number in closed))


def _next_pcm_packet(table: SampleTable, sample: int) -> int:
    """The next sample at which players start a packet. They read up to 1024 samples at once, but not across chunks."""
    chunks = table.chunks
    number = bisect_right(chunks.starts, sample) - 1
    if sample >= table.count:
        return table.count
    begin = chunks.starts[number]
    rounded = begin + -(-(sample - begin) // PCM_PACKET_SAMPLES) * PCM_PACKET_SAMPLES
    return min(rounded, chunks.starts[number + 1])


# The plan


@overflow_is_unsupported()
def plan_split(movie: Movie, segment_duration_s: Fraction) -> SplitPlan:
    """Cut at the first cut point at or after each multiple of the duration.

    A movie whose edit list loops or changes the speed becomes one segment: cut in media order, it would be presented
    in another order.

    Raises:
        Unsupported: the movie has too many segments or reordered samples.
    """
    if segment_duration_s <= 0:
        raise ValueError("the segment duration must be above 0")
    main = movie.main_track_number
    all_ranges = [track.presented_ranges(movie.timescale) for track in movie.tracks]
    points = [CutPoints(track.table) for track in movie.tracks]
    starts_s, columns = [Fraction(0)], [[Cut(0, 0, 0) for _ in movie.tracks]]
    if all(ranges is not None for ranges in all_ranges):
        ranges = [ranges for ranges in all_ranges if ranges is not None]
        for start_s in _starts(movie.tracks[main], points[main], ranges[main], segment_duration_s):
            starts_s.append(start_s)
            columns.append([_cut_at(*each, start_s) for each in zip(movie.tracks, points, ranges, strict=True)])
            if len(starts_s) > MAX_SEGMENTS:
                raise Unsupported(f"more than {MAX_SEGMENTS} segments: use longer segments")
    columns.append([each.end for each in points])
    return SplitPlan(main, tuple(starts_s), tuple(zip(*columns, strict=True)))


def _starts(
    track: Track, points: CutPoints, ranges: Sequence[PresentedRange], duration_s: Fraction
) -> Iterator[Fraction]:
    """The presentation times at which the segments behind the first one start, in seconds."""
    multiple = 1
    while True:
        wanted = media_time_at(ranges, multiple * duration_s * track.timescale)
        cut = points.end if wanted is None else _first_presented(points, ranges, wanted)
        if cut.sample >= points.end.sample:
            return
        start_s = presentation_time(ranges, cut.media_time) / track.timescale
        if cut.sample > 0:
            yield start_s
        multiple = max(multiple, start_s // duration_s) + 1


def _first_presented(points: CutPoints, ranges: Sequence[PresentedRange], wanted: Fraction) -> Cut:
    """The first cut point at or after media time `wanted` that the edit list presents."""
    cut = points.first_at(wanted)
    while cut.sample < points.end.sample and not is_presented(ranges, cut.media_time):
        following = media_time_at(ranges, presentation_time(ranges, cut.media_time))
        cut = points.end if following is None else points.first_at(following)
    return cut


def _cut_at(track: Track, points: CutPoints, ranges: Sequence[PresentedRange], start_s: Fraction) -> Cut:
    """The first cut point of a track that is presented at or after `start_s`."""
    media_time = media_time_at(ranges, start_s * track.timescale)
    return points.end if media_time is None else points.first_at(media_time)


# One segment


@overflow_is_unsupported()
def lay_out(movie: Movie, plan: SplitPlan, segment_index: int, max_gap_bytes: int = MAX_GAP_BYTES) -> Layout:
    """One segment of the plan. Byte ranges at most `max_gap_bytes` apart are merged: more bytes, fewer requests.

    Raises:
        Unsupported: the segment's times or offsets exceed what an MP4 file can store.
    """
    timescale = _movie_timescale(movie, plan)
    parts = [_segment_track(movie, plan, segment_index, number, timescale) for number in range(len(movie.tracks))]
    provenance = Provenance(
        source=movie.fingerprint.hex(),
        segment_index=segment_index,
        total_segments=plan.total_segments,
        movie_timescale=movie.timescale,
        tracks=tuple(provenance for _, provenance in parts),
        digest=digest_of(track for track, _ in parts),
    )
    media = media_ranges((track.table for track, _ in parts), max_gap_bytes)
    box = with_segment_chapters(without_provenance(movie.box), plan.starts_s, segment_index)
    segment = replace(
        movie,
        box=box.with_children((*(box.children or ()), build_provenance(provenance))),
        timescale=timescale,
        tracks=tuple(_moved(track, media) for track, _ in parts),
    )
    return layout_of(segment, media.ranges)


def _movie_timescale(movie: Movie, plan: SplitPlan) -> int:
    """The source's for a single segment. Otherwise one in which the edit lists of all tracks are exact."""
    if plan.total_segments == 1:
        return movie.timescale
    main = movie.tracks[plan.main_track]
    return exact_movie_timescale([main.timescale, movie.timescale, *(track.timescale for track in movie.tracks)])


def _segment_track(
    movie: Movie, plan: SplitPlan, segment_index: int, track_number: int, movie_timescale: int
) -> tuple[Track, TrackProvenance]:
    """A track with the samples of one segment, still at their offsets in the source."""
    track = movie.tracks[track_number]
    first, end = plan.samples(track_number, segment_index)
    table = track.table.slice(first, end)
    edits, shift = track.edits, 0
    if plan.total_segments > 1:
        edits, shift = _segment_edits(movie, plan, segment_index, track_number, movie_timescale)
    if shift and table.offsets is not None:
        table = replace(table, offsets=table.offsets.shifted(shift))
    return replace(track, edits=edits, table=table), TrackProvenance(first, shift, track.edits)


def _segment_edits(
    movie: Movie, plan: SplitPlan, segment_index: int, track_number: int, movie_timescale: int
) -> tuple[tuple[Edit, ...], int]:
    """The edit list that keeps a segment's track in sync, and a shift of its composition offsets.

    A media time in an edit list cannot be negative, so composition offsets are shifted (ctts version 1).
    """
    track = movie.tracks[track_number]
    ranges = track.presented_ranges(movie.timescale)
    begin, end = plan.cuts[track_number][segment_index : segment_index + 2]
    if ranges is None or begin.sample == end.sample:
        return (), 0
    shift = max(0, begin.decode_time - begin.media_time) if segment_index else 0
    clipped = clip_ranges(
        ranges,
        _presented_from(track, begin, segment_index),
        end.media_time if end.sample < track.table.count else None,
    )
    edits = edits_of(
        clipped,
        movie_start=plan.starts_s[segment_index] * track.timescale,
        media_zero=begin.decode_time - shift,
        media_end=plan.cuts[track_number][-1].media_time,
        track_timescale=track.timescale,
        movie_timescale=movie_timescale,
    )
    return edits, shift


def _presented_from(track: Track, begin: Cut, segment_index: int) -> int | None:
    """The media time from which a segment's track is presented. None: as the source's edit list says.

    Without an edit list, a first frame with a late composition time is presented late. Players disagree about that once
    there is an edit list, so the delay becomes an empty edit.
    """
    if segment_index:
        return begin.media_time
    return None if track.edits else track.table.composition_start()


def _moved(track: Track, media: MediaRanges) -> Track:
    return replace(track, table=replace(track.table, chunks=media.moved(track.table.chunks)))
