"""Writing a file: its header (`ftyp`, `moov` and the start of `mdat`), and the byte ranges that follow it.

`moov` comes before `mdat` (fast start), so that a player can start before it has the whole file.
"""

from __future__ import annotations

import itertools
from array import array
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import accumulate, compress, count, islice, repeat
from operator import add, gt
from typing import TYPE_CHECKING

from media_worker.byte_ranges import ByteRange

from .boxes import Box, mdat_header, with_duration
from .edit_list import build_elst
from .stbl import build_chunk_offsets, build_sample_table, build_stsd
from .summary import MovieSummary, summary_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .movie import Movie, Track
    from .samples import Chunks, SampleTable

# Bytes between samples (moof boxes, padding, dropped packets) that are copied with them: each further byte range is a
# further request, and S3 copies only ranges of 5 MiB or more by itself.
MAX_GAP_BYTES = 1 << 16
MAX_U32 = (1 << 32) - 1
_QUICKTIME_FTYP = b"qt  \0\0\0\0qt  "


@dataclass(frozen=True, slots=True)
class Layout:
    """A file to be written: `header`, followed by byte ranges of the sources in this order."""

    header: bytes
    ranges: tuple[ByteRange, ...]
    summary: MovieSummary  # what a reader must find in the file
    is_restored: bool = False  # whether a join reproduces the samples and times of the source exactly

    @property
    def media_bytes(self) -> int:
        """Bytes behind the header."""
        return sum(each.length for each in self.ranges)

    @property
    def size_bytes(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + self.media_bytes


def layout_of(movie: Movie, ranges: Sequence[ByteRange], *, is_restored: bool = False) -> Layout:
    """The layout of a movie. Its chunk offsets count from the first byte of `ranges`."""
    media_bytes = sum(each.length for each in ranges)
    header = build_header(movie, media_bytes)
    return Layout(header, tuple(ranges), summary_of(movie, len(header) + media_bytes), is_restored)


# Byte ranges


@dataclass(frozen=True, slots=True)
class MediaRanges:
    """The byte ranges of one source that a file needs, in source order, and their offsets in the new file's media."""

    ranges: tuple[ByteRange, ...]
    _old_offsets: array[int]
    _new_offsets: array[int]

    @classmethod
    def of(cls, ranges: Sequence[ByteRange]) -> MediaRanges:
        """Ranges that are sorted and do not overlap."""
        new_offsets = array("Q", accumulate((each.length for each in ranges), initial=0))
        return cls(tuple(ranges), array("Q", (each.offset for each in ranges)), new_offsets)

    def bridged(self, max_gap_bytes: int, max_bytes: int) -> MediaRanges:
        """The same, with gaps of up to `max_gap_bytes` included if they are `max_bytes` or less in total."""
        extents = [(each.offset, each.length) for each in self.ranges]
        if len(extents) < 2:  # noqa: PLR2004  there is no gap
            return self
        bridged = MediaRanges.of(_merged(extents, max_gap_bytes, self.ranges[0].source))
        return bridged if bridged.total_bytes - self.total_bytes <= max_bytes else self

    def with_key(self, key: ByteRange, before: int) -> MediaRanges:
        """With a further range of the source, immediately before the byte at offset `before`."""
        number = bisect_right(self._old_offsets, before) - 1
        low, high = self.ranges[number].split(before - self.ranges[number].offset)
        ranges = [*self.ranges[:number], *([low] if low.length else ()), key, high, *self.ranges[number + 1 :]]
        offsets = array("Q", (before if each is key else each.offset for each in ranges))
        return replace(MediaRanges.of(ranges), _old_offsets=offsets)

    @property
    def total_bytes(self) -> int:
        """The size of all ranges."""
        return self._new_offsets[-1]

    def new_offset_of(self, offset: int) -> int:
        """Where the byte at `offset` of the source is, counted from the first byte of the first range."""
        number = bisect_right(self._old_offsets, offset) - 1
        return self._new_offsets[number] + offset - self._old_offsets[number]

    def moved(self, chunks: Chunks, base: int = 0) -> Chunks:
        """The chunks at their new offsets, plus `base`."""
        if len(self.ranges) == 1:  # the usual case, and the one with most chunks: needs no search
            shift = base - self.ranges[0].offset
            return chunks.at(map(add, chunks.offsets, repeat(shift)))
        return chunks.at(self.new_offset_of(offset) + base for offset in chunks.offsets)


def media_ranges(tables: Iterable[SampleTable], max_gap_bytes: int, source: int = 0) -> MediaRanges:
    """The byte ranges that these samples occupy. Ranges at most `max_gap_bytes` apart are merged.

    Bytes that several tracks share (8.7.1 allows it) are taken once.
    """
    filled = [table for table in tables if table.chunks.offsets]
    if not filled:
        return MediaRanges.of(())
    start = min(min(table.chunks.offsets) for table in filled)
    end = max(table.chunks.max_end(table.sizes) for table in filled)
    media_bytes = sum(table.sizes.between(0, table.count) for table in filled)
    if 0 <= end - start - media_bytes <= max_gap_bytes:  # the usual case, and the one with most chunks: one range
        return MediaRanges.of([ByteRange(source, start, end - start)])
    extents: list[tuple[int, int]] = []
    for table in filled:
        extents.extend(zip(table.chunks.offsets, table.chunks.lengths(table.sizes), strict=True))
    return MediaRanges.of(_merged(sorted(extents), max_gap_bytes, source))


def _merged(extents: Sequence[tuple[int, int]], max_gap_bytes: int, source: int) -> list[ByteRange]:
    """Ranges from sorted pairs of offset and length."""
    starts = [offset for offset, _ in extents]
    ends = list(accumulate(itertools.starmap(add, extents), max))  # of everything up to here
    first_of_range = compress(count(1), map(gt, islice(starts, 1, None), map(add, ends, repeat(max_gap_bytes))))
    bounds = [0, *first_of_range, len(extents)]
    return [ByteRange(source, starts[low], ends[high - 1] - starts[low]) for low, high in itertools.pairwise(bounds)]


# Header


def build_header(movie: Movie, media_bytes: int) -> bytes:
    """Everything before the media. The chunk offsets in it depend on its own size, so it is measured first."""
    ftyp = Box(b"ftyp", movie.ftyp if movie.ftyp is not None else _QUICKTIME_FTYP).to_bytes()
    mdat = mdat_header(media_bytes)
    tables = [build_sample_table(track.table) for track in movie.tracks]
    media_offset = len(ftyp) + len(mdat) + _build_moov(movie, tables, 0, wide=False).size_bytes
    is_wide = media_offset + media_bytes > MAX_U32
    if is_wide:
        media_offset = len(ftyp) + len(mdat) + _build_moov(movie, tables, 0, wide=True).size_bytes
    moov = _build_moov(movie, tables, media_offset, wide=is_wide)
    return b"".join((ftyp, *moov.buffers(), mdat))


def build_moov(movie: Movie, media_offset: int, *, wide: bool) -> Box:
    """The index of a file whose media starts at `media_offset`, with 64-bit chunk offsets if `wide`."""
    return _build_moov(movie, [build_sample_table(track.table) for track in movie.tracks], media_offset, wide=wide)


def _build_moov(movie: Movie, tables: Sequence[list[Box]], media_offset: int, *, wide: bool) -> Box:
    durations = [_presented_duration(track, movie.timescale) for track in movie.tracks]
    traks = [
        _build_trak(track, boxes, duration, build_chunk_offsets(track.table.chunks, media_offset, wide=wide))
        for track, boxes, duration in zip(movie.tracks, tables, durations, strict=True)
    ]
    mvhd = with_duration(movie.box.need(b"mvhd"), max(durations, default=0), movie.timescale)
    others = [child for child in movie.box.children or () if child.kind not in (b"mvhd", b"trak")]
    # Some players expect boxes such as iods before the tracks, so boxes stay on their side of the tracks.
    kinds = [child.kind for child in movie.box.children or ()]
    early = sum(kind not in (b"mvhd", b"trak") for kind in kinds[: kinds.index(b"trak") if b"trak" in kinds else 0])
    return Box(b"moov", children=(mvhd, *others[:early], *traks, *others[early:]))


def _presented_duration(track: Track, movie_timescale: int) -> int:
    if track.edits:
        return sum(edit.duration for edit in track.edits)
    return -(-track.table.media_duration * movie_timescale // track.timescale)


def _build_trak(track: Track, tables: list[Box], duration: int, chunk_offsets: Box) -> Box:
    children: list[Box] = []
    for child in track.box.children or ():
        if child.kind == b"tkhd":
            children.append(with_duration(child, duration))
            if track.edits:
                children.append(Box(b"edts", children=(build_elst(track.edits),)))
        else:
            children.append(_build_mdia(child, track, tables, chunk_offsets) if child.kind == b"mdia" else child)
    return Box(b"trak", children=tuple(children))


def _build_mdia(mdia: Box, track: Track, tables: list[Box], chunk_offsets: Box) -> Box:
    def rebuilt(box: Box) -> Box:
        if box.kind == b"mdhd":
            return with_duration(box, track.table.media_duration, track.timescale)
        if box.kind == b"stbl":
            return _build_stbl(box, track, tables, chunk_offsets)
        return box.with_children(tuple(map(rebuilt, box.children))) if box.kind == b"minf" and box.children else box

    return mdia.with_children(tuple(map(rebuilt, mdia.children or ())))


def _build_stbl(stbl: Box, track: Track, tables: list[Box], chunk_offsets: Box) -> Box:
    others = [child for child in stbl.children or () if child.kind != b"stsd"]
    return Box(b"stbl", children=(build_stsd(stbl.need(b"stsd"), track.descriptions), *others, *tables, chunk_offsets))
