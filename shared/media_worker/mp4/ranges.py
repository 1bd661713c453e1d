"""Byte ranges: which bytes of a file a new one takes over, and where they end up there."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .places import Chunks
    from .tables import SampleTable


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`length` bytes from `offset` of the source."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The byte behind the last one."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class RangeMap:
    """Ranges of a source in file order, laid one behind the other."""

    ranges: tuple[ByteRange, ...]
    _offsets: array[int]
    _places: array[int]

    @classmethod
    def of(cls, ranges: Iterable[ByteRange]) -> RangeMap:
        """A map of ranges that are in file order and apart from each other."""
        kept = tuple(ranges)
        places = array("Q", accumulate((each.length for each in kept), initial=0))
        return cls(kept, array("Q", (each.offset for each in kept)), places)

    @property
    def total_bytes(self) -> int:
        """Bytes of all ranges together."""
        return self._places[-1]

    def place_of(self, offset: int) -> int:
        """Where the byte at `offset` of the source comes to lie, counted from the first range."""
        number = bisect_right(self._offsets, offset) - 1
        return self._places[number] + offset - self._offsets[number]

    def moved(self, chunks: Chunks, base: int = 0) -> Chunks:
        """The chunks at their new places, `base` bytes further on."""
        if len(self.ranges) == 1:  # the usual case, and the one with most chunks: no search needed
            shift = base - self.ranges[0].offset
            return chunks.moved(offset + shift for offset in chunks.offsets)
        return chunks.moved(self.place_of(offset) + base for offset in chunks.offsets)


def ranges_of(tables: Iterable[SampleTable], max_gap_bytes: int = 0) -> RangeMap:
    """The bytes that these samples occupy, in file order; ranges no further apart than `max_gap_bytes` become one.

    Bytes that two tracks share (8.7.1 allows it) are taken over once.
    """
    pieces: list[tuple[int, int]] = []
    for table in tables:
        pieces.extend(zip(table.chunks.offsets, table.chunks.lengths(table.sizes), strict=True))
    pieces.sort()
    merged: list[ByteRange] = []
    start, end = -1, -1
    for offset, length in pieces:
        if start >= 0 and offset <= end + max_gap_bytes:
            end = max(end, offset + length)
            continue
        if start >= 0:
            merged.append(ByteRange(start, end - start))
        start, end = offset, offset + length
    if start >= 0:
        merged.append(ByteRange(start, end - start))
    return RangeMap.of(merged)
