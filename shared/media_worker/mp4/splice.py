"""Splicing one track: which samples of each segment follow each other in the final.

Video, and every track of which no sample may be dropped: every sample in order. Frames that a segment hides are left
out if nothing depends on them. The copy of the next segment's first sample at the end of a segment (`split`) replaces
that sample. Frames that can be neither left out nor used are hidden by the edit list of the final.

Audio: encoder delay and padding are dropped at the inner edges. "Packet" means a sample of compressed audio here, as in
ffmpeg: one packet contains many PCM samples.
"""

from __future__ import annotations

import itertools
from array import array
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from .edit_list import PresentedRange
from .errors import Unsupported
from .samples import MAX_REORDER, Runs, SampleTable, Timeline, concat_tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_PCM_GAP_SAMPLES = 9600  # a fifth of a second at 48 kHz


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
class SplicedTrack:
    """A table for each segment, and the ranges of media that they present."""

    tables: tuple[SampleTable, ...]
    ranges: tuple[PresentedRange, ...] = ()

    @classmethod
    def of(cls, tables: tuple[SampleTable, ...], media_start: int, start: int, length: int) -> SplicedTrack:
        """One range: `length` ticks of media from `media_start`, presented at `start`."""
        media_end = Fraction(media_start + length)
        return cls(tables, (PresentedRange(Fraction(start), Fraction(media_start), media_end),))


def splice(parts: Sequence[SegmentTrack | None], *, handler: bytes, rounding: int) -> SplicedTrack:
    """The samples of a track with this handler type, segment by segment (None: a segment without the track).

    `rounding`: ticks by which the end of the last segment's edit list may be late.

    Raises:
        Unsupported: a gap in PCM audio is too long to be filled.
    """
    if handler == b"vide":
        parts = _without_hidden(parts)
    if _is_droppable(handler, parts):
        return _concatenate_audio(parts, rounding)
    return _concatenate_in_order(parts)


def _is_droppable(handler: bytes, parts: Sequence[SegmentTrack | None]) -> bool:
    """Whether single samples can be dropped: audio whose packets are in order and decode independently."""
    tables = [part.table for part in parts if part is not None]
    return handler == b"soun" and all(table.offsets is None and table.sync is None for table in tables)


# Video: frames that a segment hides


def _without_hidden(parts: Sequence[SegmentTrack | None]) -> list[SegmentTrack | None]:
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


def _concatenate_in_order(parts: Sequence[SegmentTrack | None]) -> SplicedTrack:
    """Every sample in order. The last duration of a segment is changed so that the next segment starts in time.

    Encoders differ in delay, the composition time of the first frame. All segments get the longest delay, by a shift of
    their composition offsets. Then decode times simply follow presentation times.
    """
    filled = [part for part in parts if part is not None and part.table.count]
    if not filled:
        return SplicedTrack((SampleTable.empty(),) * len(parts))
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
    return SplicedTrack(_for_all_segments(parts, tables), tuple(_ranges(parts, filled, times, media_start)))


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


def _concatenate_audio(parts: Sequence[SegmentTrack | None], rounding: int) -> SplicedTrack:
    """Packets that encoders added at the inner edges (delay, padding) are dropped. The others follow each other.

    Segments present audio until after the join (`segment`), so that no packet with padding or delay is needed there.

    Whole packets seldom fit the time between two joins. So that there is no hole at a join, and so that players which
    count packets instead of reading times agree with the others, packets may be early or late (`excess`), by less than
    half a packet. That does not add up. Only behind the last join may they be late by a packet, if the audio would end
    early otherwise. At a longer gap in the audio, the packets keep their times.

    `rounding`: ticks by which the end of the last segment's edit list may be late.
    """
    filled = [part for part in parts if part is not None]
    if not filled:
        return SplicedTrack((SampleTable.empty(),) * len(parts))
    ranges = _packet_ranges(filled)
    is_pcm = all(part.table.is_pcm for part in filled)
    first, last = filled[0], filled[-1]
    length = last.start + last.length - first.start
    excess = late = 0
    lengths: list[int] = []
    for before, after in itertools.pairwise(ranges):
        excess = _fit(before, after, 0 if is_pcm else excess)
        limit = before.last_duration // 2
        if after is ranges[-1] and -limit <= excess < 0 and after.end + excess < first.media_start + length:
            excess += before.keep_another()
            limit = before.last_duration
        was_late, late = late, excess if abs(excess) <= limit and not is_pcm else 0
        lengths.append(after.start + late - before.start - was_late)
    length += min(late, 0)
    if late > 0:
        # Otherwise the final would have one packet more than a file that was encoded in one go.
        ranges[-1].drop_from(first.media_start + length - late - rounding)
        length = min(length, ranges[-1].end + late - first.media_start)
    lengths.append(ranges[-1].end - ranges[-1].start)
    with_length = _pcm_with_length if is_pcm else _with_length
    tables = [with_length(packets.table(), length) for packets, length in zip(ranges, lengths, strict=True)]
    return SplicedTrack.of(_for_all_segments(parts, tables), first.media_start, first.start, length)


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
    def starts_with_delay(self) -> bool:
        """Whether the first packet has encoder delay, and others follow it.

        It is presented in part, or it is the first one that the encoder wrote: not every file says what is delay.
        """
        is_first = self.first_packet == 0 and not self.part.table.is_pcm
        is_hidden = self.start < self.zero + self.part.media_start
        return (is_first or is_hidden) and self.first_packet + 1 < self.end_packet

    def drop_from(self, time: int) -> None:
        """Drop packets at the end that start at media time `time` of the track or later, but keep one packet."""
        self.end_packet = min(self.end_packet, max(self.first_packet + 1, self.timeline.first_at(time - self.zero)))

    def keep_another(self) -> int:
        """Keep the dropped packet behind the last one if the segment presents all of it. Returns its duration, or 0."""
        if self.end_packet == self.part.table.count:
            return 0
        end = self.timeline.time_of(self.end_packet + 1)
        if end > self.part.media_start + self.part.length:
            return 0
        self.end_packet += 1
        return self.last_duration

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
    if excess > packet // 2 and after.starts_with_delay:
        # ffmpeg shortens the hidden part of the first packet by the excess.
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
