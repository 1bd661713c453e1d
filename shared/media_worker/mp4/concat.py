"""Concatenating changed segments, such as re-encoded ones: each has its own encoder delay, padding and timescale.

The video decides. Its segments follow each other without a gap and with every frame that they present. The other
tracks are placed relative to the video of their own segment, so that no error adds up, whatever their durations are:

    video   |---- 0 ----|---- 1 ----|---- 2 ----|
    audio   |.---- 0 ----|.--- 1 ---|.---- 2 ----.     delay and padding (dots) are dropped at the inner edges

Video frames that a segment hides are left out if nothing depends on them. The copy of the next segment's first sample
at the end of a segment (`split`) replaces that sample. Frames that can be neither left out nor used are hidden by the
edit list of the final.

"Packet" means a sample of compressed audio here, as in ffmpeg: one packet contains many PCM samples.
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
from .samples import MAX_REORDER, Runs, SampleTable, Timeline, concat_tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .boxes import Box

# Larger timescales would leave too few seconds in a composition offset of 32 bits.
MAX_TIMESCALE = 1 << 24
MAX_PCM_GAP_SAMPLES = 9600  # a fifth of a second at 48 kHz

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


@dataclass(frozen=True, slots=True)
class SegmentTrack:
    """One segment's part of a track on the timeline of the final, in ticks of the track.

    `length` ticks of media from `media_start` are presented at `start`. The segment had `skipped` ticks of media before
    the first sample of `table`. Media that the segment hides follows the presented media (`hidden_after`) or precedes
    it (`hidden_before`).
    """

    table: SampleTable
    media_start: int
    start: int
    length: int
    skipped: int = 0
    hidden_before: int = 0
    hidden_after: int = 0


@dataclass(frozen=True, slots=True)
class ConcatenatedTrack:
    """A table for each segment, and the ranges of media that they present."""

    tables: tuple[SampleTable, ...]
    ranges: tuple[PresentedRange, ...] = ()

    @classmethod
    def of(cls, tables: tuple[SampleTable, ...], media_start: int, start: int, length: int) -> ConcatenatedTrack:
        """One range: `length` ticks of media from `media_start`, presented at `start`."""
        media_end = Fraction(media_start + length)
        return cls(tables, (PresentedRange(Fraction(start), Fraction(media_start), media_end),))


def _concatenate_track(track: _TrackParts, starts_s: Sequence[Fraction], movie_timescale: int) -> JoinedTrack:
    sources = [source for source in track.row if source is not None]
    first = next((source for source in sources if source.table.count), sources[0])
    parts = [
        None if part is None else _on_timeline(part, start_s)
        for part, start_s in zip(track.parts, starts_s, strict=True)
    ]
    if first.is_video:
        parts = without_hidden(parts)
    if _is_droppable(first.handler, parts):
        joined = concatenate_audio(parts, math.ceil(track.timescale * ROUNDING_S))
    else:
        joined = concatenate_in_order(parts)
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


def _is_droppable(handler: bytes, parts: Sequence[SegmentTrack | None]) -> bool:
    """Whether single samples can be dropped: audio whose packets are in order and decode independently."""
    tables = [part.table for part in parts if part is not None]
    return handler == b"soun" and all(table.offsets is None and table.sync is None for table in tables)


# Video: frames that a segment hides


def without_hidden(parts: Sequence[SegmentTrack | None]) -> list[SegmentTrack | None]:
    """Video without the frames that its segments hide, as far as possible. The others are counted as hidden media.

    Hidden frames at the start and at the end of the final stay: its edit list hides them.
    """
    changed = list(parts)
    numbers = [number for number, part in enumerate(parts) if part is not None]
    for number in numbers[1:]:
        changed[number] = _with_hidden_start(changed[number])
    for number, following in itertools.pairwise(numbers):
        changed[number], changed[following] = _without_hidden_end(changed[number], changed[following])
    return changed


def _with_hidden_start(part: SegmentTrack | None) -> SegmentTrack | None:
    """The frames before the first presented one are needed to decode it, so they stay."""
    assert part is not None
    return replace(part, hidden_before=max(0, part.media_start - part.table.composition_start()))


def _without_hidden_end(
    part: SegmentTrack | None, after: SegmentTrack | None
) -> tuple[SegmentTrack | None, SegmentTrack | None]:
    """A segment without the frames that it hides at its end, and the segment after it."""
    assert part is not None
    assert after is not None
    end = part.media_start + part.length
    table = part.table
    if max(table.last_composition_times(), default=end - 1) < end:
        return part, after
    hidden = [number for number, time in enumerate(table.all_composition_times()) if time >= end]
    first = hidden[0]
    if len(hidden) == table.count - first > 0 and first:
        return replace(part, table=table.slice(0, first)), after
    if len(hidden) == 1 and _is_copy(table, first, after):
        duration = after.table.durations[0]
        return replace(part, table=_with_sync_sample(table, first, after.table)), replace(
            after,
            table=after.table.slice(1, after.table.count),
            media_start=after.media_start - duration,
            skipped=duration,
        )
    return replace(part, hidden_after=table.composition_end() - end), after


def _is_copy(table: SampleTable, number: int, after: SegmentTrack) -> bool:
    """Whether sample `number` is a copy of the first sample of the segment after it, which presents that sample first.

    Both have the same size and description. In an encoder's own output, no frame is hidden while frames that depend on
    it are presented.
    """
    following = after.table
    one, other = table.slice(number, number + 1), following.slice(0, 1)
    first_time = following.slice_times(0, 1).composition_start()
    return (
        following.composition_start() == after.media_start == first_time
        and one.sizes.between(0, 1) == other.sizes.between(0, 1)
        and one.chunks.descriptions[0] == other.chunks.descriptions[0]
    )


def _with_sync_sample(table: SampleTable, number: int, following: SampleTable) -> SampleTable:
    """The table with sample `number` as a sync sample, if the first sample of `following` is one."""
    is_sync = following.sync is None or list(following.sync[:1]) == [0]
    if table.sync is None or not is_sync or number in table.sync[-MAX_REORDER:]:
        return table
    return replace(table, sync=array("Q", sorted([*table.sync, number])))


# Video, and every track of which no sample may be dropped


def concatenate_in_order(parts: Sequence[SegmentTrack | None]) -> ConcatenatedTrack:
    """Every sample in order. The last duration of a segment is changed so that the next segment starts in time.

    Encoders differ in delay, the composition time of the first frame. All segments get the longest delay, by a shift of
    their composition offsets. Then decode times simply follow presentation times.
    """
    filled = [part for part in parts if part is not None and part.table.count]
    if not filled:
        return ConcatenatedTrack((SampleTable.empty(),) * len(parts))
    first = filled[0]
    delays = [part.skipped + part.media_start if part.skipped else part.table.composition_start() for part in filled]
    hidden = max(0, first.media_start - delays[0])  # media before the first presented frame, at the start of the final
    times = _media_times(filled)
    decode_starts = _decode_starts(filled, times, hidden)
    media_start = hidden + max(delays)
    shifts = [
        media_start + time - decode_start - part.media_start
        for part, time, decode_start in zip(filled, times, decode_starts, strict=True)
    ]
    is_reordered = any(shifts) or any(part.table.offsets is not None for part in filled)
    tables = []
    for number, part in enumerate(filled):
        table = part.table
        if number + 1 < len(filled):
            table = _with_length(table, decode_starts[number + 1] - decode_starts[number])
        if is_reordered:
            offsets = table.offsets if table.offsets is not None else Runs.constant(table.count, 0)
            table = replace(table, offsets=offsets.shifted(shifts[number]))
        tables.append(table)
    return ConcatenatedTrack(_for_all_segments(parts, tables), tuple(_ranges(parts, filled, times, media_start)))


def _media_times(parts: Sequence[SegmentTrack]) -> list[int]:
    """Where the presented media of each part is, after that of the first part: hidden media takes time, too."""
    times = [0]
    hidden = 0
    for before, part in itertools.pairwise(parts):
        hidden += before.hidden_after + part.hidden_before
        times.append(part.start - parts[0].start + hidden)
    return times


def _decode_starts(parts: Sequence[SegmentTrack], times: Sequence[int], shift: int) -> list[int]:
    """When the first sample of each part is decoded: when its media starts, plus `shift`, but after earlier samples."""
    starts: list[int] = []
    earliest = end = 0
    for part, time in zip(parts, times, strict=True):
        # Samples that follow a copy of the first sample are decoded right after the leading samples of the copy.
        wanted = end if part.skipped else time - part.hidden_before + shift
        starts.append(max(wanted, earliest) if starts else 0)
        durations = part.table.durations
        end = starts[-1] + durations.total()
        earliest = end - durations[len(durations) - 1] + 1
    return starts


def _ranges(
    parts: Sequence[SegmentTrack | None], filled: Sequence[SegmentTrack], times: Sequence[int], media_start: int
) -> Iterator[PresentedRange]:
    """What the final presents: one range, or one more behind each range of hidden media."""
    last = next(part for part in reversed(parts) if part is not None)
    starts = [(part.start, time - part.start) for part, time in zip(filled, times, strict=True)]
    for shift, group in itertools.groupby(starts, key=lambda each: each[1]):
        start = next(group)[0]
        following = [other for other, other_shift in starts if other > start and other_shift != shift]
        end = min(following, default=last.start + last.length)
        media = Fraction(media_start + start + shift)
        yield PresentedRange(Fraction(start), media, media + end - start)


def _with_length(table: SampleTable, length: int) -> SampleTable:
    """The table with another last duration, so that the sum of its durations is `length`."""
    durations = table.durations
    last = durations[len(durations) - 1] + length - durations.total()
    return replace(table, durations=durations.with_last(max(last, 1)))


def _for_all_segments(parts: Sequence[SegmentTrack | None], tables: Sequence[SampleTable]) -> tuple[SampleTable, ...]:
    """One table for each segment: the next of `tables`, or an empty one for a segment without a part."""
    remaining: Iterator[SampleTable] = iter(tables)
    return tuple(next(remaining) if part is not None and part.table.count else SampleTable.empty() for part in parts)


# Audio


def concatenate_audio(parts: Sequence[SegmentTrack | None], rounding: int) -> ConcatenatedTrack:
    """Packets that encoders added at the inner edges (delay, padding) are dropped. The others follow each other.

    Whole packets seldom fit the time between two joins. So that there is no hole at a join, and so that players which
    count packets instead of reading times agree with the others, packets may be early or late (`excess`), by less than
    half a packet. That does not add up. At a longer gap in the audio, the packets keep their times.

    `rounding`: ticks by which the end of the last segment's edit list may be late.
    """
    filled = [part for part in parts if part is not None]
    if not filled:
        return ConcatenatedTrack((SampleTable.empty(),) * len(parts))
    ranges = _packet_ranges(filled)
    is_pcm = all(part.table.is_pcm for part in filled)
    excess = late = 0
    lengths: list[int] = []
    for before, after in itertools.pairwise(ranges):
        excess = _fit(before, after, 0 if is_pcm else excess)
        was_late, late = late, excess if abs(excess) <= before.last_duration // 2 and not is_pcm else 0
        lengths.append(after.start + late - before.start - was_late)
    first, last = filled[0], filled[-1]
    length = last.start + last.length - first.start + min(late, 0)
    if late > 0:
        # Otherwise the final would have one packet more than a file that was encoded in one go.
        ranges[-1].drop_from(first.media_start + length - late - rounding)
        length = min(length, ranges[-1].end + late - first.media_start)
    lengths.append(ranges[-1].end - ranges[-1].start)
    with_length = _pcm_with_length if is_pcm else _with_length
    tables = [with_length(packets.table(), length) for packets, length in zip(ranges, lengths, strict=True)]
    return ConcatenatedTrack.of(_for_all_segments(parts, tables), first.media_start, first.start, length)


@dataclass(slots=True)
class _PacketRange:
    """Packets `first_packet` to `end_packet` of a segment, whose media time 0 is `zero` of the track's media time."""

    part: SegmentTrack
    timeline: Timeline
    zero: int
    first_packet: int
    end_packet: int

    @property
    def start(self) -> int:
        """The media time of the track at which the first packet starts."""
        return self.zero + self.timeline.time_of(self.first_packet)

    @property
    def end(self) -> int:
        """The media time of the track at which the last packet ends."""
        return self.zero + self.timeline.time_of(self.end_packet)

    @property
    def last_duration(self) -> int:
        return self.part.table.durations[self.end_packet - 1]

    @property
    def starts_hidden(self) -> bool:
        """Whether the first packet is presented in part or not at all, and others follow it."""
        return self.start < self.zero + self.part.media_start and self.first_packet + 1 < self.end_packet

    def drop_from(self, time: int) -> None:
        """Drop packets at the end that start at media time `time` of the track or later, but keep one packet."""
        self.end_packet = min(self.end_packet, max(self.first_packet + 1, self.timeline.first_at(time - self.zero)))

    def include_from(self, time: int) -> None:
        """Include hidden packets at the start, back to the one that is decoded at media time `time` of the track."""
        self.first_packet = min(self.first_packet, max(0, self.timeline.first_at(time - self.zero + 1) - 1))

    def table(self) -> SampleTable:
        return self.part.table.slice(self.first_packet, self.end_packet)


