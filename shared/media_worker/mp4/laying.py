"""Laying the pieces of one track end to end, each where it belongs in the film."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .errors import Unsupported
from .runs import Runs, Timeline
from .tables import SampleTable, concat_tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_PCM_GAP_SAMPLES = 9600  # a fifth of a second at 48 kHz


@dataclass(frozen=True, slots=True)
class Piece:
    """One segment's part of a track, in ticks of the track: `media_start` of it is shown at `film_start`."""

    table: SampleTable
    media_start: int
    film_start: int
    length: int


@dataclass(frozen=True, slots=True)
class Laid:
    """A track laid out: a table for each segment, and the one edit that shows them all."""

    tables: tuple[SampleTable, ...]
    media_start: int = 0
    film_start: int = 0
    length: int = 0


def lay_in_order(pieces: Sequence[Piece | None]) -> Laid:
    """Every sample kept, for video and whatever depends on its order; the last duration of a piece takes up the slack.

    Encoders differ in how long they hold pictures back (`delay`, the composition time of the first one). All pieces
    get the longest delay, by way of their composition offsets; their decode times then simply follow the film.
    """
    filled = [piece for piece in pieces if piece is not None]
    if not filled:
        return Laid((SampleTable.empty(),) * len(pieces))
    first = filled[0]
    delays = [piece.table.composition_start() for piece in filled]
    hidden = max(0, first.media_start - delays[0])  # pictures before the first one shown; only the film may have them
    starts = _decode_starts(filled, hidden - first.film_start)
    media_start = hidden + max(delays)
    shifts = [
        media_start + piece.film_start - first.film_start - start - piece.media_start
        for piece, start in zip(filled, starts, strict=True)
    ]
    is_reordered = any(shifts) or any(piece.table.offsets is not None for piece in filled)
    tables = []
    for number, piece in enumerate(filled):
        table = piece.table
        if number + 1 < len(filled):
            table = _lasting(table, starts[number + 1] - starts[number])
        if is_reordered:
            offsets = table.offsets if table.offsets is not None else Runs.constant(table.count, 0)
            table = replace(table, offsets=offsets.shifted(shifts[number]))
        tables.append(table)
    length = filled[-1].film_start + filled[-1].length - first.film_start
    return Laid(_with_gaps(pieces, tables), media_start, first.film_start, length)


def _decode_starts(pieces: Sequence[Piece], media_ahead: int) -> list[int]:
    """When the first sample of each piece is decoded: with its film time, but after all samples before it."""
    starts: list[int] = []
    earliest = 0
    for piece in pieces:
        starts.append(max(piece.film_start + media_ahead, earliest) if starts else 0)
        durations = piece.table.durations
        earliest = starts[-1] + durations.total() - durations[len(durations) - 1] + 1
    return starts


def _lasting(table: SampleTable, length: int) -> SampleTable:
    """The table with the last duration such that all of them add up to `length`."""
    durations = table.durations
    last = durations[len(durations) - 1] + length - durations.total()
    return replace(table, durations=durations.with_last(max(last, 1)))


def _with_gaps(pieces: Sequence[Piece | None], tables: Sequence[SampleTable]) -> tuple[SampleTable, ...]:
    """The tables at the numbers of their segments, empty ones for segments without."""
    waiting: Iterator[SampleTable] = iter(tables)
    return tuple(SampleTable.empty() if piece is None else next(waiting) for piece in pieces)


@dataclass(slots=True)
class _Strip:
    """Packets `first` to `end` of a piece, whose media begins at `zero` of the track's media."""

    piece: Piece
    timeline: Timeline
    zero: int
    first: int
    end: int

    @property
    def starts_at(self) -> int:
        return self.zero + self.timeline.time_of(self.first)

    @property
    def ends_at(self) -> int:
        return self.zero + self.timeline.time_of(self.end)

    @property
    def last_duration(self) -> int:
        return self.piece.table.durations[self.end - 1]

    @property
    def opens_hidden(self) -> bool:
        """Whether the first packet is hidden in part, with others behind it."""
        return self.starts_at < self.zero + self.piece.media_start and self.first + 1 < self.end

    def end_by(self, time: int) -> None:
        """Leave out packets at the end that begin at `time` of the track's media or later; keep one at least."""
        self.end = min(self.end, max(self.first + 1, self.timeline.first_at(time - self.zero)))

    def begin_by(self, time: int) -> None:
        """Take in packets at the start, hidden ones, as far back as the one that lasts at `time`."""
        self.first = min(self.first, max(0, self.timeline.first_at(time - self.zero + 1) - 1))


