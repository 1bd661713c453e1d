"""What a film must not have for its index to be rewritten."""

from __future__ import annotations

from operator import add
from typing import TYPE_CHECKING

from .boxes import FULL_BOX_BYTES, Box, parse_boxes
from .errors import BrokenFile, Unsupported

if TYPE_CHECKING:
    from .movie import Movie, Track

ENCRYPTED = frozenset({b"encv", b"enca", b"enct", b"encs", b"encm", b"drmi", b"drms"})
_SELF_CONTAINED = 1


def check_supported(movie: Movie) -> None:
    """Raises `Unsupported` or `BrokenFile` for the first thing that stands in the way."""
    if not any(track.table.count for track in movie.tracks):
        raise Unsupported("no samples")
    for holder in (movie.box, *movie.box.find_all(b"trak")):
        _check_no_file_offsets(holder)
    for track in movie.tracks:
        _check_descriptions(track)
        _check_inside_file(track, movie.size_bytes)


def _check_descriptions(track: Track) -> None:
    used = set(track.table.chunks.descriptions.values)
    if used and not 1 <= min(used) <= max(used) <= len(track.descriptions):
        raise BrokenFile(f"{track.name} uses a sample description that is not there")
    if ENCRYPTED.intersection(track.codecs):
        raise Unsupported(f"{track.name} is encrypted")
    in_this_file = _data_references(track.box.find(b"mdia", b"minf", b"dinf", b"dref"))
    for number in used:
        reference = int.from_bytes(track.descriptions[number - 1].payload[6:8], "big")
        # A number without an entry means nothing: Android writes metadata entries without that field (8.5.2.2).
        if 1 <= reference <= len(in_this_file) and not in_this_file[reference - 1]:
            raise Unsupported(f"{track.name} has its media in another file")


def _data_references(dref: Box | None) -> list[bool]:
    """For each data reference: is it this file itself (8.7.2)."""
    if dref is None:
        return []
    entries = parse_boxes(memoryview(dref.payload)[8:], b"dref")
    return [len(entry.payload) >= FULL_BOX_BYTES and bool(entry.payload[3] & _SELF_CONTAINED) for entry in entries]


def _check_no_file_offsets(holder: Box) -> None:
    """Items of a `meta` box may lie anywhere in the file (8.11.3); their offsets would go stale."""
    meta = holder.find(b"meta")
    if meta is not None and b"iloc" in bytes(meta.payload):
        raise Unsupported("metadata items that lie outside the index")


def _check_inside_file(track: Track, size_bytes: int) -> None:
    chunks = track.table.chunks
    if max(map(add, chunks.offsets, chunks.lengths(track.table.sizes)), default=0) > size_bytes:
        raise Unsupported(f"{track.name} has samples beyond the end of the file: it is cut short")
