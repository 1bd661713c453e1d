"""Chapters: the `chpl` box in `udta` (Nero), and chapter tracks (QuickTime: a text track referred to as `chap`).

Most files have both, and players read either. A chapter track is split and joined like every other track. `chpl` is a
list for the whole movie, so each segment gets the chapters that start in it, and the final gets those of all segments:

    source    |One       |Two                 |Three         |
    segments  |One       |Two     |-----------|Three         |     the middle one starts no chapter

Otherwise each worker that copies chapters would repeat those of the whole movie. The first segment also keeps the list
of the source, to restore it when the segments are joined unchanged.

    chpl    version and flags, in version 1 four reserved bytes, number of chapters (1 byte), and for each chapter its
            start in units of 100 ns (8 bytes) and its title (1 byte of length, then UTF-8)
"""

from __future__ import annotations

import math
import struct
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from .boxes import Box, full_box, read_box_header, references, with_track_id
from .edit_list import EMPTY, Edit
from .errors import BrokenFile
from .samples import Runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .boxes import BoxHeader
    from .movie import Movie, Track

UNITS_PER_S = 10_000_000
MAX_CHAPTERS = 255
SOURCE_CHPL_UUID = bytes.fromhex("6d656469612d776f726b65722d636870")  # "media-worker-chp"
_ENTRY = struct.Struct(">QB")
_POSITION = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class Chapter:
    """A chapter of a `chpl` box: its start in units of 100 ns, and its title."""

    start: int
    title: bytes


# chpl


def parse_chpl(payload: bytes) -> tuple[Chapter, ...]:
    """The chapters of a `chpl` box. A truncated list ends early."""
    at = 8 if payload[:1] == b"\1" else 4
    count = payload[at] if at < len(payload) else 0
    chapters: list[Chapter] = []
    at += 1
    while len(chapters) < count and at + _ENTRY.size <= len(payload):
        start, length = _ENTRY.unpack_from(payload, at)
        at += _ENTRY.size
        chapters.append(Chapter(start, payload[at : at + length]))
        at += length
    return tuple(chapters)


def build_chpl(chapters: Sequence[Chapter]) -> Box:
    """The `chpl` box of the first 255 chapters: it cannot hold more."""
    kept = chapters[:MAX_CHAPTERS]
    head = full_box(1) + bytes(4) + bytes([len(kept)])
    return Box(b"chpl", head + b"".join(_ENTRY.pack(each.start, len(each.title)) + each.title for each in kept))


def chapters_of(moov: Box) -> tuple[Chapter, ...]:
    """The chapters of the `chpl` box, in order. None means no chapters."""
    found = _find_chpl(_udta(moov))
    return () if found is None else parse_chpl(found.payload)


@dataclass(frozen=True, slots=True)
class _Chpl:
    """Where a `chpl` box is in the payload of `udta`, and its payload."""

    start: int
    end: int
    payload: bytes


def _udta(moov: Box) -> bytes:
    udta = moov.find(b"udta")
    return b"" if udta is None else bytes(udta.payload)


def _find_chpl(udta: bytes) -> _Chpl | None:
    """The first `chpl`, or None."""
    found = (box for box in _boxes(udta) if box[0].kind == b"chpl")
    return next((_Chpl(at, at + size, udta[at + header.header_bytes : at + size]) for header, at, size in found), None)


def _end_of_boxes(udta: bytes) -> int:
    """Where a further box may be added: QuickTime ends user data with a 32-bit zero."""
    return max((at + size for _, at, size in _boxes(udta)), default=0)


def _boxes(udta: bytes) -> Iterator[tuple[BoxHeader, int, int]]:
    """The header, offset and size of each box. Ends at content that is not a box: user data is vendor-specific."""
    at = 0
    with suppress(BrokenFile):
        while (header := read_box_header(udta, at)) is not None:
            size_bytes = len(udta) - at if header.size_bytes is None else header.size_bytes
            if at + size_bytes > len(udta):
                return
            yield header, at, size_bytes
            at += size_bytes


def _with_udta(moov: Box, udta: bytes) -> Box:
    """`moov` with another payload of `udta`, which is added or removed if necessary."""
    children = list(moov.children or ())
    number = next((number for number, child in enumerate(children) if child.kind == b"udta"), len(children))
    children[number : number + 1] = [Box(b"udta", udta)] if udta else []
    return moov.with_children(tuple(children))


def _with_chapters(moov: Box, chapters: Sequence[Chapter]) -> Box:
    """`moov` with these chapters as `chpl`, at the position of the old one. Without a box if there are none."""
    udta = _udta(moov)
    found = _find_chpl(udta)
    new = build_chpl(chapters).to_bytes() if chapters else b""
    if found is None:
        at = _end_of_boxes(udta)
        return _with_udta(moov, udta[:at] + new + udta[at:]) if new else moov
    return _with_udta(moov, udta[: found.start] + new + udta[found.end :])


# Splitting


def with_segment_chapters(moov: Box, starts_s: Sequence[Fraction], segment_index: int) -> Box:
    """The `moov` box of a segment. `starts_s` are the start times of all segments."""
    moov = without_source_chapters(moov)  # of a source that is a segment itself
    found = _find_chpl(_udta(moov))
    if found is None or len(starts_s) == 1:
        return moov
    start = starts_s[segment_index] * UNITS_PER_S
    is_last = segment_index + 1 == len(starts_s)
    end = math.inf if is_last else starts_s[segment_index + 1] * UNITS_PER_S
    chapters = [
        replace(chapter, start=math.floor(chapter.start - start))
        for chapter in parse_chpl(found.payload)
        if start <= chapter.start < end
    ]
    box = _with_chapters(moov, chapters)
    if segment_index:
        return box
    kept = Box(b"uuid", SOURCE_CHPL_UUID + _POSITION.pack(found.start) + found.payload)
    return box.with_children((*(box.children or ()), kept))


