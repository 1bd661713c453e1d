"""Byte ranges: the one way in which media is named before it is moved, and how ranges become multipart parts. Pure.

S3 copies a part from a range of another object (UploadPartCopy) if the range has 5 MiB or more; only the last part
of an upload may be smaller (https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html). So small ranges, and
the head of a large range that a small part before it needs to reach 5 MiB, pass through this process; S3 copies
everything else.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

_MIB = 1024 * 1024
MIN_PART_BYTES = 5 * _MIB
MAX_PARTS = 10_000
# Many small part copies in parallel beat few large ones: in a public measurement, a copy of 9.15 GB took 18.0 s with
# parts of 50 MB and 26.1 s with parts of 500 MB. docs/performance.md has ours.
COPY_PART_BYTES = 64 * _MIB
# An uploaded part is in memory while it is sent.
UPLOAD_PART_BYTES = 8 * _MIB
# Two ranges this close are read by one request: 64 KiB take less time than a request does.
READ_GAP_BYTES = 64 * 1024
# Four uploaded parts are assembled at once, each by eight reads: this limits the memory of the gaps.
READ_BYTES = 2 * _MIB


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`length` bytes from `offset` of source number `source`; the caller has the list of sources."""

    source: int
    offset: int
    length: int

    @property
    def end(self) -> int:
        """The offset of the byte behind the last one."""
        return self.offset + self.length

    def split(self, at: int) -> "tuple[ByteRange, ByteRange]":
        """The first `at` bytes, and the rest."""
        return (
            ByteRange(self.source, self.offset, at),
            ByteRange(self.source, self.offset + at, self.length - at),
        )


# What an object is made of: bytes at hand, and byte ranges of its sources.
Content: TypeAlias = bytes | ByteRange


def length_of(content: Content) -> int:
    """Its size in bytes."""
    return len(content) if isinstance(content, bytes) else content.length


@dataclass(frozen=True, slots=True)
class UploadedPart:
    """A part that this process assembles and sends."""

    contents: tuple[Content, ...]

    @property
    def length(self) -> int:
        """Its size in bytes."""
        return sum(map(length_of, self.contents))


@dataclass(frozen=True, slots=True)
class CopiedPart:
    """A part that S3 copies from a range of a source object."""

    range: ByteRange

    @property
    def length(self) -> int:
        """Its size in bytes."""
        return self.range.length


Part: TypeAlias = UploadedPart | CopiedPart


class TooManyParts(ValueError):
    """The object would need more parts than a multipart upload may have."""


def plan_parts(
    contents: Iterable[Content],
    local_sources: frozenset[int] = frozenset(),
    *,
    copy_part_bytes: int = COPY_PART_BYTES,
    upload_part_bytes: int = UPLOAD_PART_BYTES,
) -> list[Part]:
    """The multipart parts of an object, in order: together exactly `contents`, each but the last 5 MiB or more.

    Ranges of `local_sources` are on this machine's disk: they are uploaded, not copied.

    Raises:
        TooManyParts: a multipart upload has at most 10,000.
    """
    contents = list(contents)
    # A very large object has larger parts, so that half of the parts that S3 allows are enough.
    min_part_bytes = -(-total_bytes(contents) * 2 // MAX_PARTS)
    copy_part_bytes, upload_part_bytes = max(copy_part_bytes, min_part_bytes), max(upload_part_bytes, min_part_bytes)
    parts: list[Part] = []
    pending = _Pending(upload_part_bytes)
    for content in contents:
        rest = content
        if isinstance(rest, ByteRange) and rest.source not in local_sources:
            if 0 < pending.length < MIN_PART_BYTES:
                head, rest = rest.split(min(MIN_PART_BYTES - pending.length, rest.length))
                parts += pending.add(head)
            if rest.length >= MIN_PART_BYTES:
                parts += pending.flush()
                parts += _copies(rest, copy_part_bytes)
                continue
        parts += pending.add(rest)
    parts += pending.flush()
    if len(parts) > MAX_PARTS:
        raise TooManyParts(f"it would take {len(parts)} parts, and S3 allows {MAX_PARTS}: use longer segments")
    return parts


@dataclass(slots=True)
class _Pending:
    """Contents collected for the next uploaded part."""

    part_bytes: int
    contents: list[Content] = field(default_factory=list)
    length: int = 0

    def add(self, content: Content) -> Iterator[UploadedPart]:
        """Collect the content. Yields a part each time enough has been collected."""
        while isinstance(content, ByteRange) and self.length + content.length > self.part_bytes:
            head, content = content.split(self.part_bytes - self.length)
            self._append(head)
            yield from self.flush()
        self._append(content)
        if self.length >= self.part_bytes:
            yield from self.flush()

    def flush(self) -> Iterator[UploadedPart]:
        """Everything collected, as a part, if there is anything."""
        if self.contents:
            yield UploadedPart(tuple(self.contents))
        self.contents, self.length = [], 0

    def _append(self, content: Content) -> None:
        if length_of(content):
            self.contents.append(content)
            self.length += length_of(content)


def coalesced(
    ranges: Iterable[ByteRange], max_gap_bytes: int = READ_GAP_BYTES, max_bytes: int = READ_BYTES
) -> list[ByteRange]:
    """The fewest requests that read these ranges: neighbours of one source are read together, and larger ones alone.

    A gap of up to `max_gap_bytes` is read too. No request is longer than `max_bytes`, unless one range is.
    """
    reads: list[ByteRange] = []
    for each in sorted(ranges, key=lambda each: (each.source, each.offset)):
        last = reads[-1] if reads else None
        is_near = last is not None and last.source == each.source and each.offset - last.end <= max_gap_bytes
        if last is not None and is_near and max(last.end, each.end) - last.offset <= max_bytes:
            reads[-1] = ByteRange(last.source, last.offset, max(last.end, each.end) - last.offset)
        else:
            reads.append(each)
    return reads


def _copies(rest: ByteRange, part_bytes: int) -> Iterator[CopiedPart]:
    """A range as copies of equal size, so that none is small because another one is full."""
    count = -(-rest.length // part_bytes)
    for number in range(count):
        begin, end = rest.length * number // count, rest.length * (number + 1) // count
        yield CopiedPart(ByteRange(rest.source, rest.offset + begin, end - begin))


def total_bytes(contents: Sequence[Content]) -> int:
    """The size of an object made of these contents."""
    return sum(map(length_of, contents))
