"""How large the samples of a track are, and where they lie in the file (ISO/IEC 14496-12, 8.7)."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from itertools import accumulate, chain, repeat
from operator import mul, sub
from typing import TYPE_CHECKING

from .runs import Runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Sizes:
    """Bytes of each sample: one number for all (PCM), or a table with its running sums."""

    count: int
    constant: int | None
    table: array[int] | None = None
    sums: array[int] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def same(cls, count: int, size_bytes: int) -> Sizes:
        """One size for all samples."""
        return cls(count, size_bytes)

    @classmethod
    def of(cls, table: array[int]) -> Sizes:
        """A table of sizes, with their running sums."""
        return cls(len(table), None, table, array("Q", accumulate(table, initial=0)))

    def between(self, first: int, end: int) -> int:
        """The bytes of samples `first` to `end` (exclusive) together."""
        if self.sums is None:
            return (end - first) * (self.constant or 0)
        return self.sums[end] - self.sums[first]

    def slice(self, first: int, end: int) -> Sizes:
        """The sizes of samples `first` to `end` (exclusive)."""
        return Sizes.of(self.table[first:end]) if self.table is not None else Sizes(end - first, self.constant)

    def resized(self, count: int) -> Sizes:
        """Only the first `count` samples."""
        return self if count == self.count else self.slice(0, count)

    @classmethod
    def concat(cls, parts: Sequence[Sizes]) -> Sizes:
        """The sizes of all parts in a row; one number as long as it is the same in all of them."""
        parts = [part for part in parts if part.count]
        constants = {part.constant for part in parts}
        if len(constants) == 1 and None not in constants:
            return cls(sum(part.count for part in parts), parts[0].constant)
        table = array("I")
        for part in parts:
            table.extend(part.table if part.table is not None else array("I", [part.constant or 0]) * part.count)
        return cls.of(table)


@dataclass(frozen=True, slots=True)
class Chunks:
    """Where the samples lie: runs of samples that are contiguous in the file."""

    offsets: array[int]
    counts: array[int]  # samples in each chunk, never 0
    descriptions: Runs  # the sample description of each chunk, from 1
    starts: array[int] = field(repr=False, compare=False)  # first sample of each chunk; the last entry is the total

    @classmethod
    def of(cls, offsets: array[int], counts: array[int], descriptions: Runs) -> Chunks:
        """Chunks that hold so many samples each."""
        return cls(offsets, counts, descriptions, array("Q", accumulate(counts, initial=0)))

    @classmethod
    def none(cls) -> Chunks:
        """No chunks."""
        return cls.of(array("Q"), array("I"), Runs.constant(0, 0))

    def slice(self, sizes: Sizes, first: int, end: int) -> Chunks:
        """The chunks with samples `first` to `end` (exclusive), the outer ones trimmed to that."""
        if first >= end:
            return Chunks.none()
        low, high = bisect_right(self.starts, first) - 1, bisect_left(self.starts, end)
        offsets, counts = self.offsets[low:high], self.counts[low:high]
        offsets[0] += sizes.between(self.starts[low], first)
        counts[-1] -= self.starts[high] - end
        counts[0] -= first - self.starts[low]
        return Chunks.of(offsets, counts, self.descriptions.slice(low, high))

    def lengths(self, sizes: Sizes) -> Iterable[int]:
        """The bytes of each chunk."""
        if sizes.sums is None:
            return map(mul, self.counts, repeat(sizes.constant or 0))
        sums = array("Q", map(sizes.sums.__getitem__, self.starts))
        return map(sub, sums[1:], sums)

    def moved(self, offsets: Iterable[int], description_shift: int = 0) -> Chunks:
        """The same chunks at other places."""
        return Chunks(array("Q", offsets), self.counts, self.descriptions.shifted(description_shift), self.starts)

    @classmethod
    def concat(cls, parts: Sequence[Chunks]) -> Chunks:
        """All chunks in a row."""
        offsets = array("Q", chain.from_iterable(part.offsets for part in parts))
        counts = array("I", chain.from_iterable(part.counts for part in parts))
        return cls.of(offsets, counts, Runs.concat(part.descriptions for part in parts))