def lay_sound(pieces: Sequence[Piece | None]) -> Laid:
    """Packets that encoders added at the inner edges (delay, padding) are left out; every packet has its true time.

    The last packet of a piece takes up what is left, less than half a packet. Players that count packets
    rather than look at times stay as close: what they are ahead or behind (`surplus`) never grows past half a packet.
    """
    filled = [piece for piece in pieces if piece is not None]
    if not filled:
        return Laid((SampleTable.empty(),) * len(pieces))
    strips = _strips(filled)
    is_pcm = all(piece.table.is_pcm for piece in filled)
    surplus = 0
    lengths: list[int] = []
    for before, after in itertools.pairwise(strips):
        surplus = _fit(before, after, 0 if is_pcm else surplus)
        lengths.append(after.starts_at - before.starts_at)
    close = _closed_pcm if is_pcm else _lasting
    tables = [
        close(table, length)
        for table, length in zip((_cut(strip) for strip in strips), [*lengths, _whole(strips[-1])], strict=True)
    ]
    first, last = filled[0], filled[-1]
    length = last.film_start + last.length - first.film_start
    return Laid(_with_gaps(pieces, tables), first.media_start, first.film_start, length)


def _strips(pieces: Sequence[Piece]) -> list[_Strip]:
    """What to keep of each piece by its own edit list: the outer ends of the film stay as they are."""
    first = pieces[0]
    strips = []
    for number, piece in enumerate(pieces):
        timeline = Timeline.of(piece.table.durations)
        zero = first.media_start + piece.film_start - first.film_start - piece.media_start
        begin = 0 if number == 0 else max(0, timeline.first_at(piece.media_start + 1) - 1)
        begin = min(begin, piece.table.count - 1)
        strip = _Strip(piece, timeline, zero, begin, piece.table.count)
        if number + 1 < len(pieces):
            strip.end_by(zero + piece.media_start + piece.length)
        strips.append(strip)
    return strips


def _fit(before: _Strip, after: _Strip, surplus: int) -> int:
    """Choose the packets on both sides of a join so that their number fits the time; what is left is answered."""
    packet = before.last_duration
    surplus += before.ends_at - after.starts_at
    if surplus > packet // 2 and after.opens_hidden:
        # ffmpeg shortens the hidden part of the first packet by what the sound came late: the packet is encoder delay.
        old_start = after.starts_at
        after.first += 1
        surplus -= after.starts_at - old_start
    if surplus > packet // 2:
        old_end = before.ends_at
        before.end_by(old_end - (surplus - packet // 2))
        surplus -= old_end - before.ends_at
    if surplus < -(packet // 2):
        old_start = after.starts_at
        after.begin_by(old_start + surplus + packet // 2)
        surplus += old_start - after.starts_at
    # Whatever the count says, time must not run backwards: the last packet begins before the next one.
    old_end = before.ends_at
    before.end_by(after.starts_at)
    return surplus - (old_end - before.ends_at)


def _cut(strip: _Strip) -> SampleTable:
    return strip.piece.table.slice(strip.first, strip.end)


def _whole(strip: _Strip) -> int:
    return strip.ends_at - strip.starts_at


def _closed_pcm(table: SampleTable, length: int) -> SampleTable:
    """PCM of exactly that many samples: its durations must stay 1, so a gap is filled with the last samples again."""
    missing = length - table.count
    if missing <= 0:
        return table.slice(0, max(length, 1))
    if missing > min(table.count, MAX_PCM_GAP_SAMPLES):
        raise Unsupported(f"a gap of {missing} samples in uncompressed sound")
    return concat_tables([table, table.slice(table.count - missing, table.count)])
