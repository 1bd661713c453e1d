"""Clips that ffmpeg cannot write: its output with a changed index."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from media_worker.mp4.boxes import Box, mdat_header
from media_worker.mp4.edit_list import Edit
from media_worker.mp4.samples import Chunks, Runs, SampleTable, Sizes
from media_worker.mp4.writer import build_header, build_moov

from .engines import read_file

if TYPE_CHECKING:
    from media_worker.mp4 import Movie, Track

type Rewrite = Callable[[Path], bytes]


def _new(track: Track, table: SampleTable | None = None, edits: Iterable[Edit] | None = None) -> Track:
    return replace(
        track,
        edits=track.edits if edits is None else tuple(edits),
        table=track.table if table is None else table,
    )


def _file(movie: Movie, tracks: Iterable[Track], media: bytes) -> bytes:
    return build_header(replace(movie, tracks=tuple(tracks)), len(media)) + media


def _with_whole_file_as_media(path: Path, tracks: Callable[[Movie], Iterable[Track]]) -> bytes:
    """Make the old file the media of the new one, so that all chunk offsets stay correct."""
    return _file(movie := read_file(path), tracks(movie), path.read_bytes())


def _samples(path: Path, track: Track) -> list[bytes]:
    data = path.read_bytes()
    found = []
    for number, chunk_offset in enumerate(track.table.chunks.offsets):
        offset = chunk_offset
        for sample in range(track.table.chunks.starts[number], track.table.chunks.starts[number + 1]):
            length = track.table.sizes.between(sample, sample + 1)
            found.append(data[offset : offset + length])
            offset += length
    return found


def one_sample_per_chunk(path: Path) -> bytes:
    """Every sample is a chunk of its own, with other bytes between them."""
    movie = read_file(path)
    media = b""
    tracks = []
    for track in movie.tracks:
        offsets = array("Q")
        for sample in _samples(path, track):
            offsets.append(len(media))
            media += sample + b"junk"
        chunks = Chunks.of(offsets, array("I", [1]) * len(offsets), Runs.constant(len(offsets), 1))
        tracks.append(_new(track, replace(track.table, chunks=chunks)))
    return _file(movie, tracks, media)


def one_chunk_per_track(path: Path) -> bytes:
    """Each track is one chunk."""
    movie = read_file(path)
    media = b""
    tracks = []
    for track in movie.tracks:
        chunks = Chunks.of(array("Q", [len(media)]), array("I", [track.table.count]), Runs.constant(1, 1))
        media += b"".join(_samples(path, track))
        tracks.append(_new(track, replace(track.table, chunks=chunks)))
    return _file(movie, tracks, media)


def backwards(path: Path) -> bytes:
    """The samples of each track are stored from last to first."""
    movie = read_file(path)
    media = b""
    tracks = []
    for track in movie.tracks:
        samples = _samples(path, track)
        offsets = list(accumulate(map(len, reversed(samples)), initial=len(media)))[:-1]
        chunks = Chunks.of(
            array("Q", reversed(offsets)), array("I", [1]) * len(samples), Runs.constant(len(samples), 1)
        )
        media += b"".join(reversed(samples))
        tracks.append(_new(track, replace(track.table, chunks=chunks)))
    return _file(movie, tracks, media)


def missing_stss(path: Path) -> bytes:
    return _with_whole_file_as_media(
        path, lambda movie: [_new(track, replace(track.table, sync=None)) for track in movie.tracks]
    )


def zero_length_samples(path: Path) -> bytes:
    """Some samples of the last track have no bytes, which is legal."""

    def emptied(table: SampleTable) -> SampleTable:
        samples = array("I", (table.sizes.between(n, n + 1) for n in range(table.count)))
        last_of_chunks = [end - 1 for end in table.chunks.starts[1:]][::5]
        for number in last_of_chunks:
            samples[number] = 0
        return replace(table, sizes=Sizes.of(samples))

    return _with_whole_file_as_media(
        path, lambda movie: [*map(_new, movie.tracks[:-1]), _new(movie.tracks[-1], emptied(movie.tracks[-1].table))]
    )


def _edited(*edits_s: tuple[float, float, int]) -> Rewrite:
    """The same media with another edit list: (length in s, media time in s or -1, rate) for each entry."""

    def edits(movie: Movie, track: Track) -> Iterable[Edit]:
        start = next((edit.media_time for edit in track.edits if not edit.is_empty), 0)
        for length_s, media_s, rate in edits_s:
            media_time = -1 if media_s < 0 else start + int(media_s * track.timescale)
            yield Edit(int(length_s * movie.timescale), media_time, rate)

    return lambda path: _with_whole_file_as_media(
        path, lambda movie: [_new(track, edits=edits(movie, track)) for track in movie.tracks]
    )


def with_bounds(path: Path) -> bytes:
    """Add a `cslg` to negative composition offsets, as QuickTime does."""
    return _with_whole_file_as_media(
        path, lambda movie: [_new(track, replace(track.table, has_bounds=True)) for track in movie.tracks]
    )


def without_edits(path: Path) -> bytes:
    return _with_whole_file_as_media(path, lambda movie: [_new(track, edits=()) for track in movie.tracks])


def _media_first(path: Path, *, front: bytes | None, wide: bool) -> bytes:
    """The media, which is the whole old file, followed by the index."""
    movie, media = read_file(path), path.read_bytes()
    head = Box(b"ftyp", movie.ftyp or b"").to_bytes() + front if front is not None else b""
    head += struct.pack(">I4sQ", 1, b"mdat", 16 + len(media)) if wide else mdat_header(len(media))
    return head + media + build_moov(movie, len(head), wide=wide).to_bytes()


def large_offsets(path: Path) -> bytes:
    """`co64`, a 64-bit size on a small `mdat`, and `free` and `wide` boxes in front of it."""
    return _media_first(path, front=Box(b"free", bytes(100)).to_bytes() + Box(b"wide").to_bytes(), wide=True)


def without_ftyp(path: Path) -> bytes:
    """As QuickTime wrote files before `ftyp` existed."""
    return _media_first(path, front=None, wide=False)


def with_empty_track(path: Path) -> bytes:
    """Add a track without samples."""

    def tracks(movie: Movie) -> Iterable[Track]:
        yield from map(_new, movie.tracks)
        tkhd = movie.tracks[0].box.need(b"tkhd")
        renumbered = Box(b"tkhd", bytes(tkhd.payload[:12]) + struct.pack(">I", 99) + bytes(tkhd.payload[16:]))
        children = movie.tracks[0].box.children or ()
        box = movie.tracks[0].box.with_children(tuple(renumbered if c.kind == b"tkhd" else c for c in children))
        yield replace(_new(movie.tracks[0], movie.tracks[0].table.slice(0, 0), ()), box=box)

    movie = read_file(path)
    wider = movie.box.with_children((*(movie.box.children or ()), Box(b"trak")))
    return _file(replace(movie, box=wider), tracks(movie), path.read_bytes())


def cut_short(path: Path) -> bytes:
    """The last tenth of the media is missing."""
    data = path.read_bytes()
    return data[: len(data) * 9 // 10]


NORMAL, HALF = 0x10000, 0x8000
REWRITTEN: dict[str, tuple[str, Rewrite]] = {
    "one_sample_per_chunk.mp4": ("h264_bframes.mp4", one_sample_per_chunk),
    "one_chunk_per_track.mp4": ("h264_bframes.mp4", one_chunk_per_track),
    "backwards.mp4": ("h264_bframes.mp4", backwards),
    "missing_stss.mp4": ("h264_intra_only.mp4", missing_stss),
    "missing_stss_bframes.mp4": ("h264_bframes.mp4", missing_stss),
    "zero_length_samples.mov": ("subtitles.mp4", zero_length_samples),
    "edits_none.mp4": ("h264_bframes.mp4", without_edits),
    "edits_several.mp4": ("h264_bframes.mp4", _edited((1.0, 0.5, NORMAL), (2.5, 2.5, NORMAL))),
    "edits_delay.mp4": ("h264_bframes.mp4", _edited((0.5, -1, NORMAL), (4.0, 1.0, NORMAL))),
    "edits_gap.mp4": ("h264_bframes.mp4", _edited((1.0, 0.0, NORMAL), (0.5, -1, NORMAL), (3.0, 2.0, NORMAL))),
    "edits_loop.mp4": ("h264_bframes.mp4", _edited((2.0, 3.0, NORMAL), (2.0, 0.0, NORMAL))),
    "edits_slow.mp4": ("h264_bframes.mp4", _edited((4.0, 0.0, HALF))),
    "bounds.mp4": ("negative_offsets.mp4", with_bounds),
    "large_offsets.mp4": ("h264_bframes.mp4", large_offsets),
    "no_ftyp.mov": ("timecode.mov", without_ftyp),
    "empty_track.mp4": ("h264_bframes.mp4", with_empty_track),
    "cut_short.mp4": ("moov_first.mp4", cut_short),
}