# Joining


def with_source_chapters(moov: Box) -> Box:
    """The `moov` box of the source from that of its first segment."""
    kept = next(filter(_is_source_chpl, moov.children or ()), None)
    payload = b"" if kept is None else bytes(kept.payload)[16:]
    if len(payload) < _POSITION.size:
        return without_source_chapters(moov)
    (position,) = _POSITION.unpack_from(payload)
    udta = _udta(_with_chapters(moov, ()))
    chpl = Box(b"chpl", payload[_POSITION.size :]).to_bytes()
    return without_source_chapters(_with_udta(moov, udta[:position] + chpl + udta[position:]))


def without_source_chapters(moov: Box) -> Box:
    """A `moov` box without the chapters of the source."""
    return moov.with_children(tuple(child for child in moov.children or () if not _is_source_chpl(child)))


def _is_source_chpl(box: Box) -> bool:
    return box.kind == b"uuid" and bytes(box.payload[:16]) == SOURCE_CHPL_UUID


def with_joined_chapters(moovs: Sequence[Box], starts_s: Sequence[Fraction]) -> Box:
    """The first of the `moov` boxes with the chapters of all segments. `starts_s` are their start times in the final.

    Chapters behind the end of their segment are those of another one: some workers copy the chapters of the source. The
    first start is before 0 if the video of the first segment begins later than its chapters.
    """
    ends_s = [*starts_s[1:], None]
    chapters = [
        Chapter(max(0, math.ceil(chapter.start + start_s * UNITS_PER_S)), chapter.title)
        for moov, start_s, end_s in zip(moovs, starts_s, ends_s, strict=True)
        for chapter in chapters_of(moov)
        if end_s is None or chapter.start < (end_s - start_s) * UNITS_PER_S
    ]
    return _with_chapters(without_source_chapters(moovs[0]), chapters)


# Chapter tracks


def chapter_track_ids(tracks: Iterable[Track | None]) -> frozenset[int]:
    """The ids of the tracks that others refer to as their chapters."""
    return frozenset(each for track in tracks if track is not None for each in references(track.box, b"chap"))


def with_chapter_times(movie: Movie) -> Movie:
    """A segment whose chapter track has the times of its `chpl` box.

    ffmpeg writes the first chapter at time 0 into the chapter track, but at its own time into `chpl`.
    """
    ids, chapters = chapter_track_ids(movie.tracks), chapters_of(movie.box)
    if not ids or not chapters:
        return movie
    main = movie.tracks[movie.main_track_number]
    end_s = Fraction(main.table.media_duration, main.timescale)

    def corrected(track: Track) -> Track:
        if track.track_id not in ids or track.is_video or track.table.count != len(chapters):
            return track
        return _starting_at(track, [Fraction(each.start, UNITS_PER_S) for each in chapters], end_s, movie.timescale)

    return replace(movie, tracks=tuple(map(corrected, movie.tracks)))


def _starting_at(track: Track, starts_s: Sequence[Fraction], end_s: Fraction, movie_timescale: int) -> Track:
    """The track with samples that start at these times. The last one ends at `end_s`."""
    starts = [round(start_s * track.timescale) for start_s in starts_s]
    ends = [*starts[1:], max(round(end_s * track.timescale), starts[-1] + 1)]
    durations = [end - start for start, end in zip(starts, ends, strict=True)]
    if min(durations) <= 0:
        return track
    times = [round(Fraction(ticks, track.timescale) * movie_timescale) for ticks in (starts[0], ends[-1])]
    edits = (*((Edit(times[0], EMPTY),) if times[0] else ()), Edit(times[1] - times[0], 0))
    return replace(track, edits=edits, table=replace(track.table, durations=Runs.from_values(durations), offsets=None))


def with_chapter_reference(tracks: Sequence[Track], rows: Sequence[Sequence[Track | None]], main: int) -> list[Track]:
    """The tracks of the final, of which track `main` refers to the chapter track. `rows`: their parts in the segments.

    The segments before the first chapter have neither the track nor a reference to it.
    """
    tracks = list(tracks)
    columns = [chapter_track_ids(column) for column in zip(*rows, strict=True)]
    for number, row in enumerate(rows):
        is_chapters = any(part is not None and part.track_id in ids for part, ids in zip(row, columns, strict=True))
        if not is_chapters or number == main:
            continue
        others = {track.track_id for track in tracks[:number] + tracks[number + 1 :]}
        if tracks[number].track_id in others:
            tracks[number] = replace(tracks[number], box=with_track_id(tracks[number].box, max(others) + 1))
        if tracks[number].track_id not in references(tracks[main].box, b"chap"):
            tracks[main] = replace(tracks[main], box=_referring(tracks[main].box, tracks[number].track_id))
    return tracks


def _referring(trak: Box, track_id: int) -> Box:
    """A `trak` box that refers to a chapter track."""
    tref = Box(b"tref", Box(b"chap", struct.pack(">I", track_id)).to_bytes())
    kept = tuple(child for child in trak.children or () if child.kind != b"tref")
    at = next((number for number, child in enumerate(kept) if child.kind == b"tkhd"), 0) + 1
    return trak.with_children((*kept[:at], tref, *kept[at:]))
