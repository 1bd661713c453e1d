"""Boxes: the tree an MP4 file is made of (ISO/IEC 14496-12, 4.2).

A box is kept as it was found unless something below it has to change, so whatever this package does not know
about (user data, colour, HDR, vendor boxes) comes out byte for byte.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .errors import BrokenFile

if TYPE_CHECKING:
    from collections.abc import Iterator

type Buffer = bytes | memoryview

# The only boxes that are opened; all others are leaves. `udta` and `meta` stay closed: their insides are vendors'.
CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"dinf", b"edts", b"moof", b"traf", b"mvex"})
# A box costs 8 bytes in the file and some 150 in memory: without a bound a 60 MB `moov` of empty boxes takes 1 GB.
MAX_CHILDREN = 4096
MAX_DEPTH = 10
FULL_BOX_BYTES = 4  # version and flags
_SIZE_AND_KIND = struct.Struct(">I4s")
_LARGE_SIZE = struct.Struct(">Q")


@dataclass(frozen=True, slots=True)
class BoxHeader:
    """The first 8 (or 16) bytes of a box; `size_bytes` is None for "to the end of the file"."""

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
        """The first box at the end of `path`, below this one."""
        box: Box | None = self
        for kind in path:
            box = next((child for child in (box.children or ()) if child.kind == kind), None) if box else None
        return box

    def need(self, *path: bytes) -> Box:
        """Like `find`, for a box that the format demands."""
        if (box := self.find(*path)) is None:
            raise BrokenFile(f"no {_shown(path[-1])} box in {_shown(self.kind)}")
        return box

    def find_all(self, kind: bytes) -> Iterator[Box]:
        """All children of a kind."""
        return (child for child in self.children or () if child.kind == kind)

    def with_children(self, children: tuple[Box, ...]) -> Box:
        """The same container with other children."""
        return replace(self, children=children)

    @property
    def size_bytes(self) -> int:
        """How long the box is once written."""
        body_bytes = len(self.payload) if self.children is None else sum(child.size_bytes for child in self.children)
        return body_bytes + (8 if body_bytes + 8 < 1 << 32 else 16)

    def pieces(self) -> Iterator[Buffer]:
        """The box as bytes, piece by piece, so that nothing is copied twice on the way up."""
        yield box_header(self.kind, self.size_bytes)
        if self.children is None:
            yield self.payload
        else:
            for child in self.children:
                yield from child.pieces()

    def to_bytes(self) -> bytes:
        """The box as it stands in a file."""
        return b"".join(self.pieces())


def _shown(kind: bytes) -> str:
    return kind.decode("ascii", "backslashreplace")


def box_header(kind: bytes, size_bytes: int) -> bytes:
    """A header for a box of that many bytes altogether; 16 bytes long (and counted so) when 32 bits do not hold it."""
    if size_bytes < 1 << 32:
        return _SIZE_AND_KIND.pack(size_bytes, kind)
    return _SIZE_AND_KIND.pack(1, kind) + _LARGE_SIZE.pack(size_bytes)


def mdat_header(media_bytes: int) -> bytes:
    """The header of an `mdat` with that much media behind it."""
    short = media_bytes + 8 < 1 << 32
    return box_header(b"mdat", media_bytes + (8 if short else 16))


def read_box_header(data: Buffer, offset: int = 0) -> BoxHeader | None:
    """The box header at `offset`, or None when it is not all there."""
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
        raise BrokenFile(f"box {_shown(header.kind)} claims {header.size_bytes} bytes, less than its own header")
    return header


def parse_boxes(data: memoryview, inside: bytes, depth: int = 0) -> tuple[Box, ...]:
    """All boxes in `data`, the payload of a box of kind `inside`, opened as far down as `CONTAINERS` go."""
    if depth > MAX_DEPTH:
        raise BrokenFile(f"boxes nested more than {MAX_DEPTH} deep")
    boxes: list[Box] = []
    offset = 0
    # Fewer than 8 bytes at the end are no box: QuickTime closes some lists with a zero word.
    while (header := read_box_header(data, offset)) is not None:
        end = len(data) if header.size_bytes is None else offset + header.size_bytes
        if end > len(data):
            raise BrokenFile(f"box {_shown(header.kind)} is larger than {_shown(inside)} around it")
        if len(boxes) >= MAX_CHILDREN:
            raise BrokenFile(f"more than {MAX_CHILDREN} boxes in {_shown(inside)}")
        payload = data[offset + header.header_bytes : end]
        opened = parse_boxes(payload, header.kind, depth + 1) if header.kind in CONTAINERS else None
        boxes.append(Box(header.kind, payload if opened is None else b"", opened))
        offset = end
    return tuple(boxes)


def full_box(version: int, flags: int = 0) -> bytes:
    """Version and flags, which open every "full box" (4.2)."""
    return struct.pack(">I", version << 24 | flags)


def version_and_flags(box: Box) -> tuple[int, int]:
    """What opens every full box (4.2)."""
    if len(box.payload) < FULL_BOX_BYTES:
        raise BrokenFile(f"box {_shown(box.kind)} is too short")
    word = int.from_bytes(box.payload[:4], "big")
    return word >> 24, word & 0xFFFFFF


def unpack(fields: struct.Struct, box: Box, offset: int = 0) -> tuple[int, ...]:
    """Integers at `offset` of the payload; a payload that ends too soon is a broken file, not a crash."""
    if offset + fields.size > len(box.payload):
        raise BrokenFile(f"box {_shown(box.kind)} is too short")
    return fields.unpack_from(box.payload, offset)
