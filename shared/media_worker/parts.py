"""An object made of pieces of others: which multipart parts it takes. Pure arithmetic on byte ranges.

S3 copies a part from a range of another object (UploadPartCopy), if it is 5 MiB or more; the last part may be smaller
(https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html). So what is small, and as much of a large
range as a small part lacks, is fetched and sent; all else is copied, and never passes through this process.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from media_worker.mp4.errors import Unsupported

_MIB = 1024 * 1024
SMALLEST_PART_BYTES = 5 * _MIB
MAX_PARTS = 10_000
# Copies of this size run in parallel and beat single ones of S3's 5 GiB.
COPY_BYTES = 512 * _MIB
# A fetched part is in memory while it is sent.
_FETCH_BYTES = 8 * _MIB


@dataclass(frozen=True, slots=True)
class Literal:
    """Bytes that we have."""

    content: bytes

    @property
    def length(self) -> int:
        """How many."""
        return len(self.content)


@dataclass(frozen=True, slots=True)
class Range:
    """`length` bytes from `offset` of the source with this number."""

    source: int
    offset: int
    length: int

    def split(self, at: int) -> "tuple[Range, Range]":
        """The first `at` bytes, and the rest."""
        return (
            Range(self.source, self.offset, at),
            Range(self.source, self.offset + at, self.length - at),
        )


type Piece = Literal | Range


@dataclass(frozen=True, slots=True)
class Fetched:
    """A part that is put together here and sent."""

    pieces: tuple[Piece, ...]

    @property
    def length(self) -> int:
        """Its size in bytes."""
        return sum(piece.length for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Copied:
    """A part that S3 copies."""

    range: Range

    @property
    def length(self) -> int:
        """Its size in bytes."""
        return self.range.length


type Part = Fetched | Copied


@dataclass(slots=True)
class _Fetch:
    """The small pieces that wait to become a part."""

    pieces: list[Piece] = field(default_factory=list)
    length: int = 0

    def add(self, piece: Piece) -> None:
        if piece.length:
            self.pieces.append(piece)
            self.length += piece.length

    def take(self) -> Iterator[Fetched]:
        """Everything that waits, as a part, if anything does."""
        if self.pieces:
            yield Fetched(tuple(self.pieces))
        self.pieces, self.length = [], 0


def plan_parts(pieces: Iterable[Piece], copy_bytes: int = COPY_BYTES) -> list[Part]:
    """The parts of an object, in order: together exactly the pieces, each but the last 5 MiB or more.

    Raises:
        Unsupported: it would take more parts than S3 does.
    """
    parts: list[Part] = []
    fetch = _Fetch()
    for piece in pieces:
        rest = piece
        if isinstance(rest, Range):
            if 0 < fetch.length < SMALLEST_PART_BYTES:
                head, rest = rest.split(min(SMALLEST_PART_BYTES - fetch.length, rest.length))
                fetch.add(head)
            if rest.length >= SMALLEST_PART_BYTES:
                parts += fetch.take()
                parts += _copies(rest, copy_bytes)
                continue
        fetch.add(rest)
        if fetch.length >= _FETCH_BYTES:
            parts += fetch.take()
    parts += fetch.take()
    if len(parts) > MAX_PARTS:
        raise Unsupported(f"it would take {len(parts)} parts, and S3 takes {MAX_PARTS}: longer segments are fewer")
    return parts


def _copies(rest: Range, copy_bytes: int) -> Iterator[Copied]:
    """A range in equal copies: none is small because another one is full."""
    count = -(-rest.length // copy_bytes)
    for number in range(count):
        begin, end = rest.length * number // count, rest.length * (number + 1) // count
        yield Copied(Range(rest.source, rest.offset + begin, end - begin))
