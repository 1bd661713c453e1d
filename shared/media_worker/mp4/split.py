"""Splitting a movie: which samples belong to which segment. `segment` writes each of them.

plan = plan_split(movie, rule, read)    decides where to cut; `read` looks at a few samples of the video
layout = lay_out(movie, plan, 0)        segment 0: header and byte ranges of the source, together a complete file

`cut_points` has the cut rule. The main track (the video) decides when segments start; the other tracks are cut at their
first cut point at or after that time. The edit list of each segment keeps its tracks in sync.

A segment that ends at an open GOP overlaps with the next one. Both have the sync sample of that GOP (`S`), and its
leading samples (`L`) are only in the first one, whose edit list ends when S is presented:

    source       ... P  B  B  S  L  L  P  B  B ...
    segment 0    ... P  B  B  S  L  L                  presents ... B  B  P  L  L
    segment 1                 S        P  B  B ...     presents S  B  B  P ...

With context frames they overlap further (`context`), and present frames of their neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, islice, pairwise, takewhile, tee
from typing import TYPE_CHECKING

from media_worker.keys import MAX_SEGMENTS

from .context import SampleRange, SegmentContext
from .cut_points import Cut, CutPoints
from .edit_list import (
    PresentedRange,
    is_presented,
    media_time_at,
    presentation_time,
)
from .errors import Unsupported, overflow_is_unsupported
from .forward_keys import ForwardKeys
from .key_frames import KeyFrames, can_verify, is_doubtful
from .notices import notice_of
from .presented import Presented, PresentedFrames
from .reader import Read, one_by_one
from .split_rule import MatchedCut, SplitRule, bounded, later_starts, match_cuts, match_equal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .fragment_reader import ReadMany
    from .movie import Movie, Track


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """Where a movie is cut. Segment i begins at `starts_s[i]`, and in track t at `cuts[t][i]`.

    Each track has one cut more than there are segments: its end.

    `segments` is what each segment presents of the video, or empty if there is no video. The segments follow each other
    without a gap and have all presented frames of the video. `starts_s[0]` is when the first frame is presented. That
    is not always 0: segment 0 has all of the movie before it, too, and a worker may keep such a delay or drop it.

    `notice` is a sentence for the user if the video cannot be processed in parallel as wanted.

    `context` is what each segment has, and presents, beyond its own frames. Empty: nothing.

    `matched_cuts` says what each wanted cut time got. Empty: no cut times were wanted.
    """

    main_track: int
    starts_s: tuple[Fraction, ...]
    cuts: tuple[tuple[Cut, ...], ...]
    segments: tuple[Presented, ...] = ()
    notice: str | None = None
    context: tuple[SegmentContext, ...] = ()
    matched_cuts: tuple[MatchedCut, ...] = ()

    @property
    def total_segments(self) -> int:
        """The number of segments."""
        return len(self.starts_s)

    def only_main(self) -> SplitPlan:
        """The plan for a movie that has only the main track."""
        context = tuple(replace(each, ranges=(each.ranges[self.main_track],)) for each in self.context)
        return replace(self, main_track=0, cuts=(self.cuts[self.main_track],), context=context)

    def samples(self, track_number: int, segment_index: int) -> tuple[int, int]:
        """The samples of a track that a segment presents, in decode order: the first, and the one behind the last.

        The segment does not have the leading samples of its first sample, but those of the next segment's.
        """
        cuts = self.cuts[track_number]
        return cuts[segment_index].sample, cuts[segment_index + 1].sample

    def range_of(self, track_number: int, segment_index: int) -> SampleRange:
        """The samples that a segment has of a track, with those that overlap with other segments."""
        if self.context:
            return self.context[segment_index].ranges[track_number]
        return own_range(self.cuts[track_number], segment_index)

    def movie_start_s(self, segment_index: int) -> Fraction:
        """When the movie of a segment begins, in seconds of the source. Segment 0 has all of the movie before it."""
        if segment_index == 0:
            return Fraction(0)
        return self.context[segment_index].start_s if self.context else self.starts_s[segment_index]


def own_range(cuts: Sequence[Cut], segment_index: int) -> SampleRange:
    """The samples of a segment without context, given the cuts of the track."""
    begin, end = cuts[segment_index : segment_index + 2]
    media_end = end.media_time if end.sample < cuts[-1].sample else None
    return SampleRange(begin, end.sample + end.overlap, begin.media_time, media_end)


# The plan


@overflow_is_unsupported()
def plan_split(
    movie: Movie,
    rule: SplitRule | Fraction,
    read: Read | None = None,
    read_many: ReadMany | None = None,
    *,
    context_frames: int = 0,
) -> SplitPlan:
    """Cut as the rule says; a duration is a rule, too: cut at the first cut point at or after each multiple of it.

    Each segment also presents up to `context_frames` frames before and after its own.

    A movie whose edit list loops or changes the speed becomes one segment: cut in media order, it would be presented
    in another order.

    `read(offset, length)` reads the source, to see whether samples that are marked as sync samples are key frames. If
    all samples are marked, or none, every sample at which a segment starts is verified. Otherwise two of them are, and
    all if one of the two is not a key frame. If the plan has a notice, AV1 video is searched for forward key frames.
    Without `read`, the file is believed. `read_many` reads several parts at the same time.

    Raises:
        Unsupported: the movie has too many segments or reordered samples.
    """
    if not isinstance(rule, SplitRule):
        rule = SplitRule(rule)
    reader = _reader(read, read_many)
    source = _Source.of(movie, reader)
    plan = _planned(source, rule, context_frames)
    forward_keys = ForwardKeys.of(source.main, reader) if plan.notice else None
    if forward_keys is None:
        return plan
    other = _planned(_Source.of(movie, reader, forward_keys), rule, context_frames)
    return other if any(cut.key for cut in other.cuts[other.main_track]) else plan


def _planned(source: _Source, rule: SplitRule, context_frames: int) -> SplitPlan:
    starts_s, cuts = _choose(source, rule)
    if not source.are_verified and not source.seem_right(starts_s):
        source = replace(source, are_verified=True)
        starts_s, cuts = _choose(source, rule)
    plan = replace(source.plan(starts_s, context_frames), matched_cuts=cuts if rule.cut_times_s is not None else ())
    notice = notice_of(plan, rule, source.main.table.sync, has_plain_edits=bool(source.ranges))
    return replace(plan, notice=notice)


def _choose(source: _Source, rule: SplitRule) -> tuple[list[Fraction], tuple[MatchedCut, ...]]:
    """When the segments behind the first one start, and what each wanted time got."""
    if rule.cut_times_s is not None:
        cuts = match_cuts(source, rule.cut_times_s, rule.tolerance_s)
    else:
        cuts = match_equal(source, rule.segments) if rule.segments is not None else ()
    starts_s = later_starts(source, cuts) if rule.segment_duration_s is None else source.starts(rule.segment_duration_s)
    if rule.max_duration_s is not None:
        all_s = bounded(source, starts_s, rule.max_duration_s, keep_all=rule.cut_times_s is not None)
        starts_s = list(islice(all_s, MAX_SEGMENTS))
    return starts_s, cuts


@overflow_is_unsupported()
def split_at(
    movie: Movie,
    starts_s: Sequence[Fraction],
    read: Read | None = None,
    read_many: ReadMany | None = None,
    *,
    context_frames: int = 0,
) -> SplitPlan:
    """Cut exactly at these times, as a stored plan says. `read` and `context_frames` as in `plan_split`.

    Raises:
        Unsupported: the movie cannot be cut at one of them; names it.
    """
    reader = _reader(read, read_many)
    source = _Source.of(movie, reader)
    cuts = [source.cut_at(start_s) for start_s in starts_s[1:]]
    forward_keys = ForwardKeys.of(source.main, reader) if None in cuts else None
    if forward_keys is not None:
        source = _Source.of(movie, reader, forward_keys)
        cuts = [source.cut_at(start_s) for start_s in starts_s[1:]]
    are_key = source.are_key([cut.sample for cut in cuts if cut])
    for (before_s, start_s), cut in zip(pairwise(starts_s), cuts, strict=True):
        if cut is None or start_s <= before_s or not are_key[cut.sample]:
            raise Unsupported(f"the source cannot be cut at {float(start_s):.6f} s ({start_s} s)")
    return source.plan(starts_s[1:], context_frames)


def _reader(read: Read | None, read_many: ReadMany | None) -> ReadMany | None:
    return read_many if read is None or read_many is not None else one_by_one(read)


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
    key_frames: KeyFrames | None  # None: the file is believed
    are_verified: bool  # whether a segment only starts at a key frame that was looked at

    @classmethod
    def of(cls, movie: Movie, read_many: ReadMany | None, forward_keys: ForwardKeys | None = None) -> _Source:
        number = movie.main_track_number
        main = movie.tracks[number]
        key_frames = KeyFrames(main, read_many) if read_many is not None and can_verify(main) else None
        are_verified = key_frames is not None and is_doubtful(main.table)
        ranges = tuple(track.presented_ranges(movie.timescale) or () for track in movie.tracks)
        points = tuple(
            CutPoints(
                track.table,
                with_open_gops=track is main,
                any_sample=track is main and are_verified,
                forward_keys=forward_keys if track is main else None,
            )
            for track in movie.tracks
        )
        return cls(
            movie=movie,
            main=main,
            points=points,
            main_points=points[number],
            ranges=ranges if all(ranges) else (),
            main_ranges=ranges[number],
            frames=PresentedFrames(main, movie.timescale) if main.is_video else None,
            key_frames=key_frames,
            are_verified=are_verified,
        )

    def starts(self, duration_s: Fraction) -> list[Fraction]:
        """The presentation times at which the segments behind the first one start, in seconds."""
        return list(self._starts(duration_s)) if self.ranges else []

    def _starts(self, duration_s: Fraction) -> Iterator[Fraction]:
        ranges, timescale = self.main_ranges, self.main.timescale
        multiple = 1
        for _ in range(MAX_SEGMENTS + 1):
            wanted = media_time_at(ranges, multiple * duration_s * timescale)
            cut = None if wanted is None else self._first_cut(wanted)
            if cut is None:
                return
            start_s = presentation_time(ranges, cut.media_time) / timescale
            if cut.sample > 0:
                yield start_s
            multiple = max(multiple, start_s // duration_s) + 1

    def _first_cut(self, wanted: Fraction) -> Cut | None:
        """The first cut point at or after media time `wanted` that the edit list presents."""
        return self._first_key(cut for cut in self.main_points.from_time(wanted) if self._is_presented(cut.media_time))

    def _first_key(self, points: Iterator[Cut]) -> Cut | None:
        """The first of these cut points, or the first that is verified to be a key frame."""
        if self.key_frames is None or not self.are_verified:
            return next(points, None)
        candidates, cuts = tee(points)
        sample = self.key_frames.first(cut.sample for cut in candidates)
        return None if sample is None else next(cut for cut in cuts if cut.sample == sample)

    @property
    def first_s(self) -> Fraction:
        """When the first frame is presented."""
        return self._limits_s[0]

    @property
    def end_s(self) -> Fraction:
        """When the last frame ends."""
        return self._limits_s[1]

    @property
    def _limits_s(self) -> tuple[Fraction, Fraction]:
        if not self.ranges:
            return Fraction(0), Fraction(0)
        if self.frames is not None:
            first, end = self.frames.time_of(0), self.frames.time_of(self.frames.count)
        else:
            media_times = self.main.table.composition_start(), self.main_points.end.media_time
            first, end = (presentation_time(self.main_ranges, each) for each in media_times)
        return first / self.main.timescale, end / self.main.timescale

    def at_or_after(self, time_s: Fraction, until_s: Fraction) -> Fraction | None:
        """The first time from `time_s` to `until_s` at which a segment behind the first one can start."""
        media_time = media_time_at(self.main_ranges, time_s * self.main.timescale) if self.ranges else None
        if media_time is None:
            return None
        cuts = self.main_points.from_time(max(media_time, Fraction(0)))
        return self._first_start(takewhile(lambda cut: self._start_of(cut) <= until_s, cuts))

    def at_or_before(self, time_s: Fraction, from_s: Fraction) -> Fraction | None:
        """The last time from `from_s` to `time_s` at which a segment behind the first one can start."""
        if not self.ranges:
            return None
        media_time = media_time_at(self.main_ranges, time_s * self.main.timescale)
        cuts = self.main_points.back_from(self.main_points.end.media_time if media_time is None else media_time)
        near = takewhile(lambda cut: self._start_of(cut) >= from_s, cuts)
        return self._first_start(cut for cut in near if self._start_of(cut) <= time_s)

    def _start_of(self, cut: Cut) -> Fraction:
        return presentation_time(self.main_ranges, cut.media_time) / self.main.timescale

    def _first_start(self, cuts: Iterable[Cut]) -> Fraction | None:
        """When the first of these that a segment behind the first one can start at is presented."""
        first_s = self.first_s
        usable = (
            cut
            for cut in cuts
            if 0 < cut.sample < self.main_points.end.sample
            and self._is_presented(cut.media_time)
            and self._start_of(cut) > first_s
        )
        cut = self._first_key(usable)
        return None if cut is None else self._start_of(cut)

    def _is_presented(self, media_time: int) -> bool:
        """Whether the frame with this composition time is presented, and not only by a rounding error."""
        if not is_presented(self.main_ranges, media_time):
            return False
        return self.frames is None or self.frames.before(media_time) < self.frames.before(media_time + 1)

    def seem_right(self, starts_s: Sequence[Fraction]) -> bool:
        """Whether the first and the last of these starts are key frames."""
        cuts = [self.cut_at(start_s) for start_s in starts_s]
        samples = [cut.sample for cut in cuts if cut and not cut.key]
        return self.key_frames is None or all(self.key_frames.are_key([*samples[:1], *samples[-1:]]))

    def are_key(self, samples: Sequence[int]) -> dict[int, bool]:
        """For each sample, whether a segment can start with it: verified, or because the file says so."""
        is_believed = self.key_frames is None or not self.are_verified
        known = [True] * len(samples) if is_believed or not self.key_frames else self.key_frames.are_key(samples)
        return dict(zip(samples, known, strict=True))

    def cut_at(self, start_s: Fraction) -> Cut | None:
        """The cut point that is presented at this time, or None if there is none."""
        time = start_s * self.main.timescale
        media_time = media_time_at(self.main_ranges, time) if self.ranges else None
        if media_time is None:
            return None
        cut = self.main_points.first_at(media_time)
        is_exact = presentation_time(self.main_ranges, cut.media_time) == time and self._is_presented(cut.media_time)
        return cut if is_exact and 0 < cut.sample < self.main_points.end.sample else None

    def plan(self, later_starts_s: Sequence[Fraction], context_frames: int = 0) -> SplitPlan:
        """The plan with a first segment, and one for each of these starts."""
        if len(later_starts_s) >= MAX_SEGMENTS:
            raise Unsupported(f"more than {MAX_SEGMENTS} segments: use longer segments")
        columns = [[Cut(0, 0, 0) for _ in self.points]]
        columns += [
            [_cut_at(*each, start_s) for each in zip(self.movie.tracks, self.points, self.ranges, strict=True)]
            for start_s in later_starts_s
        ]
        columns.append([each.end for each in self.points])
        cuts = tuple(zip(*columns, strict=True))
        main = self.movie.main_track_number
        segments = self._segments(cuts[main])
        first_s = segments[0].start_s if segments else Fraction(0)
        plan = SplitPlan(main, (first_s, *later_starts_s), cuts, segments)
        return replace(plan, context=self._context(plan, context_frames))

    def _context(self, plan: SplitPlan, context_frames: int) -> tuple[SegmentContext, ...]:
        """Up to `context_frames` frames of context on each side of each segment. Empty without context or video."""
        if not context_frames or self.frames is None or plan.total_segments == 1:
            return ()
        firsts = accumulate((each.frames for each in plan.segments), initial=0)
        edges = [
            (first, max(0, first - context_frames), end, min(self.frames.count, end + context_frames))
            for first, end in pairwise(firsts)
        ]
        return tuple(
            SegmentContext(
                before=first - presented_first,
                after=presented_end - end,
                start_s=self.frames.time_of(presented_first) / self.main.timescale,
                ranges=self._context_ranges(plan, index, self.frames, presented_first, presented_end),
            )
            for index, (first, presented_first, end, presented_end) in enumerate(edges)
        )

    def _context_ranges(
        self, plan: SplitPlan, index: int, frames: PresentedFrames, first: int, end: int
    ) -> tuple[SampleRange, ...]:
        """What a segment that presents frames `first` to `end` (exclusive) has of each track."""
        is_first, is_last = index == 0, end == frames.count
        start_s, end_s = (frames.time_of(number) / self.main.timescale for number in (first, end))
        ranges = []
        for number, each in enumerate(zip(self.movie.tracks, self.points, self.ranges, strict=True)):
            own, points = own_range(plan.cuts[number], index), self.points[number]
            if number == plan.main_track:
                media_start = own.media_start if is_first else frames.media_time_of(first)
                begin = own.begin if is_first else self._decode_start(plan, index, media_start)
                media_end = None if is_last else frames.media_time_of(end)
                last = points.end.sample if media_end is None else max(own.end, points.end_of(media_end))
                ranges.append(SampleRange(begin, last, media_start, media_end))
                continue
            begin = own.begin if is_first else _cut_at(*each, start_s)
            stop = points.end if is_last else _cut_at(*each, end_s)
            media_end = stop.media_time if stop.sample < points.end.sample else None
            ranges.append(SampleRange(begin, stop.sample, begin.media_time, media_end))
        return tuple(ranges)

    def _decode_start(self, plan: SplitPlan, index: int, media_time: int) -> Cut:
        """Where decoding must start so that the frame at `media_time` is decoded."""
        found = self._first_key(self.main_points.back_from(media_time))
        start = Cut(0, self.main.table.composition_start(), 0)
        known = [cut for cut in plan.cuts[plan.main_track][1 : index + 1] if cut.media_time <= media_time]
        return found or max(known, key=lambda cut: cut.media_time, default=start)

    def _segments(self, cuts: Sequence[Cut]) -> tuple[Presented, ...]:
        """What each segment presents of the video."""
        if self.frames is None:
            return ()
        firsts = [0, *(self.frames.before(cut.media_time) for cut in cuts[1:-1]), self.frames.count]
        return tuple(self.frames.between(*each) for each in pairwise(firsts))


def _cut_at(track: Track, points: CutPoints, ranges: Sequence[PresentedRange], start_s: Fraction) -> Cut:
    """The first cut point of a track that is presented at or after `start_s`."""
    media_time = media_time_at(ranges, start_s * track.timescale)
    return points.end if media_time is None else points.first_at(media_time)
