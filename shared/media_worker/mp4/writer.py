"""Writing a header: `ftyp`, `moov` in front (fast start), and the opening of `mdat`."""

from __future__ import annotations

import struct
import sys
from array import array
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from . import headers
from .boxes import Box, full_box, mdat_header
from .edits import Edit, build_elst
from .groups import build_groups

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .places import Chunks
    from .ranges import RangeMap
    from .runs import Runs
    from .tables import SampleTable

MAX_U32 = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class NewTrack:
    """One track to be written. Chunk offsets count from the first byte of media."""

    box: Box  # the trak to start from: all its boxes but the tables and the edit list are kept
    timescale: int
    descriptions: tuple[Box, ...]
    edits: tuple[Edit, ...]
    table: SampleTable

    def moved(self, places: RangeMap, base: int = 0) -> NewTrack:
        """The track with its chunks where the ranges will lie."""
        return replace(self, table=replace(self.table, chunks=places.moved(self.table.chunks, base)))


@dataclass(frozen=True, slots=True)
class NewMovie:
    """One file to be written."""

    ftyp: bytes | None
    box: Box  # the moov to start from
    timescale: int
    tracks: tuple[NewTrack, ...]
    extra: tuple[Box, ...] = ()  # added to moov


def build_header(movie: NewMovie, media_bytes: int) -> bytes:
    """Everything in front of the media: the offsets in it depend on its own length."""
    ftyp = Box(b"ftyp", movie.ftyp if movie.ftyp is not None else b"qt  \0\0\0\0qt  ").to_bytes()
    mdat = mdat_header(media_bytes)
    tables = [table_boxes(track.table) for track in movie.tracks]
    media_at = len(ftyp) + len(mdat) + _moov(movie, tables, 0, wide=False).size_bytes
    is_wide = media_at + media_bytes > MAX_U32
    if is_wide:
        media_at = len(ftyp) + len(mdat) + _moov(movie, tables, 0, wide=True).size_bytes
    moov = _moov(movie, tables, media_at, wide=is_wide)
    return b"".join((ftyp, *moov.pieces(), mdat))


def moov_box(movie: NewMovie, media_at: int, *, wide: bool) -> Box:
    """The index alone, for media that begin at `media_at` of the file."""
    return _moov(movie, [table_boxes(track.table) for track in movie.tracks], media_at, wide=wide)


def _moov(movie: NewMovie, tables: Sequence[list[Box]], media_at: int, *, wide: bool) -> Box:
    durations = [_film_duration(track, movie.timescale) for track in movie.tracks]
    traks = [
        _trak(track, boxes, duration, chunk_offset_box(track.table.chunks, media_at, wide=wide))
        for track, boxes, duration in zip(movie.tracks, tables, durations, strict=True)
    ]
    mvhd = headers.with_times(movie.box.need(b"mvhd"), max(durations, default=0), movie.timescale)
    others = [child for child in movie.box.children or () if child.kind not in (b"mvhd", b"trak")]
    # Boxes that players want before the tracks (iods) stay there; most writers have none and put udta behind.
    kinds = [child.kind for child in movie.box.children or ()]
    early = sum(kind not in (b"mvhd", b"trak") for kind in kinds[: kinds.index(b"trak") if b"trak" in kinds else 0])
    return Box(b"moov", children=(mvhd, *others[:early], *traks, *others[early:], *movie.extra))


