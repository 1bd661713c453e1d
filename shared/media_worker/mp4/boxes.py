"""Boxes: the tree that an MP4 file consists of (ISO/IEC 14496-12, 4.2), and the headers of movie and tracks.

A box is kept byte for byte unless something below it changes. So boxes that this package does not interpret (user
data, colour, HDR, vendor boxes) are written as they were read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from .errors import BrokenFile

if TYPE_CHECKING:
    from collections.abc import Iterator

Buffer: TypeAlias = bytes | memoryview

# The boxes whose children are parsed. `udta` and `meta` stay closed: their content is vendor-specific.
CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"dinf", b"edts", b"moof", b"traf", b"mvex"})
# A box takes 8 bytes in the file and about 150 in memory: without a limit, a `moov` of 60 MB of empty boxes takes 1 GB.
MAX_CHILDREN = 4096
MAX_DEPTH = 10
FULL_BOX_BYTES = 4  # version and flags
_SIZE_AND_KIND = struct.Struct(">I4s")
_LARGE_SIZE = struct.Struct(">Q")
_U32 = struct.Struct(">I")


@dataclass(frozen=True, slots=True)
class BoxHeader:
    """The first 8 or 16 bytes of a box. `size_bytes` is None if the box extends to the end of the file."""

    kind: bytes
    size_bytes: int | None
    header_bytes: int


@dataclass(frozen=True, slots=True)
class Box:
    """A leaf with its payload, or a container with its children."""

    kind: bytes
    payload: Buffer = b""
    children: tuple[Box, ...] | None = None

    def find(self, *path: bytes) -> Box | None:
        """The first box at the end of `path` below this box, or None."""
        box: Box | None = self
        for kind in path:
            box = next((child for child in (box.children or ()) if child.kind == kind), None) if box else None
        return box

    def need(self, *path: bytes) -> Box:
        """Like `find`, for a mandatory box.

        Raises:
            BrokenFile: the box is missing.
        """
        if (box := self.find(*path)) is None:
            raise BrokenFile(f"box {_name(self.kind)} has no {_name(path[-1])} box")
        return box

    def find_all(self, kind: bytes) -> Iterator[Box]:
        """All children of this kind."""
        return (child for child in self.children or () if child.kind == kind)

    def with_children(self, children: tuple[Box, ...]) -> Box:
        """The same container with other children."""
        return replace(self, children=children)

    @property
    def size_bytes(self) -> int:
        """The size of the whole box in a file."""
        body_bytes = len(self.payload) if self.children is None else sum(child.size_bytes for child in self.children)
        return body_bytes + (8 if body_bytes + 8 < 1 << 32 else 16)

    def buffers(self) -> Iterator[Buffer]:
        """The box as a sequence of buffers, so that nested boxes are not copied once per level."""
        yield box_header(self.kind, self.size_bytes)
        if self.children is None:
            yield self.payload
        else:
            for child in self.children:
                yield from child.buffers()

    def to_bytes(self) -> bytes:
        """The box as it is stored in a file."""
        return b"".join(self.buffers())


def _name(kind: bytes) -> str:
    return kind.decode("ascii", "backslashreplace")


def box_header(kind: bytes, size_bytes: int) -> bytes:
    """The header of a box of `size_bytes` in total. It takes 16 bytes if the size exceeds 32 bits, otherwise 8."""
    if size_bytes < 1 << 32:
        return _SIZE_AND_KIND.pack(size_bytes, kind)
    return _SIZE_AND_KIND.pack(1, kind) + _LARGE_SIZE.pack(size_bytes)


def mdat_header(media_bytes: int) -> bytes:
    """The header of an `mdat` box with `media_bytes` of media."""
    short = media_bytes + 8 < 1 << 32
    return box_header(b"mdat", media_bytes + (8 if short else 16))


def read_box_header(data: Buffer, offset: int = 0) -> BoxHeader | None:
    """The box header at `offset`, or None if `data` ends before it does.

    Raises:
        BrokenFile: the box is smaller than its header.
    """
    if offset + 8 > len(data):
        return None
    size_bytes, kind = _SIZE_AND_KIND.unpack_from(data, offset)
    if size_bytes == 0:
        return BoxHeader(kind, None, 8)
    if size_bytes != 1:
        return _checked(BoxHeader(kind, size_bytes, 8))
    if offset + 16 > len(data):
        return None
    return _checked(BoxHeader(kind, _LARGE_SIZE.unpack_from(data, offset + 8)[0], 16))


def _checked(header: BoxHeader) -> BoxHeader:
    if header.size_bytes is not None and header.size_bytes < header.header_bytes:
        raise BrokenFile(f"box {_name(header.kind)} has a size of {header.size_bytes} bytes, less than its header")
    return header


def parse_boxes(data: memoryview, parent: bytes, depth: int = 0) -> tuple[Box, ...]:
    """All boxes in `data`, the payload of a box of kind `parent`. The children of `CONTAINERS` are parsed too.

    Raises:
        BrokenFile: a box is larger than its parent, or there are too many boxes or levels.
    """
    if depth > MAX_DEPTH:
        raise BrokenFile(f"boxes are nested more than {MAX_DEPTH} deep")
    boxes: list[Box] = []
    offset = 0
    # QuickTime ends some lists with a 32-bit zero. Fewer than 8 bytes are not a box.
    while (header := read_box_header(data, offset)) is not None:
        end = len(data) if header.size_bytes is None else offset + header.size_bytes
        if end > len(data):
            raise BrokenFile(f"box {_name(header.kind)} is larger than its parent {_name(parent)}")
        if len(boxes) >= MAX_CHILDREN:
            raise BrokenFile(f"box {_name(parent)} has more than {MAX_CHILDREN} children")
        payload = data[offset + header.header_bytes : end]
        children = parse_boxes(payload, header.kind, depth + 1) if header.kind in CONTAINERS else None
        boxes.append(Box(header.kind, payload if children is None else b"", children))
        offset = end
    return tuple(boxes)


def full_box(version: int, flags: int = 0) -> bytes:
    """Version and flags, the first 4 bytes of a full box (4.2)."""
    return struct.pack(">I", version << 24 | flags)


def version_and_flags(box: Box) -> tuple[int, int]:
    """Version and flags of a full box (4.2)."""
    if len(box.payload) < FULL_BOX_BYTES:
        raise BrokenFile(f"box {_name(box.kind)} is too short")
    word = int.from_bytes(box.payload[:4], "big")
    return word >> 24, word & 0xFFFFFF


def unpack(fields: struct.Struct, box: Box, offset: int = 0) -> tuple[int, ...]:
    """The integers at `offset` of the payload.

    Raises:
        BrokenFile: the payload ends before them.
    """
    if offset + fields.size > len(box.payload):
        raise BrokenFile(f"box {_name(box.kind)} is too short")
    return fields.unpack_from(box.payload, offset)


# The headers `mvhd`, `tkhd` and `mdhd` (8.2.2, 8.3.2, 8.4.2) and the track references `tref` (8.3.3).


def timescale_of(header: Box) -> int:
    """Ticks per second of a movie (`mvhd`) or track (`mdhd`).

    Raises:
        BrokenFile: the timescale is 0.
    """
    version, _ = version_and_flags(header)
    (timescale,) = unpack(_U32, header, 20 if version else 12)
    if not timescale:
        raise BrokenFile(f"box {_name(header.kind)} has a timescale of 0")
    return timescale


def track_id_of(tkhd: Box) -> int:
    """The number of a track. In `tkhd` it follows two times of 4 bytes, or 8 in version 1."""
    version, _ = version_and_flags(tkhd)
    return unpack(_U32, tkhd, 20 if version else 12)[0]


def with_track_id(trak: Box, track_id: int) -> Box:
    """A `trak` box with another number."""

    def renumbered(box: Box) -> Box:
        if box.kind != b"tkhd":
            return box
        at = 20 if version_and_flags(box)[0] else 12
        payload = bytes(box.payload)
        return Box(box.kind, payload[:at] + _U32.pack(track_id) + payload[at + 4 :])

    return trak.with_children(tuple(map(renumbered, trak.children or ())))


def is_enabled(tkhd: Box) -> bool:
    """Whether players should play the track."""
    return bool(version_and_flags(tkhd)[1] & 1)


def references(trak: Box, kind: bytes) -> tuple[int, ...]:
    """The ids of the tracks that this track refers to with a reference of this kind."""
    tref = trak.find(b"tref")
    if tref is None:
        return ()
    lists = (box.payload for box in parse_boxes(memoryview(tref.payload), b"tref") if box.kind == kind)
    return tuple(track_id for each in lists for (track_id,) in _U32.iter_unpack(each[: len(each) // 4 * 4]))


def with_duration(header: Box, duration: int, timescale: int | None = None) -> Box:
    """The header with another duration and, if given, timescale. Version 1 if the duration exceeds 32 bits.

    The three headers have the same layout: creation time, modification time, a number (timescale or track id, in
    `tkhd` with a reserved word behind it), duration, and fields that stay as they are.
    """
    version, flags = version_and_flags(header)
    wide = 8 if version else 4
    middle = 8 if header.kind == b"tkhd" else 4
    if len(header.payload) < 4 + 3 * wide + middle:
        raise BrokenFile(f"box {_name(header.kind)} is too short")
    payload = bytes(header.payload)
    created, modified = (int.from_bytes(payload[at : at + wide], "big") for at in (4, 4 + wide))
    number = payload[4 + 2 * wide : 4 + 2 * wide + middle] if timescale is None else _U32.pack(timescale)
    rest = payload[4 + 3 * wide + middle :]
    new_version = 1 if version or duration >= (1 << 32) - 1 else 0
    times, length = (">QQ", ">Q") if new_version else (">II", ">I")
    head = full_box(new_version, flags) + struct.pack(times, created, modified)
    return Box(header.kind, head + number + struct.pack(length, duration) + rest)
