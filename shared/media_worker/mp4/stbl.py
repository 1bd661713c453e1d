"""Reading `stbl`: the boxes of a sample table, each count checked against the bytes that are there."""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left
from itertools import accumulate

from .boxes import Box, unpack
from .errors import BrokenFile, Unsupported
from .groups import parse_groups
from .places import Chunks, Sizes
from .runs import Runs
from .tables import PER_SAMPLE_BYTES, SampleTable

_COUNT = struct.Struct(">4xI")
_STSZ = struct.Struct(">4xII")
_STZ2 = struct.Struct(">7xBI")
# What a track of 16 years at a nanosecond per tick adds up to; sums below it fit every integer used here.
MAX_MEDIA_TIME = 1 << 59
TABLES = frozenset(
    {b"stts", b"ctts", b"stss", b"stps", b"stsz", b"stz2", b"stsc", b"stco", b"co64", b"sdtp", b"stdp", b"sbgp"}
    # Left out on the way: shadow sync samples, padding bits and compact sample groups. None of them changes a picture.
    | {b"sgpd", b"csgp", b"stsh", b"padb", b"cslg", b"subs"}
)


def parse_sample_table(stbl: Box) -> SampleTable:
    """The sample table; what the tables disagree about is settled as players do: the smaller count wins."""
    for kind in (b"saiz", b"saio", b"senc"):
        if stbl.find(kind):
            raise Unsupported("auxiliary information beside the samples (encryption)")
    sizes = _parse_sizes(stbl)
    chunks = _parse_chunks(stbl, sizes.count)
    count = chunks.starts[-1]
    sizes = sizes.resized(count)
    durations = _parse_durations(stbl, count)
    return SampleTable(
        durations=durations,
        offsets=_parse_offsets(stbl, count),
        sizes=sizes,
        sync=_parse_numbers(stbl.find(b"stss"), count),
        chunks=chunks,
        per_sample=_parse_per_sample(stbl, count),
        groups=parse_groups(stbl, count),
        partial_sync=_parse_numbers(stbl.find(b"stps"), count),
        has_bounds=stbl.find(b"cslg") is not None,
    )


def integers(code: str, box: Box, offset: int, count: int) -> array[int]:
    """`count` big-endian numbers at `offset` of a box."""
    numbers = array(code)
    end = offset + count * numbers.itemsize
    if end > len(box.payload):
        raise BrokenFile(f"{box.kind.decode('latin-1')} holds more entries than its box")
    numbers.frombytes(box.payload[offset:end])
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


def _entries(code: str, box: Box, numbers_each: int) -> array[int]:
    """The entries of a table that begins with version, flags and entry count."""
    (count,) = unpack(_COUNT, box)
    return integers(code, box, 8, count * numbers_each)


def _parse_sizes(stbl: Box) -> Sizes:
    if (box := stbl.find(b"stsz")) is not None:
        constant, count = unpack(_STSZ, box)
        return Sizes.same(count, constant) if constant else Sizes.of(integers("I", box, 12, count))
    if (box := stbl.find(b"stz2")) is not None:
        return Sizes.of(_compact_sizes(box))
    raise BrokenFile("no stsz box in stbl")


def _compact_sizes(box: Box) -> array[int]:
    """`stz2`: 4, 8 or 16 bits for each size (8.7.3.3)."""
    bits, count = unpack(_STZ2, box)
    match bits:
        case 4:
            nibbles = integers("B", box, 12, (count + 1) // 2)
            return array("I", (half for byte in nibbles for half in (byte >> 4, byte & 15)))[:count]
        case 8:
            return array("I", integers("B", box, 12, count))
        case 16:
            return array("I", integers("H", box, 12, count))
    raise BrokenFile(f"stz2 with sizes of {bits} bits")


def _parse_durations(stbl: Box, count: int) -> Runs:
    entries = _entries("I", stbl.need(b"stts"), 2)
    # A table that is too short goes on with its last value, as in every player.
    durations = Runs.of(entries[0::2], entries[1::2]).resized(count, entries[-1] if entries else 0)
    if any(value >= 1 << 31 for value in durations.values):
        raise Unsupported("sample durations that go backwards")
    if durations.total() > MAX_MEDIA_TIME:
        raise BrokenFile("sample durations add up to more than a lifetime")
    return durations


def _parse_offsets(stbl: Box, count: int) -> Runs | None:
    if (box := stbl.find(b"ctts")) is None:
        return None
    counts = _entries("I", box, 2)[0::2]
    # Signed in version 1; version 0 should not be, but writers put negative numbers there and readers take them so.
    return Runs.of(counts, _entries("i", box, 2)[1::2]).resized(count, 0)


def _parse_numbers(box: Box | None, count: int) -> array[int] | None:
    """Sample numbers, from 0, in order, none beyond the last sample."""
    if box is None:
        return None
    numbers = array("Q", (number - 1 for number in _entries("I", box, 1) if number))
    if any(map(int.__ge__, numbers, numbers[1:])):
        numbers = array("Q", sorted(set(numbers)))
    return numbers[: bisect_left(numbers, count)]


def _parse_chunks(stbl: Box, sample_count: int) -> Chunks:
    if (box := stbl.find(b"stco")) is not None:
        offsets = array("Q", _entries("I", box, 1))
    else:
        offsets = _entries("Q", stbl.need(b"co64"), 1)
    counts, descriptions = _expand_stsc(_entries("I", stbl.need(b"stsc"), 3), len(offsets))
    starts = array("Q", accumulate(counts, initial=0))
    used = min(bisect_left(starts, sample_count), len(counts))  # chunks that begin before the samples end
    offsets, counts, descriptions = offsets[:used], counts[:used], descriptions.resized(used, 1)
    if used and starts[used] > sample_count:
        counts[-1] -= starts[used] - sample_count
    return _without_empty(offsets, counts, descriptions)


def _expand_stsc(entries: array[int], chunk_count: int) -> tuple[array[int], Runs]:
    """Samples and sample description of each chunk, from "from this chunk on" entries (8.7.4)."""
    counts = array("I")
    run_lengths, descriptions = [], []
    firsts = [*(first - 1 for first in entries[0::3]), chunk_count]
    if firsts[0] != 0 and chunk_count:
        raise BrokenFile("stsc does not begin with the first chunk")
    for number in range(len(firsts) - 1):
        first, following = min(firsts[number], chunk_count), min(firsts[number + 1], chunk_count)
        if following < first:
            raise BrokenFile("stsc is not in order")
        counts.extend(array("I", [entries[number * 3 + 1]]) * (following - first))
        run_lengths.append(following - first)
        descriptions.append(entries[number * 3 + 2])
    return counts, Runs.of(run_lengths, descriptions)


def _without_empty(offsets: array[int], counts: array[int], descriptions: Runs) -> Chunks:
    if counts.count(0):
        kept = [index for index, count in enumerate(counts) if count]
        descriptions = Runs.from_values(descriptions[index] for index in kept)
        offsets, counts = array("Q", (offsets[i] for i in kept)), array("I", (counts[i] for i in kept))
    return Chunks.of(offsets, counts, descriptions.merged())


def _parse_per_sample(stbl: Box, count: int) -> dict[bytes, bytes]:
    """Tables with so many bytes for each sample; one of another length is about other samples and left out."""
    found = {}
    for kind, width in PER_SAMPLE_BYTES.items():
        box = stbl.find(kind)
        if box is not None and len(box.payload) == 4 + count * width:
            found[kind] = bytes(box.payload[4:])
    return found