def _film_duration(track: NewTrack, movie_timescale: int) -> int:
    if track.edits:
        return sum(edit.duration for edit in track.edits)
    return -(-track.table.media_duration * movie_timescale // track.timescale)


def _trak(track: NewTrack, tables: list[Box], film_duration: int, chunk_offsets: Box) -> Box:
    children: list[Box] = []
    for child in track.box.children or ():
        if child.kind == b"tkhd":
            children.append(headers.with_times(child, film_duration))
            if track.edits:
                children.append(Box(b"edts", children=(build_elst(track.edits),)))
        else:
            children.append(_mdia(child, track, tables, chunk_offsets) if child.kind == b"mdia" else child)
    return Box(b"trak", children=tuple(children))


def _mdia(mdia: Box, track: NewTrack, tables: list[Box], chunk_offsets: Box) -> Box:
    def rebuilt(box: Box) -> Box:
        if box.kind == b"mdhd":
            return headers.with_times(box, track.table.media_duration, track.timescale)
        if box.kind == b"stbl":
            return _stbl(box, track, tables, chunk_offsets)
        return box.with_children(tuple(map(rebuilt, box.children))) if box.kind == b"minf" and box.children else box

    return mdia.with_children(tuple(map(rebuilt, mdia.children or ())))


def _stbl(stbl: Box, track: NewTrack, tables: list[Box], chunk_offsets: Box) -> Box:
    head = bytes(stbl.need(b"stsd").payload[:4]) + struct.pack(">I", len(track.descriptions))
    stsd = Box(b"stsd", head + b"".join(entry.to_bytes() for entry in track.descriptions))
    others = [child for child in stbl.children or () if child.kind != b"stsd"]
    return Box(b"stbl", children=(stsd, *others, *tables, chunk_offsets))


def table_boxes(table: SampleTable) -> list[Box]:
    """The sample table as boxes, all but the chunk offsets."""
    boxes = [_run_box(b"stts", 0, "I", table.durations)]
    if table.offsets is not None:
        version = 1 if min(table.offsets.values, default=0) < 0 else 0
        boxes.append(_run_box(b"ctts", version, "i" if version else "I", table.offsets))
        if table.has_bounds:
            boxes.append(_cslg(table, table.offsets))
    if table.sync is not None:
        boxes.append(_list_box(b"stss", "I", (number + 1 for number in table.sync)))
    if table.partial_sync is not None:
        boxes.append(_list_box(b"stps", "I", (number + 1 for number in table.partial_sync)))
    boxes.extend(Box(kind, full_box(0) + data) for kind, data in table.per_sample.items())
    boxes.append(_stsc(table.chunks))
    boxes.append(_stsz(table))
    return boxes + build_groups(table.groups)


def _cslg(table: SampleTable, offsets: Runs) -> Box:
    """What the composition offsets span (8.6.1.4)."""
    least, greatest = min(offsets.values, default=0), max(offsets.values, default=0)
    numbers = (max(0, -least), least, greatest, table.composition_start(), table.composition_end())
    return Box(b"cslg", full_box(1) + struct.pack(">5q", *numbers))


def _big_endian(numbers: array[int]) -> bytes:
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers.tobytes()


def _list_box(kind: bytes, code: str, numbers: Iterable[int], version: int = 0, numbers_each: int = 1) -> Box:
    entries = array(code, numbers)
    head = full_box(version) + struct.pack(">I", len(entries) // numbers_each)
    return Box(kind, head + _big_endian(entries))


def _run_box(kind: bytes, version: int, code: str, runs: Runs) -> Box:
    entries = array(code, bytes(2 * len(runs.counts) * array(code).itemsize))
    entries[0::2], entries[1::2] = array(code, runs.counts), array(code, runs.values)
    return _list_box(kind, code, entries, version, numbers_each=2)


def _stsc(chunks: Chunks) -> Box:
    entries = array("I")
    number = 1
    for (count, description), group in groupby(zip(chunks.counts, chunks.descriptions, strict=True)):
        entries.extend((number, count, description))
        number += sum(1 for _ in group)
    return _list_box(b"stsc", "I", entries, numbers_each=3)


def _stsz(table: SampleTable) -> Box:
    sizes = table.sizes
    if sizes.table is None:
        return Box(b"stsz", full_box(0) + struct.pack(">II", sizes.constant or 0, sizes.count))
    return Box(b"stsz", full_box(0) + struct.pack(">II", 0, sizes.count) + _big_endian(sizes.table[:]))


def chunk_offset_box(chunks: Chunks, media_at: int, *, wide: bool) -> Box:
    """Where the chunks lie, for media that begin at `media_at`."""
    kind, code = (b"co64", "Q") if wide else (b"stco", "I")
    if not wide and media_at == 0:  # only measured: the offsets may not even fit
        return Box(kind, bytes(8 + 4 * len(chunks.offsets)))
    return _list_box(kind, code, (offset + media_at for offset in chunks.offsets))
