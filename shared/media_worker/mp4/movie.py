"""A film as its index describes it: tracks, and the boxes to build new indexes from."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from . import headers
from .boxes import Box, parse_boxes, unpack
from .edits import Edit, Span, parse_edits, spans_of
from .errors import BrokenFile, Unsupported
from .fragments import add_fragments, has_fragments
from .sound import with_true_sizes
from .source import Read, Window, find_index
from .stbl import TABLES, parse_sample_table
from .tables import SampleTable

MAX_TRACKS = 256
MAX_EDITS = 4096
ENCRYPTED = frozenset({b"encv", b"enca", b"enct", b"encs", b"encm", b"drmi", b"drms"})
_U32 = struct.Struct(">I")
_SELF_CONTAINED = 1


@dataclass(frozen=True, slots=True)
class Track:
    """One track. `box` is its `trak` without sample tables and edit list: what a writer starts from."""

    track_id: int
    handler: bytes
    timescale: int
    edits: tuple[Edit, ...]
    descriptions: tuple[Box, ...]  # the sample entries of stsd, verbatim
    table: SampleTable
    box: Box

    @property
    def name(self) -> str:
        return f"track {self.track_id} ({self.handler.decode('latin-1')})"

    @property
    def is_video(self) -> bool:
        return self.handler == b"vide"

    @property
    def codecs(self) -> tuple[bytes, ...]:
        return tuple(entry.kind for entry in self.descriptions)

    def spans(self, movie_timescale: int) -> tuple[Span, ...] | None:
        return spans_of(self.edits, self.timescale, movie_timescale)


@dataclass(frozen=True, slots=True)
class Movie:
    """The index of one file. `box` is its `moov` with the tracks in place but without their tables."""

    ftyp: bytes | None
    timescale: int
    tracks: tuple[Track, ...]
    box: Box
    size_bytes: int
    fingerprint: bytes  # of the index: two files with the same one have the same samples in the same places


def read_movie(read: Read, size_bytes: int) -> Movie:
    """The index of the file that `read(offset, length)` reads from.

    Raises `Unsupported` for a file that another engine may take and `BrokenFile` for one that contradicts itself.
    """
    window = Window(read, size_bytes)
    index = find_index(window)
    try:
        return _parse(window, index.ftyp, index.moov, index.moov_box.end)
    except OverflowError as error:
        raise BrokenFile("numbers too large to be meant") from error


def _parse(window: Window, ftyp: bytes | None, moov_bytes: bytes, moov_end: int) -> Movie:
    moov = Box(b"moov", children=parse_boxes(memoryview(moov_bytes), b"moov"))
    if moov.find(b"cmov"):
        raise Unsupported("a compressed index (cmov)")
    _check_no_file_offsets(moov)
    timescale = headers.movie_timescale(moov.need(b"mvhd"))
    tracks = _parse_tracks(moov)
    if has_fragments(moov):
        tracks = add_fragments(window, moov, tracks, moov_end, timescale)
    _check_samples(tracks, window.size_bytes)
    fingerprint = hashlib.blake2b(moov_bytes, digest_size=16).digest()
    return Movie(ftyp, timescale, tracks, _without_tables(moov), window.size_bytes, fingerprint)


def _parse_tracks(moov: Box) -> tuple[Track, ...]:
    boxes = list(moov.find_all(b"trak"))
    if len(boxes) > MAX_TRACKS:
        raise BrokenFile(f"{len(boxes)} tracks")
    tracks = tuple(_parse_track(box) for box in boxes)
    if len({track.track_id for track in tracks}) < len(tracks):
        raise BrokenFile("two tracks with the same number")
    return tracks


def _parse_track(trak: Box) -> Track:
    stbl = trak.need(b"mdia", b"minf", b"stbl")
    edits = parse_edits(trak.find(b"edts", b"elst"))
    if len(edits) > MAX_EDITS:
        raise Unsupported(f"an edit list of {len(edits)} entries")
    handler = trak.need(b"mdia", b"hdlr")
    descriptions = _parse_descriptions(stbl.need(b"stsd"))
    table = parse_sample_table(stbl)
    if handler.payload[8:12] == b"soun" and descriptions:
        table = with_true_sizes(table, descriptions[0])
    track = Track(
        track_id=headers.track_id(trak.need(b"tkhd")),
        handler=bytes(handler.payload[8:12]),
        timescale=headers.media_timescale(trak.need(b"mdia", b"mdhd")),
        edits=edits,
        descriptions=descriptions,
        table=table,
        box=_without_tables(trak),
    )
    _check_descriptions(track, trak)
    return track


def _parse_descriptions(stsd: Box) -> tuple[Box, ...]:
    (count,) = unpack(_U32, stsd, 4)
    entries = parse_boxes(memoryview(stsd.payload)[8:], b"stsd")
    if count > len(entries):
        raise BrokenFile("stsd holds more entries than its box")
    return tuple(Box(entry.kind, bytes(entry.payload), entry.children) for entry in entries[:count])


def _check_descriptions(track: Track, trak: Box) -> None:
    used = set(track.table.chunks.descriptions.values)
    if used and not 1 <= min(used) <= max(used) <= len(track.descriptions):
        raise BrokenFile(f"{track.name} uses a sample description that is not there")
    if ENCRYPTED.intersection(track.codecs):
        raise Unsupported(f"{track.name} is encrypted")
    references = _data_references(trak.find(b"mdia", b"minf", b"dinf", b"dref"))
    for number in used:
        entry = track.descriptions[number - 1]
        reference = int.from_bytes(entry.payload[6:8], "big")
        if references and not (1 <= reference <= len(references) and references[reference - 1]):
            raise Unsupported(f"{track.name} has its media in another file")


def _data_references(dref: Box | None) -> list[bool]:
    """For each data reference: is it this file itself? (8.7.2)"""
    if dref is None:
        return []
    entries = parse_boxes(memoryview(dref.payload)[8:], b"dref")
    return [bytes(entry.payload[3:4]) != b"" and bool(entry.payload[3] & _SELF_CONTAINED) for entry in entries]


def _check_no_file_offsets(moov: Box) -> None:
    """Items of a `meta` box may lie anywhere in the file (8.11.3); their offsets would go stale."""
    for holder in (moov, *moov.find_all(b"trak")):
        meta = holder.find(b"meta")
        if meta is not None and b"iloc" in bytes(meta.payload):
            raise Unsupported("metadata items that lie outside the index")


def _check_samples(tracks: Sequence[Track], size_bytes: int) -> None:
    if not any(track.table.count for track in tracks):
        raise Unsupported("no samples")
    for track in tracks:
        table = track.table
        end = max(map(int.__add__, table.chunks.offsets, table.chunks.lengths(table.sizes)), default=0)
        if end > size_bytes:
            raise Unsupported(f"{track.name} has samples beyond the end of the file: it is cut short")


def _without_tables(box: Box) -> Box:
    """The tree without the sample tables, and copied: else a few bytes would keep the whole index in memory."""
    if box.children is None:
        return Box(box.kind, bytes(box.payload))
    dropped = TABLES if box.kind == b"stbl" else {b"edts", b"mvex"}
    return box.with_children(tuple(_without_tables(child) for child in box.children if child.kind not in dropped))
