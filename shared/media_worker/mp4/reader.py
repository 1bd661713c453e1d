"""Reading the index of a file with few reads, wherever in the file it is.

    moov in front:  ftyp moov mdat       one read, plus the rest of a moov larger than PEEK_BYTES
    moov at end:    ftyp mdat moov       one more read, behind mdat, plus the rest of a moov larger than MAX_TAIL_BYTES
    fragmented:     ftyp moov moof mdat moof mdat ...    see `fragment_reader`

A read from S3 takes about 20 ms and is a billed request. Media between the boxes is not fetched.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from .boxes import FULL_BOX_BYTES, MAX_CHILDREN, Box, BoxHeader, parse_boxes, read_box_header, timescale_of, track_id_of
from .edit_list import parse_elst
from .encryption import refuse_encrypted_track
from .errors import BrokenFile, Mp4Error, Unsupported, overflow_is_unsupported
from .fragment_reader import CutOff, Moof, ReadMany, read_moofs
from .fragments import has_fragments, with_fragments
from .movie import Movie, Track
from .stbl import TABLES, parse_sample_table, parse_stsd, with_pcm_sizes

# read(offset, length): that many bytes of the file.
Read: TypeAlias = Callable[[int, int], bytes]

PEEK_BYTES = 64 * 1024
# The second read is mostly behind the media, where the index is: it fetches the rest of the file up to this size.
MAX_TAIL_BYTES = 1 << 20
# Each box between the start of the file and moov costs one read. Valid files have a handful.
MAX_TOP_LEVEL_BOXES = 100_000
MAX_READS = 512
# After this many reads only box headers are read, so that the total stays below moov + 1 MB.
MAX_READS_WITH_PEEK = 12
MAX_MOOV_BYTES = 1 << 30
MAX_WHOLE_MOOV_BYTES = 8 << 20
# Compressed indexes are from the time before 2005 and small. The limit is for hostile ones.
MAX_DECOMPRESSED_MOOV_BYTES = 64 << 20
MAX_TRACKS = 256
MAX_EDITS = 4096
# The boxes that an MP4 or QuickTime file may begin with. QuickTime files older than ftyp have none.
FIRST_BOXES = frozenset({b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid", b"junk"})
_SELF_CONTAINED = 1


@overflow_is_unsupported()
def read_movie(read: Read, size_bytes: int, read_many: ReadMany | None = None) -> Movie:
    """The index of a file of `size_bytes`. `read(offset, length)` is called for the parts that are needed.

    `read_many(requests)` reads several parts at the same time, to read the fragments of a fragmented file sooner. The
    default calls `read` for one after the other.

    Raises:
        Encrypted: the samples are encrypted.
        Unsupported: the file may be valid, but its index cannot be rewritten.
        BrokenFile: the file contradicts itself.
    """
    file = BufferedFile(read, size_bytes)
    index = find_index(file)
    fingerprint = hashlib.blake2b(digest_size=16)
    moov, tracks = _parse_moov(_moov_blocks(file, index.moov), fingerprint)
    timescale = timescale_of(moov.need(b"mvhd"))
    notices: tuple[str, ...] = ()
    if has_fragments(moov):
        moofs = read_moofs(read_many or one_by_one(read), size_bytes, index.moov.end, file.buffered(index.moov.end))
        whole = with_fragments(moov, tracks, timescale, _digested(moofs, fingerprint), size_bytes)
        tracks, timescale, notices = whole.tracks, whole.timescale, whole.notices
    box = moov.with_children(tuple(child for child in moov.children or () if child.kind != b"mvex"))
    movie = Movie(index.ftyp, box, timescale, tracks, fingerprint.digest(), notices)
    _check_supported(movie, size_bytes)
    return movie


def one_by_one(read: Read) -> ReadMany:
    """Reads several parts one after the other."""
    return lambda requests: [read(offset, length) for offset, length in requests]


def _digested(moofs: Iterable[Moof | CutOff], digest: hashlib.blake2b) -> Iterator[Moof | CutOff]:
    for moof in moofs:
        if isinstance(moof, Moof):
            digest.update(moof.payload)
        yield moof


# Finding the index


class BufferedFile:
    """Reads a file through a buffer of the last read, so that adjacent small boxes cost one read."""

    def __init__(self, read: Read, size_bytes: int) -> None:
        self._read, self.size_bytes = read, size_bytes
        self._start, self._data = 0, b""
        self.reads = 0

    def header_at(self, offset: int, peek_bytes: int = PEEK_BYTES) -> BoxHeader | None:
        """The box header at `offset`, or None at the end of the file. A read fetches `peek_bytes`."""
        if offset < self._start or offset + 16 > self._start + len(self._data):
            if offset + 8 > self.size_bytes:
                return None
            self._fetch(offset, peek_bytes)
        return read_box_header(self._data, offset - self._start)

    def bytes_at(self, offset: int, length: int) -> bytes:
        """Exactly these bytes. Only those that are not in the buffer are read."""
        # The buffered start of a large part is read again: putting both together would take the memory twice.
        buffered = self.buffered(offset)[:length] if length <= MAX_WHOLE_MOOV_BYTES else b""
        if len(buffered) == length:
            return buffered
        rest = self._read(offset + len(buffered), length - len(buffered))
        if len(rest) != length - len(buffered):
            raise BrokenFile("the file is shorter than its size says")
        return buffered + rest

    def buffered(self, offset: int) -> bytes:
        """The bytes at `offset` that were read already."""
        return self._data[offset - self._start :] if offset >= self._start else b""

    def _fetch(self, offset: int, length: int) -> None:
        self.reads += 1
        rest = self.size_bytes - offset
        is_tail = self.reads == 2 and rest <= MAX_TAIL_BYTES  # noqa: PLR2004
        self._data = self._read(offset, rest if is_tail else min(length, rest))
        self._start = offset


@dataclass(frozen=True, slots=True)
class TopLevelBox:
    """A box of the file: where it is, and how large."""

    kind: bytes
    offset: int
    header_bytes: int
    size_bytes: int

    @property
    def end(self) -> int:
        """The offset of the next box."""
        return self.offset + self.size_bytes

    def payload(self, file: BufferedFile) -> bytes:
        """The bytes behind the header."""
        return file.bytes_at(self.offset + self.header_bytes, self.size_bytes - self.header_bytes)


@dataclass(frozen=True, slots=True)
class Index:
    """The payload of `ftyp`, and where `moov` is."""

    ftyp: bytes | None
    moov: TopLevelBox


def find_index(file: BufferedFile) -> Index:
    """Read `ftyp`, and find `moov`.

    Raises:
        Unsupported: this is not an MP4 or QuickTime file, or its index is too far away or too large.
        BrokenFile: there is no complete index.
    """
    ftyp: bytes | None = None
    for number, box in enumerate(_top_level_boxes(file)):
        if number == 0 and box.kind not in FIRST_BOXES:
            raise Unsupported("not an MP4 or QuickTime file")
        if box.kind == b"moov":
            _check_size(file, box, MAX_MOOV_BYTES)
            return Index(ftyp, box)
        if box.kind == b"ftyp" and ftyp is None:
            _check_size(file, box, 4096)
            ftyp = box.payload(file)
    raise BrokenFile("no moov box: the file is cut short, or its recording was not finished")


def _top_level_boxes(file: BufferedFile) -> Iterator[TopLevelBox]:
    """The boxes of the file in order. The size of a truncated last box is the one that it declares."""
    offset = 0
    for _ in range(MAX_TOP_LEVEL_BOXES):
        peek_bytes = PEEK_BYTES if file.reads < MAX_READS_WITH_PEEK else 16
        if file.reads > MAX_READS:
            raise Unsupported(f"no moov box found after {MAX_READS} reads")
        if (header := file.header_at(offset, peek_bytes)) is None:
            return
        size_bytes = file.size_bytes - offset if header.size_bytes is None else header.size_bytes
        yield TopLevelBox(header.kind, offset, header.header_bytes, size_bytes)
        offset += size_bytes


def _check_size(file: BufferedFile, box: TopLevelBox, limit_bytes: int) -> None:
    name = box.kind.decode("latin-1")
    if box.end > file.size_bytes:
        raise BrokenFile(f"box {name} extends beyond the end of the file: the file is cut short")
    if box.size_bytes > limit_bytes:
        raise Unsupported(f"box {name} has {box.size_bytes} bytes, more than the limit of {limit_bytes}")


def _moov_blocks(file: BufferedFile, moov: TopLevelBox) -> Iterator[bytes]:
    """The payload of `moov`: all of it, or if it is large, box by box, so that one track is in memory at a time."""
    if moov.size_bytes <= MAX_WHOLE_MOOV_BYTES:
        yield _decompressed(moov.payload(file))
        return
    offset = moov.offset + moov.header_bytes
    while offset < moov.end:
        header = file.header_at(offset) if moov.end - offset >= FULL_BOX_BYTES * 2 else None
        size_bytes = header.size_bytes if header is not None else None
        end = moov.end if size_bytes is None else offset + size_bytes
        if end > moov.end:
            raise BrokenFile("a box in moov is larger than moov")
        yield file.bytes_at(offset, end - offset)
        offset = end


def _decompressed(moov: bytes) -> bytes:
    """The payload of a `moov` box, decompressed if it is compressed, as old QuickTime exporters write it.

    `moov { cmov { dcom, cmvd } }`: the data of `cmvd` is a whole `moov` box, deflated; its size comes first (QuickTime
    File Format Specification, 2001).

    Raises:
        Unsupported: it is compressed in another way, or is too large.
        BrokenFile: it cannot be decompressed.
    """
    if moov[4:8] != b"cmov":
        return moov
    boxes = {box.kind: bytes(box.payload) for box in parse_boxes(memoryview(moov)[8:], b"cmov")}
    method, packed = boxes.get(b"dcom", b"")[:4], boxes.get(b"cmvd", b"")
    if method != b"zlib":
        raise Unsupported(f"the index is compressed with {method!r}")
    size_bytes = int.from_bytes(packed[:4], "big")
    if size_bytes > MAX_DECOMPRESSED_MOOV_BYTES:
        raise Unsupported(f"the compressed index has {size_bytes} bytes, more than the limit")
    try:
        content = zlib.decompressobj().decompress(packed[4:], max(1, size_bytes))
    except zlib.error as error:
        raise BrokenFile("the compressed index cannot be decompressed") from error
    header = read_box_header(content, 0)
    if header is None or (header.kind, header.size_bytes) != (b"moov", size_bytes) or len(content) != size_bytes:
        raise BrokenFile("the compressed index is not a complete moov box")
    return content[header.header_bytes :]


# Parsing the index


def _parse_moov(blocks: Iterable[bytes], digest: hashlib.blake2b) -> tuple[Box, tuple[Track, ...]]:
    """The `moov` box without tables, and its tracks.

    An error in a track is raised after all tracks were checked for encryption, because ffmpeg gets what is unsupported
    or broken.
    """
    children: list[Box] = []
    tracks: list[Track] = []
    error: Mp4Error | None = None
    for block in blocks:
        digest.update(block)
        for box in parse_boxes(memoryview(block), b"moov"):
            children.append(_without_tables(box))
            if box.kind != b"trak":
                continue
            _refuse_encrypted(box)
            try:
                tracks.append(_parse_track(box))
            except (BrokenFile, Unsupported) as found:
                error = error or found
            if len(tracks) > MAX_TRACKS or len(children) > MAX_CHILDREN:
                raise BrokenFile(f"more than {MAX_TRACKS} tracks or {MAX_CHILDREN} boxes in moov")
    moov = Box(b"moov", children=tuple(children))
    if error is not None:
        raise error
    if len({track.track_id for track in tracks}) < len(tracks):
        raise BrokenFile("two tracks have the same id")
    return moov, tuple(tracks)


def _refuse_encrypted(trak: Box) -> None:
    stsd = trak.find(b"mdia", b"minf", b"stbl", b"stsd")
    tkhd = trak.find(b"tkhd")
    name = f"track {track_id_of(tkhd)}" if tkhd is not None else "a track"
    refuse_encrypted_track(trak, name, [entry.kind for entry in parse_stsd(stsd)] if stsd is not None else [])


def _parse_track(trak: Box) -> Track:
    stbl = trak.need(b"mdia", b"minf", b"stbl")
    edits = parse_elst(trak.find(b"edts", b"elst"))
    if len(edits) > MAX_EDITS:
        raise Unsupported(f"an edit list of {len(edits)} entries, more than the limit of {MAX_EDITS}")
    handler = trak.need(b"mdia", b"hdlr").payload[8:12]
    descriptions = parse_stsd(stbl.need(b"stsd"))
    table = parse_sample_table(stbl)
    if handler == b"soun" and descriptions:
        table = with_pcm_sizes(table, descriptions[0])
    timescale = timescale_of(trak.need(b"mdia", b"mdhd"))
    return Track(_without_tables(trak), timescale, descriptions, edits, table)


def _without_tables(box: Box) -> Box:
    """The box without sample tables and edit list. Copied, because a slice keeps the whole index in memory."""
    if box.children is None:
        return Box(box.kind, bytes(box.payload))
    dropped = TABLES if box.kind == b"stbl" else {b"edts"}
    return box.with_children(tuple(_without_tables(child) for child in box.children if child.kind not in dropped))


# Rejecting files whose index cannot be rewritten


def _check_supported(movie: Movie, size_bytes: int) -> None:
    if not any(track.table.count for track in movie.tracks):
        raise Unsupported("the file has no samples")
    for holder in (movie.box, *movie.box.find_all(b"trak")):
        _check_no_file_offsets(holder)
    for track in movie.tracks:
        _check_descriptions(track)
        _check_no_empty_frames(track)
        _check_inside_file(track, size_bytes)


def _check_no_file_offsets(holder: Box) -> None:
    """Items of a `meta` box may be anywhere in the file (8.11.3). Their offsets would become wrong."""
    meta = holder.find(b"meta")
    if meta is not None and b"iloc" in bytes(meta.payload):
        raise Unsupported("metadata items are stored outside the index (iloc)")


def _check_descriptions(track: Track) -> None:
    used = set(track.table.chunks.descriptions.values)
    if used and not 1 <= min(used) <= max(used) <= len(track.descriptions):
        raise BrokenFile(f"{track.name} uses a sample description that does not exist")
    is_in_this_file = _data_references(track.box.find(b"mdia", b"minf", b"dinf", b"dref"))
    for number in used:
        reference = int.from_bytes(track.descriptions[number - 1].payload[6:8], "big")
        # Numbers without an entry are ignored: Android writes metadata sample entries without this field (8.5.2.2).
        if 1 <= reference <= len(is_in_this_file) and not is_in_this_file[reference - 1]:
            raise Unsupported(f"the media of {track.name} is in another file")


def _data_references(dref: Box | None) -> list[bool]:
    """For each data reference, whether it is this file (8.7.2)."""
    if dref is None:
        return []
    entries = parse_boxes(memoryview(dref.payload)[8:], b"dref")
    return [len(entry.payload) >= FULL_BOX_BYTES and bool(entry.payload[3] & _SELF_CONTAINED) for entry in entries]


def _check_no_empty_frames(track: Track) -> None:
    """QuickTime writers repeat a frame with an empty sample. Decoders present nothing for it, and ffmpeg drops it."""
    sizes = track.table.sizes
    if track.is_video and sizes.table and not min(sizes.table):
        raise Unsupported(f"{track.name} has a frame of 0 bytes")


def _check_inside_file(track: Track, size_bytes: int) -> None:
    if track.table.chunks.max_end(track.table.sizes) > size_bytes:
        raise Unsupported(f"{track.name} has samples beyond the end of the file: the file is cut short")
