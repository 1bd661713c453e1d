"""A list of numbers with many repetitions, as `stts` and `ctts` hold them: (count, value) pairs.

Kept as runs on purpose. Ten hours of PCM are 1.7 billion samples in one run, and a hostile file may claim more;
only what is looked at is ever expanded, and the expansion happens in C.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate, chain, groupby, islice, repeat
from operator import mul
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True, slots=True)
class Runs:
    """`counts[i]` times `values[i]`; no count is 0. Build it with `Runs.of`."""

    counts: array[int]
    values: array[int]
    starts: array[int] = field(repr=False, compare=False)  # where each run begins; the last entry is the length

    @classmethod
    def of(cls, counts: Iterable[int], values: Iterable[int]) -> Runs:
        """Runs of given counts and values; those of no length are left out."""
        count_array, value_array = array("Q", counts), array("q", values)
        if count_array.count(0):
            kept = [(count, value) for count, value in zip(count_array, value_array, strict=True) if count]
            count_array, value_array = array("Q", (c for c, _ in kept)), array("q", (v for _, v in kept))
        return cls(count_array, value_array, array("Q", accumulate(count_array, initial=0)))

    @classmethod
    def constant(cls, count: int, value: int) -> Runs:
        """The same value so many times."""
        return cls.of([count] if count else [], [value] if count else [])

    @classmethod
    def from_values(cls, values: Iterable[int]) -> Runs:
        """The shortest runs that expand to `values`."""
        counts, kept = array("Q"), array("q")
        for value, group in groupby(values):
            counts.append(sum(1 for _ in group))
            kept.append(value)
        return cls.of(counts, kept)

    def __len__(self) -> int:
        return self.starts[-1]

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(map(repeat, self.values, self.counts))

    def __getitem__(self, index: int) -> int:
        return self.values[self.run_at(index)]

    def run_at(self, index: int) -> int:
        """The number of the run that holds item `index`."""
        return bisect_right(self.starts, index) - 1

    def slice(self, first: int, end: int) -> Runs:
        """Items `first` to `end` (exclusive)."""
        if first >= end:
            return Runs.constant(0, 0)
        low, high = self.run_at(first), self.run_at(end - 1)
        counts, values = self.counts[low : high + 1], self.values[low : high + 1]
        counts[-1] -= self.starts[high + 1] - end
        counts[0] -= first - self.starts[low]
        return Runs.of(counts, values)

    def resized(self, length: int, filler: int) -> Runs:
        """Exactly `length` items: cut, or filled up with `filler`."""
        if len(self) > length:
            return self.slice(0, length)
        missing = length - len(self)
        return self if not missing else Runs.concat((self, Runs.constant(missing, filler)))

    @classmethod
    def concat(cls, parts: Iterable[Runs]) -> Runs:
        """All items one after another; runs that meet with the same value become one."""
        counts, values = array("Q"), array("q")
        for part in parts:
            skip = 0
            if counts and part.counts and values[-1] == part.values[0]:
                counts[-1] += part.counts[0]
                skip = 1
            counts.extend(part.counts[skip:])
            values.extend(part.values[skip:])
        return cls.of(counts, values)

    def merged(self) -> Runs:
        """The same items in the fewest runs: two files with the same content then compare equal."""
        counts, values = array("Q"), array("q")
        for value, group in groupby(zip(self.values, self.counts, strict=True), key=lambda pair: pair[0]):
            counts.append(sum(count for _, count in group))
            values.append(value)
        return Runs.of(counts, values)

    def shifted(self, by: int) -> Runs:
        """Every item larger by that much."""
        return self if not by else Runs(self.counts, array("q", (value + by for value in self.values)), self.starts)

    def scaled(self, factor: int) -> Runs:
        """Every item times a factor."""
        return self if factor == 1 else Runs(self.counts, array("q", (v * factor for v in self.values)), self.starts)

    def with_last(self, value: int) -> Runs:
        """The same items, but the last one is `value`."""
        return Runs.concat((self.slice(0, len(self) - 1), Runs.constant(1, value)))

    def total(self) -> int:
        """The sum of all items."""
        return sum(map(mul, self.counts, self.values))


@dataclass(frozen=True, slots=True)
class Timeline:
    """Sums over runs of durations: when each sample is decoded, without a table of all samples."""

    durations: Runs
    run_times: array[int] = field(repr=False, compare=False)

    @classmethod
    def of(cls, durations: Runs) -> Timeline:
        """Runs of given counts and values; those of no length are left out."""
        sums = accumulate(map(mul, durations.counts, durations.values), initial=0)
        return cls(durations, array("q", sums))

    def time_of(self, index: int) -> int:
        """The decode time of sample `index`; of the one past the last: the end."""
        if index >= len(self.durations):
            return self.run_times[-1]
        run = self.durations.run_at(index)
        return self.run_times[run] + (index - self.durations.starts[run]) * self.durations.values[run]

    def first_at(self, time: int) -> int:
        """The first sample decoded at or after `time`; the number of samples when there is none."""
        if time <= 0:
            return 0
        if time > self.run_times[-1]:
            return len(self.durations)
        run = max(0, bisect_right(self.run_times, time - 1) - 1)
        delta = self.durations.values[run]
        steps = -(-(time - self.run_times[run]) // delta) if delta else self.durations.counts[run]
        return self.durations.starts[run] + steps

    def all_times(self) -> array[int]:
        """The decode time of every sample. Only for tracks whose sample count is bounded by their tables."""
        return array("q", islice(accumulate(self.durations, initial=0), len(self.durations)))
