"""A film as its index describes it: tracks, and the boxes to build new indexes from."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import headers
from .boxes import Box, parse_boxes, unpack
from .checks import check_supported
from .defragment import defragmented
from .edits import Edit, Span, parse_edits, spans_of
from .errors import BrokenFile, Unsupported, numbers_that_fit
from .fragments import has_fragments, parse_defaults, read_fragments
from .sound import with_true_sizes
from .source import Read, Window, find_index
from .stbl import TABLES, parse_sample_table

if TYPE_CHECKING:
    from .tables import SampleTable

MAX_TRACKS = 256
MAX_EDITS = 4096
_U32 = struct.Struct(">I")


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
        """The track as messages call it."""
        return f"track {self.track_id} ({self.handler.decode('latin-1')})"

    @property
    def is_video(self) -> bool:
        """Whether it holds pictures."""
        return self.handler == b"vide"

    @property
    def codecs(self) -> tuple[bytes, ...]:
        """The kinds of its sample descriptions."""
        return tuple(entry.kind for entry in self.descriptions)

    def spans(self, movie_timescale: int) -> tuple[Span, ...] | None:
        """What is shown of it and when; None when it does not run straight through."""
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


@numbers_that_fit()
def read_movie(read: Read, size_bytes: int) -> Movie:
    """The index of the file that `read(offset, length)` reads from.

    Raises `Unsupported` for a file that another engine may take and `BrokenFile` for one that contradicts itself.
    """
    window = Window(read, size_bytes)
    index = find_index(window)
    return _parse(window, index.ftyp, index.moov, index.moov_box.end)


def _parse(window: Window, ftyp: bytes | None, moov_bytes: bytes, moov_end: int) -> Movie:
    moov = Box(b"moov", children=parse_boxes(memoryview(moov_bytes), b"moov"))
    if moov.find(b"cmov"):
        raise Unsupported("a compressed index (cmov)")
    timescale = headers.movie_timescale(moov.need(b"mvhd"))
    tracks = _parse_tracks(moov)
    fingerprint = hashlib.blake2b(moov_bytes, digest_size=16)
    if has_fragments(moov):
        found = read_fragments(window, moov_end, parse_defaults(moov), fingerprint.update)
        tracks, timescale = defragmented(tracks, found, timescale)
    movie = Movie(ftyp, timescale, tracks, _without_tables(moov), window.size_bytes, fingerprint.digest())
    check_supported(movie)
    return movie


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
    return Track(
        track_id=headers.track_id(trak.need(b"tkhd")),
        handler=bytes(handler.payload[8:12]),
        timescale=headers.media_timescale(trak.need(b"mdia", b"mdhd")),
        edits=edits,
        descriptions=descriptions,
        table=table,
        box=_without_tables(trak),
    )


def _parse_descriptions(stsd: Box) -> tuple[Box, ...]:
    (count,) = unpack(_U32, stsd, 4)
    entries = parse_boxes(memoryview(stsd.payload)[8:], b"stsd")
    if count > len(entries):
        raise BrokenFile("stsd holds more entries than its box")
    return tuple(Box(entry.kind, bytes(entry.payload), entry.children) for entry in entries[:count])


def _without_tables(box: Box) -> Box:
    """The tree without the sample tables, and copied: else a few bytes would keep the whole index in memory."""
    if box.children is None:
        return Box(box.kind, bytes(box.payload))
    dropped = TABLES if box.kind == b"stbl" else {b"edts", b"mvex"}
    return box.with_children(tuple(_without_tables(child) for child in box.children if child.kind not in dropped))
