"""Finding the index of a file with few reads, wherever it lies.

    front:  ftyp moov mdat       one read, and the rest of a moov larger than PEEK_BYTES
    back:   ftyp mdat moov       one more, at the end of mdat

A read on S3 costs some 20 ms and a request; what lies between boxes of interest is never fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .boxes import BoxHeader, read_box_header
from .errors import BrokenFile, Unsupported

type Read = Callable[[int, int], bytes]

PEEK_BYTES = 64 * 1024
# A box between here and moov costs one read. Sound files have a handful.
MAX_TOP_LEVEL_BOXES = 100_000
MAX_JUMPS_WITH_PEEK = 12  # then only headers are read: never more than moov + 1 MB
MAX_JUMPS = 512
MAX_MOOV_BYTES = 1 << 30
# What a file of this family may begin with (also before ftyp was invented).
FIRST_BOXES = frozenset({b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"uuid", b"junk"})


@dataclass(frozen=True, slots=True)
class TopBox:
    """A box at the top level of the file."""

    kind: bytes
    offset: int
    header_bytes: int
    size_bytes: int

    @property
    def payload_offset(self) -> int:
        """Where the payload begins."""
        return self.offset + self.header_bytes

    @property
    def payload_bytes(self) -> int:
        """The bytes behind the header."""
        return self.size_bytes - self.header_bytes

    @property
    def end(self) -> int:
        """Where the next box begins."""
        return self.offset + self.size_bytes


class Window:
    """Reads through the last piece fetched, so that small boxes in a row cost one request."""

    def __init__(self, read: Read, size_bytes: int) -> None:
        self._read, self.size_bytes = read, size_bytes
        self._start, self._data = 0, b""
        self.jumps = 0

    def header_at(self, offset: int, peek_bytes: int = PEEK_BYTES) -> BoxHeader | None:
        """The box header at `offset`, with what follows it fetched ahead; None at the end of the file."""
        if offset < self._start or offset + 16 > self._start + len(self._data):
            if offset + 8 > self.size_bytes:
                return None
            self._fetch(offset, peek_bytes)
        return read_box_header(self._data, offset - self._start)

    def bytes_at(self, offset: int, length: int) -> bytes:
        """Exactly those bytes; only what the window does not hold is fetched."""
        held = self._data[offset - self._start :][:length] if offset >= self._start else b""
        if len(held) < length:
            rest = self._read(offset + len(held), length - len(held))
            if len(rest) != length - len(held):
                raise BrokenFile("the file ends earlier than its size says")
            return held + rest
        return held

    def _fetch(self, offset: int, peek_bytes: int) -> None:
        self.jumps += 1
        self._data = self._read(offset, min(peek_bytes, self.size_bytes - offset))
        self._start = offset


def top_level_boxes(window: Window, offset: int = 0) -> Iterator[TopBox]:
    """The boxes of the file in order; a last one that is cut short is given its claimed size."""
    for _ in range(MAX_TOP_LEVEL_BOXES):
        peek_bytes = PEEK_BYTES if window.jumps < MAX_JUMPS_WITH_PEEK else 16
        if window.jumps > MAX_JUMPS:
            raise Unsupported(f"no index within the first {MAX_JUMPS} pieces of the file")
        if (header := window.header_at(offset, peek_bytes)) is None:
            return
        size_bytes = window.size_bytes - offset if header.size_bytes is None else header.size_bytes
        yield TopBox(header.kind, offset, header.header_bytes, size_bytes)
        offset += size_bytes


@dataclass(frozen=True, slots=True)
class Index:
    """The parts of the file that describe the media."""

    ftyp: bytes | None
    moov: bytes
    moov_box: TopBox


def find_index(window: Window) -> Index:
    """`ftyp` and `moov`, both as payloads."""
    ftyp: bytes | None = None
    for number, box in enumerate(top_level_boxes(window)):
        if number == 0 and box.kind not in FIRST_BOXES:
            raise Unsupported("not an MP4 or QuickTime file")
        if box.kind == b"moov":
            return Index(ftyp, _payload(window, box, MAX_MOOV_BYTES), box)
        if box.kind == b"ftyp" and ftyp is None:
            ftyp = _payload(window, box, 4096)
    raise BrokenFile("no moov box: the file is cut short, or not finished")


def _payload(window: Window, box: TopBox, limit_bytes: int) -> bytes:
    name = box.kind.decode("latin-1")
    if box.end > window.size_bytes:
        raise BrokenFile(f"{name} reaches beyond the end of the file")
    if box.size_bytes > limit_bytes:
        raise Unsupported(f"{name} of {box.size_bytes} bytes")
    return window.bytes_at(box.payload_offset, box.payload_bytes)
