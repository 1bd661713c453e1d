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
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from media_worker.keys import MAX_SEGMENTS

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
from .presented import Presented, PresentedFrames, refuse_too_many
from .provenance import Provenance, TrackProvenance, build_provenance, digest_of, without_provenance
from .samples import SampleTable, Timeline
from .writer import Layout, MediaRanges, layout_of, media_ranges

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .movie import Movie, Track
    from .reader import Read

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

    `segments` is what each segment presents of the video, or empty if there is no video. The segments follow each other
    without a gap and have all presented frames of the video. Segment 0 starts at 0. If the first frame is presented
    later, that delay is part of its duration and of its longest frame: a worker may keep the delay or drop it.

    `notice` is a sentence for the user if the video cannot be processed in parallel as wanted.
    """

    main_track: int
    starts_s: tuple[Fraction, ...]
    cuts: tuple[tuple[Cut, ...], ...]
    segments: tuple[Presented, ...] = ()
    notice: str | None = None

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
    refuse_too_many(table)
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
def plan_split(movie: Movie, segment_duration_s: Fraction, read: Read | None = None) -> SplitPlan:  # noqa: ARG001
    """Cut at the first cut point at or after each multiple of the duration.

    A movie whose edit list loops or changes the speed becomes one segment: cut in media order, it would be presented
    in another order.

    Raises:
        Unsupported: the movie has too many segments or reordered samples.
    """
    if segment_duration_s <= 0:
        raise ValueError("the segment duration must be above 0")
    source = _Source.of(movie)
    starts_s = list(source.starts(segment_duration_s)) if source.ranges else []
    plan = source.plan(starts_s)
    return replace(plan, notice=_notice(plan, source, segment_duration_s))


@overflow_is_unsupported()
def split_at(movie: Movie, starts_s: Sequence[Fraction], read: Read | None = None) -> SplitPlan:  # noqa: ARG001
    """Cut exactly at these times, as a stored plan says. The first one is 0.

    Raises:
        Unsupported: the movie cannot be cut at one of them; names it.
    """
    if not starts_s or starts_s[0] != 0:
        raise Unsupported("the first segment does not start at 0")
    source = _Source.of(movie)
    for before_s, start_s in pairwise(starts_s):
        if start_s <= before_s or not source.is_start(start_s):
            raise Unsupported(f"the source cannot be cut at {float(start_s):.6f} s ({start_s} s)")
    return source.plan(starts_s[1:])


@dataclass(frozen=True, slots=True)
class _Source:
    """A movie to be split. `ranges`: what each track presents, or empty if the movie must stay in one segment."""

    movie: Movie
    main: Track
    points: tuple[CutPoints, ...]
    main_points: CutPoints
    ranges: tuple[tuple[PresentedRange, ...], ...]
    main_ranges: tuple[PresentedRange, ...]
    frames: PresentedFrames | None  # None: there is no video

    @classmethod
    def of(cls, movie: Movie) -> _Source:
        number = movie.main_track_number
        main = movie.tracks[number]
        ranges = tuple(track.presented_ranges(movie.timescale) or () for track in movie.tracks)
        points = tuple(CutPoints(track.table) for track in movie.tracks)
        frames = PresentedFrames(main, movie.timescale) if main.is_video else None
        return cls(movie, main, points, points[number], ranges if all(ranges) else (), ranges[number], frames)

    def starts(self, duration_s: Fraction) -> Iterator[Fraction]:
        """The presentation times at which the segments behind the first one start, in seconds."""
        ranges, timescale, end = self.main_ranges, self.main.timescale, self.main_points.end
        multiple = 1
        for _ in range(MAX_SEGMENTS + 1):
            wanted = media_time_at(ranges, multiple * duration_s * timescale)
            cut = end if wanted is None else self._first_presented(wanted)
            if cut.sample >= end.sample:
                return
            start_s = presentation_time(ranges, cut.media_time) / timescale
            if cut.sample > 0:
                yield start_s
            multiple = max(multiple, start_s // duration_s) + 1

    def _first_presented(self, wanted: Fraction) -> Cut:
        """The first cut point at or after media time `wanted` that the edit list presents."""
        cut = self.main_points.first_at(wanted)
        while cut.sample < self.main_points.end.sample and not self._is_presented(cut.media_time):
            following = media_time_at(self.main_ranges, presentation_time(self.main_ranges, cut.media_time))
            cut = self.main_points.end if following is None else self.main_points.first_at(following)
        return cut

    def _is_presented(self, media_time: int) -> bool:
        """Whether the frame with this composition time is presented, and not only by a rounding error."""
        if not is_presented(self.main_ranges, media_time):
            return False
        return self.frames is None or self.frames.before(media_time) < self.frames.before(media_time + 1)

    def is_start(self, start_s: Fraction) -> bool:
        """Whether a segment other than the first one can start at this time."""
        if not self.ranges:
            return False
        media_time = media_time_at(self.main_ranges, start_s * self.main.timescale)
        if media_time is None:
            return False
        cut = self.main_points.first_at(media_time)
        is_exact = presentation_time(self.main_ranges, cut.media_time) == start_s * self.main.timescale
        return is_exact and 0 < cut.sample < self.main_points.end.sample and self._is_presented(cut.media_time)

    def plan(self, later_starts_s: Sequence[Fraction]) -> SplitPlan:
        """The plan with a first segment, and one for each of these starts."""
        if len(later_starts_s) >= MAX_SEGMENTS:
            raise Unsupported(f"more than {MAX_SEGMENTS} segments: use longer segments")
        starts_s = (Fraction(0), *later_starts_s)
        columns = [[Cut(0, 0, 0) for _ in self.points]]
        columns += [
            [_cut_at(*each, start_s) for each in zip(self.movie.tracks, self.points, self.ranges, strict=True)]
            for start_s in later_starts_s
        ]
        columns.append([each.end for each in self.points])
        cuts = tuple(zip(*columns, strict=True))
        main = self.movie.main_track_number
        return SplitPlan(main, starts_s, cuts, self._segments(cuts[main]))

    def _segments(self, cuts: Sequence[Cut]) -> tuple[Presented, ...]:
        """What each segment presents. Segment 0 starts at 0, however late its first frame is presented."""
        if self.frames is None:
            return ()
        firsts = [0, *(self.frames.before(cut.media_time) for cut in cuts[1:-1]), self.frames.count]
        first, *others = (self.frames.between(*each) for each in pairwise(firsts))
        delay_s = first.start_s
        longest_s = max(first.longest_frame_s, delay_s)
        return (Presented(first.frames, Fraction(0), first.duration_s + delay_s, longest_s), *others)


def _cut_at(track: Track, points: CutPoints, ranges: Sequence[PresentedRange], start_s: Fraction) -> Cut:
    """The first cut point of a track that is presented at or after `start_s`."""
    media_time = media_time_at(ranges, start_s * track.timescale)
    return points.end if media_time is None else points.first_at(media_time)


# What a user should know


_ADVICE = "re-encode with a keyframe every few seconds to process it in parallel"


def _notice(plan: SplitPlan, source: _Source, wanted_s: Fraction) -> str | None:
    """Why the video cannot be processed in parallel as wanted, or None if it can."""
    if not plan.segments:
        return None
    longest = max(range(plan.total_segments), key=lambda index: plan.segments[index].duration_s)
    longest_s = plan.segments[longest].duration_s
    if plan.total_segments == 1:
        return f"one segment: {_why_one(source)}" if longest_s > wanted_s else None
    if longest_s <= 2 * wanted_s:
        return None
    return (
        f"segment {longest} lasts {float(longest_s):.1f} s, more than twice the wanted {float(wanted_s):g} s: the "
        f"source has no keyframe in between at which it can be cut; {_ADVICE}"
    )


def _why_one(source: _Source) -> str:
    if not source.ranges:
        return "an edit list repeats media or changes the speed; export without edits to process it in parallel"
    keyframes = source.main.table.sync
    if keyframes is not None and len(keyframes) <= 1:
        return f"the source has a single keyframe; {_ADVICE}"
    return f"the source has no keyframe after the first at which it can be cut; {_ADVICE}"


# One segment


@overflow_is_unsupported()
def lay_out(movie: Movie, plan: SplitPlan, segment_index: int, max_gap_bytes: int = 0) -> Layout:
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
    box = without_provenance(movie.box)
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