def _packet_ranges(parts: Sequence[SegmentTrack]) -> list[_PacketRange]:
    """The packets that each segment's own edit list presents. Nothing is dropped at the start and end of the final."""
    first = parts[0]
    ranges = []
    for number, each in enumerate(parts):
        part = _with_whole_packets(each) if number + 1 < len(parts) else each
        timeline = Timeline.of(part.table.durations)
        zero = first.media_start + part.start - first.start - part.media_start
        first_packet = 0 if number == 0 else max(0, timeline.first_at(part.media_start + 1) - 1)
        packets = _PacketRange(part, timeline, zero, min(first_packet, part.table.count - 1), part.table.count)
        if number + 1 < len(parts):
            packets.drop_from(zero + part.media_start + part.length)
        ranges.append(packets)
    return ranges


def _with_whole_packets(part: SegmentTrack) -> SegmentTrack:
    """The part with a last packet as long as the others.

    Muxers shorten its duration by the padding that encoders add, but decoders that count samples get all of it.
    """
    durations = part.table.durations
    if part.table.is_pcm or len(durations) == 1:
        return part
    last = max(durations[len(durations) - 1], durations[len(durations) - 2])
    return replace(part, table=replace(part.table, durations=durations.with_last(last)))


def _fit(before: _PacketRange, after: _PacketRange, excess: int) -> int:
    """Choose the packets on both sides of a join so that their number fits the time. Returns the new excess."""
    packet = before.last_duration
    excess += before.end - after.start
    if excess > packet // 2 and after.starts_hidden:
        # Hidden packets are encoder delay. ffmpeg shortens the hidden part of the first packet by the excess.
        old_start = after.start
        after.first_packet += 1
        excess -= after.start - old_start
    if excess > packet // 2:
        old_end = before.end
        before.drop_from(old_end - (excess + packet // 2) // packet * packet)
        excess -= old_end - before.end
    if excess < -(packet // 2):
        old_start = after.start
        after.include_from(old_start + excess + packet // 2)
        excess += old_start - after.start
    # Decode times must increase, whatever the excess is: the last packet starts before the next segment's first one.
    old_end = before.end
    before.drop_from(after.start)
    return excess - (old_end - before.end)


def _pcm_with_length(table: SampleTable, length: int) -> SampleTable:
    """Exactly `length` samples of PCM. Their durations must stay 1, so a gap is filled by repeating the last samples.

    Raises:
        Unsupported: the gap is too long for that.
    """
    missing = length - table.count
    if missing <= 0:
        return table.slice(0, max(length, 1))
    if missing > min(table.count, MAX_PCM_GAP_SAMPLES):
        raise Unsupported(f"a gap of {missing} samples in PCM audio between two segments")
    return concat_tables([table, table.slice(table.count - missing, table.count)])
