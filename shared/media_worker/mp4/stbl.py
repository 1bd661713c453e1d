"""The boxes of `stbl`, each with its parser and its builder (ISO/IEC 14496-12, 8.5 to 8.9).

Counts in a file are not trusted: each is checked against the size of its box.
"""

from __future__ import annotations

import struct
import sys
from array import array
from bisect import bisect_left
from dataclasses import replace
from itertools import accumulate, chain, compress, count, cycle, islice, repeat
from operator import add, ne, sub
from typing import TYPE_CHECKING

from .boxes import Box, full_box, parse_boxes, unpack, version_and_flags
from .errors import BrokenFile, Unsupported
from .samples import PER_SAMPLE_BYTES, Chunks, Runs, SampleGroup, SampleTable, Sizes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TABLES = frozenset(
    {b"stts", b"ctts", b"stss", b"stps", b"stsz", b"stz2", b"stsc", b"stco", b"co64", b"sdtp", b"stdp", b"sbgp"}
    # Not written: shadow sync samples, padding bits and subsamples, which decoding does not need. Compact sample groups
    # (csgp) are written as plain ones (sbgp).
    | {b"sgpd", b"csgp", b"stsh", b"padb", b"cslg", b"subs"}
)
# 16 years at one tick per nanosecond. Sums below this fit into every integer type used here.
MAX_MEDIA_TIME = 1 << 59
MAX_PATTERN_SAMPLES = 32_000_000
_U32 = struct.Struct(">I")


def parse_sample_table(stbl: Box) -> SampleTable:
    """The sample table. If its boxes disagree about the number of samples, the lowest counts, as in players.

    Raises:
        Unsupported: a duration is negative.
        BrokenFile: a box contradicts itself, or one is missing.
    """
    sizes = _parse_sizes(stbl)
    chunks = _parse_chunks(stbl, sizes.count)
    count = chunks.starts[-1]
    return SampleTable(
        durations=_parse_stts(stbl.need(b"stts"), count),
        offsets=_parse_ctts(stbl.find(b"ctts"), count),
        sizes=sizes.resized(count),
        sync=_parse_numbers(stbl.find(b"stss"), count),
        chunks=chunks,
        per_sample=_parse_per_sample(stbl, count),
        groups=_parse_groups(stbl, count),
        partial_sync=_parse_numbers(stbl.find(b"stps"), count),
        has_bounds=stbl.find(b"cslg") is not None,
    )


def build_sample_table(table: SampleTable) -> list[Box]:
    """The boxes of a sample table, without chunk offsets: these depend on the size of the header."""
    boxes = [_build_runs(b"stts", table.durations)]
    if table.offsets is not None:
        boxes.append(_build_ctts(table.offsets))
        if table.has_bounds:
            boxes.append(_build_cslg(table, table.offsets))
    if table.sync is not None:
        boxes.append(_build_numbers(b"stss", table.sync))
    if table.partial_sync is not None:
        boxes.append(_build_numbers(b"stps", table.partial_sync))
    boxes.extend(Box(kind, full_box(0) + data) for kind, data in table.per_sample.items())
    boxes += [_build_stsc(table.chunks), _build_stsz(table.sizes)]
    return boxes + _build_groups(table.groups)


# Tables of integers


def parse_integers(code: str, box: Box, offset: int, count: int) -> array[int]:
    """`count` big-endian integers of array type `code` at `offset` of the payload.

    Raises:
        BrokenFile: the payload ends before them.
    """
    numbers = array(code)
    end = offset + count * numbers.itemsize
    if end > len(box.payload):
        raise BrokenFile(f"box {box.kind.decode('latin-1')} has fewer entries than it declares")
    numbers.frombytes(box.payload[offset:end])
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers


def _big_endian(numbers: array[int]) -> bytes:
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers.tobytes()


def _parse_table(code: str, box: Box, columns: int = 1) -> array[int]:
    """The entries behind version, flags and entry count, row by row."""
    (count,) = unpack(struct.Struct(">4xI"), box)
    return parse_integers(code, box, 8, count * columns)


def _build_table(kind: bytes, code: str, numbers: Iterable[int], version: int = 0, columns: int = 1) -> Box:
    entries = array(code, numbers)
    return Box(kind, full_box(version) + struct.pack(">I", len(entries) // columns) + _big_endian(entries))


def _build_runs(kind: bytes, runs: Runs, version: int = 0, code: str = "I") -> Box:
    entries = array(code, bytes(2 * len(runs.counts) * array(code).itemsize))
    entries[0::2], entries[1::2] = array(code, runs.counts), array(code, runs.values)
    return _build_table(kind, code, entries, version, columns=2)


# stsd: sample descriptions (8.5.2)


def parse_stsd(stsd: Box) -> tuple[Box, ...]:
    """The sample entries, byte for byte."""
    (count,) = unpack(_U32, stsd, 4)
    entries = parse_boxes(memoryview(stsd.payload)[8:], b"stsd")
    if count > len(entries):
        raise BrokenFile("box stsd has fewer entries than it declares")
    return tuple(Box(entry.kind, bytes(entry.payload), entry.children) for entry in entries[:count])


def build_stsd(stsd: Box, descriptions: Sequence[Box]) -> Box:
    """The box with other sample entries."""
    head = bytes(stsd.payload[:4]) + struct.pack(">I", len(descriptions))
    return Box(b"stsd", head + b"".join(entry.to_bytes() for entry in descriptions))


# stts: durations (8.6.1.2)


def _parse_stts(stts: Box, count: int) -> Runs:
    entries = _parse_table("I", stts, columns=2)
    # If the table is too short, its last value repeats, as in players.
    durations = Runs.of(entries[0::2], entries[1::2]).resized(count, entries[-1] if entries else 0)
    if any(value >= 1 << 31 for value in durations.values):
        raise Unsupported("a sample duration is negative or exceeds 31 bits")
    if durations.total() > MAX_MEDIA_TIME:
        raise BrokenFile("the sum of the sample durations is impossibly long")
    return durations


# ctts and cslg: composition offsets and their bounds (8.6.1.3, 8.6.1.4)


def _parse_ctts(ctts: Box | None, count: int) -> Runs | None:
    if ctts is None:
        return None
    counts = _parse_table("I", ctts, columns=2)[0::2]
    # Version 0 is unsigned, but some writers store negative offsets in it and readers accept them.
    return Runs.of(counts, _parse_table("i", ctts, columns=2)[1::2]).resized(count, 0)


def _build_ctts(offsets: Runs) -> Box:
    if min(offsets.values, default=0) < 0:
        return _build_runs(b"ctts", offsets, version=1, code="i")
    return _build_runs(b"ctts", offsets)


def _build_cslg(table: SampleTable, offsets: Runs) -> Box:
    least, greatest = min(offsets.values, default=0), max(offsets.values, default=0)
    numbers = (max(0, -least), least, greatest, table.composition_start(), table.composition_end())
    return Box(b"cslg", full_box(1) + struct.pack(">5q", *numbers))


# stss and stps: sync samples (8.6.2; QuickTime File Format, "Partial Sync Sample Atoms")


def _parse_numbers(box: Box | None, count: int) -> array[int] | None:
    """Sample numbers, from 0, in order, without those above the number of samples."""
    if box is None:
        return None
    numbers = array("Q", (number - 1 for number in _parse_table("I", box) if number))
    if any(map(int.__ge__, numbers, numbers[1:])):
        numbers = array("Q", sorted(set(numbers)))
    return numbers[: bisect_left(numbers, count)]


def _build_numbers(kind: bytes, numbers: Iterable[int]) -> Box:
    return _build_table(kind, "I", map(add, numbers, repeat(1)))


# sdtp and stdp: a fixed number of bytes for each sample (8.6.4, 8.5.3)


def _parse_per_sample(stbl: Box, count: int) -> dict[bytes, bytes]:
    """The payloads of these boxes. One of the wrong length describes other samples and is dropped."""
    found = {}
    for kind, width in PER_SAMPLE_BYTES.items():
        box = stbl.find(kind)
        if box is not None and len(box.payload) == 4 + count * width:
            found[kind] = bytes(box.payload[4:])
    return found


# stsz and stz2: sizes (8.7.3)


def _parse_sizes(stbl: Box) -> Sizes:
    if (stsz := stbl.find(b"stsz")) is not None:
        constant, count = unpack(struct.Struct(">4xII"), stsz)
        return Sizes.same(count, constant) if constant else Sizes.of(parse_integers("I", stsz, 12, count))
    if (stz2 := stbl.find(b"stz2")) is not None:
        return Sizes.of(_parse_stz2(stz2))
    raise BrokenFile("box stbl has no stsz box")


def _parse_stz2(stz2: Box) -> array[int]:
    bits, count = unpack(struct.Struct(">7xBI"), stz2)
    match bits:
        case 4:
            nibbles = parse_integers("B", stz2, 12, (count + 1) // 2)
            return array("I", (half for byte in nibbles for half in (byte >> 4, byte & 15)))[:count]
        case 8:
            return array("I", parse_integers("B", stz2, 12, count))
        case 16:
            return array("I", parse_integers("H", stz2, 12, count))
    raise BrokenFile(f"box stz2 has sizes of {bits} bits")


def _build_stsz(sizes: Sizes) -> Box:
    if sizes.table is None:
        return Box(b"stsz", full_box(0) + struct.pack(">II", sizes.constant or 0, sizes.count))
    return Box(b"stsz", full_box(0) + struct.pack(">II", 0, sizes.count) + _big_endian(sizes.table[:]))


# PCM sizes: the sample entry decides, as QuickTime's stsz often says 1 (QuickTime File Format,
# "sound sample descriptions").  # codespell:ignore sound

_AUDIO_ENTRY = struct.Struct(">8xH6xHH")  # version, channels, bits per sample
_AUDIO_VERSION_1 = struct.Struct(">28xIIII")  # samples per packet, bytes per packet, per frame and per sample
_AUDIO_VERSION_2 = struct.Struct(">40xI4xIIII")  # channels, bits per channel, flags, bytes and samples per packet
_LPCM_VERSION = 2
_PCM_BITS = {
    b"twos": 0, b"sowt": 0, b"raw ": 0, b"NONE": 0, b"in24": 24, b"in32": 32, b"fl32": 32, b"fl64": 64,
    b"ulaw": 8, b"alaw": 8,
}  # fmt: skip


def with_pcm_sizes(table: SampleTable, entry: Box) -> SampleTable:
    """The table of a PCM track with the sample size that its sample entry declares. Other tables do not change.

    Raises:
        Unsupported: the samples share packets (IMA, MACE), so the table does not say where a sample is.
    """
    if not table.is_pcm or not table.count:
        return table
    size_bytes = _pcm_sample_bytes(entry)
    if size_bytes is None or size_bytes == table.sizes.constant:
        return table
    return replace(table, sizes=Sizes.same(table.count, size_bytes))


def _pcm_sample_bytes(entry: Box) -> int | None:
    """The size of one sample of all channels, or None if the entry is not QuickTime PCM."""
    version, channels, bits = unpack(_AUDIO_ENTRY, entry)
    if entry.kind in _PCM_BITS:
        return channels * ((_PCM_BITS[entry.kind] or bits) // 8) or None
    if version == 1:
        samples, _, frame_bytes, _ = unpack(_AUDIO_VERSION_1, entry)
        if samples > 1:
            raise Unsupported("QuickTime audio in which several samples share a packet")
        return frame_bytes or None
    if version == _LPCM_VERSION and entry.kind == b"lpcm":
        return unpack(_AUDIO_VERSION_2, entry)[3] or None
    return None


# stsc, stco and co64: chunks (8.7.4, 8.7.5)


def _parse_chunks(stbl: Box, sample_count: int) -> Chunks:
    """Chunks of at most `sample_count` samples in total."""
    stco = stbl.find(b"stco")
    table = stco or stbl.need(b"co64")
    (chunk_count,) = unpack(_U32, table, 4)
    if chunk_count > len(table.payload) // 4:
        raise BrokenFile(f"box {table.kind.decode()} has fewer entries than it declares")
    counts, descriptions = _parse_stsc(stbl.need(b"stsc"), chunk_count)
    offsets = _parse_table("Q", table) if stco is None else array("Q", _parse_table("I", table))
    if sum(counts) > sample_count:  # the last chunks are not used, or not entirely
        starts = array("Q", accumulate(counts, initial=0))
        used = bisect_left(starts, sample_count)
        offsets, counts, descriptions = offsets[:used], counts[:used], descriptions.resized(used, 1)
        if used:
            counts[-1] -= starts[used] - sample_count
    return _without_empty(offsets, counts, descriptions)


def _parse_stsc(stsc: Box, chunk_count: int) -> tuple[array[int], Runs]:
    """The number of samples and the sample description of each chunk. An entry holds up to the next entry's chunk."""
    entries = _parse_table("I", stsc, columns=3)
    per_chunk, descriptions = entries[1::3], entries[2::3]
    firsts = array("q", map(sub, islice(entries, 0, None, 3), repeat(1)))
    del entries  # large if chunks are small
    if chunk_count and (not firsts or firsts[0] != 0):
        raise BrokenFile("box stsc does not start with the first chunk")
    firsts.append(chunk_count)
    if max(firsts) > chunk_count:  # entries for chunks that do not exist
        firsts = array("q", map(min, firsts, repeat(chunk_count)))
    lengths = array("q", map(sub, islice(firsts, 1, None), firsts))
    del firsts
    if min(lengths, default=0) < 0:
        raise BrokenFile("the entries of box stsc are out of order")
    code = "B" if max(per_chunk, default=0) < 1 << 8 else "I"
    counts = array(code, chain.from_iterable(map(repeat, per_chunk, lengths)))
    if descriptions and descriptions.count(descriptions[0]) == len(descriptions):  # nearly always
        return counts, Runs.constant(len(counts), descriptions[0])
    return counts, Runs.of(lengths, descriptions)


def _without_empty(offsets: array[int], counts: array[int], descriptions: Runs) -> Chunks:
    if counts.count(0):
        kept = [index for index, count in enumerate(counts) if count]
        descriptions = Runs.from_values(descriptions[index] for index in kept)
        offsets, counts = array("Q", (offsets[i] for i in kept)), array("I", (counts[i] for i in kept))
    return Chunks.of(offsets, counts, descriptions.merged())


def _build_stsc(chunks: Chunks) -> Box:
    """An entry for each chunk that differs from the one before."""
    rows = [0] if chunks.counts else []
    rows.extend(compress(count(1), map(ne, islice(chunks.counts, 1, None), chunks.counts)))
    if len(chunks.descriptions.values) > 1:
        rows = sorted({*rows, *chunks.descriptions.starts[:-1]})
    entries = array("I", bytes(3 * 4 * len(rows)))
    entries[0::3] = array("I", map(add, rows, repeat(1)))
    entries[1::3] = array("I", map(chunks.counts.__getitem__, rows))
    entries[2::3] = _descriptions_of(chunks.descriptions, rows)
    return _build_table(b"stsc", "I", entries, columns=3)


def _descriptions_of(descriptions: Runs, chunk_numbers: Sequence[int]) -> array[int]:
    if len(descriptions.values) == 1:
        return array("I", descriptions.values) * len(chunk_numbers)
    return array("I", map(descriptions.__getitem__, chunk_numbers))


def build_chunk_offsets(chunks: Chunks, media_offset: int, *, wide: bool) -> Box:
    """`stco`, or `co64` if `wide`. `media_offset` is added to each chunk offset; 0 is used to measure the box."""
    kind, code = (b"co64", "Q") if wide else (b"stco", "I")
    if not wide and media_offset == 0:  # the offsets may not fit into 32 bits, but the size of the box is known
        return Box(kind, bytes(8 + 4 * len(chunks.offsets)))
    return _build_table(kind, code, map(add, chunks.offsets, repeat(media_offset)))


# sgpd, sbgp and csgp: sample groups (8.9)

_CSGP_HAS_PARAMETER, _CSGP_IS_LOCAL = 0x40, 0x80


def _parse_groups(stbl: Box, sample_count: int) -> tuple[SampleGroup, ...]:
    """All sample groups. One without its `sgpd` has no meaning and is dropped."""
    descriptions = {bytes(box.payload[4:8]): bytes(box.payload) for box in stbl.find_all(b"sgpd")}
    groups = []
    for box in stbl.find_all(b"sbgp"):
        version, _ = version_and_flags(box)
        grouping = bytes(box.payload[4 : 8 if version == 0 else 12])
        if (description := descriptions.get(grouping[:4])) is not None:
            members = _parse_members(box, 4 + len(grouping)).resized(sample_count, 0)
            groups.append(SampleGroup(grouping, members, description))
    for box in stbl.find_all(b"csgp"):
        _, flags = version_and_flags(box)
        grouping = bytes(box.payload[4 : 12 if flags & _CSGP_HAS_PARAMETER else 8])
        if (description := descriptions.get(grouping[:4])) is not None and not flags & _CSGP_IS_LOCAL:
            members = _parse_compact_members(box, 4 + len(grouping), sample_count).resized(sample_count, 0)
            groups.append(SampleGroup(grouping, members, description))
    return tuple(groups)


def _parse_compact_members(csgp: Box, offset: int, sample_count: int) -> Runs:
    """The group of each sample (8.9.5): patterns, each repeated until it covers a number of samples.

    Lengths, counts and indexes have 4, 8, 16 or 32 bits, which the flags say.
    """
    _, flags = version_and_flags(csgp)
    length_bits, count_bits, index_bits = (4 << (flags >> shift & 3) for shift in (4, 2, 0))
    (patterns,) = unpack(_U32, csgp, offset)
    bits = _Bits(csgp, offset + 4)
    if patterns * (length_bits + count_bits) > bits.left:
        raise BrokenFile("box csgp has fewer patterns than it declares")
    sizes = [(bits.read(length_bits), bits.read(count_bits)) for _ in range(patterns)]
    if sum(length for length, _ in sizes) * index_bits > bits.left:
        raise BrokenFile("box csgp has fewer indexes than it declares")
    parts: list[Runs] = []
    left = sample_count
    for length, samples in sizes:
        pattern = array("I", (bits.read(index_bits) for _ in range(length)))
        covered = min(samples, left) if length else 0
        left -= covered
        parts.append(_repeated(pattern, covered))
    return Runs.concat(parts)


def _repeated(pattern: array[int], count: int) -> Runs:
    if not count or pattern.count(pattern[0]) == len(pattern):
        return Runs.constant(count, pattern[0] if count else 0)
    if count > MAX_PATTERN_SAMPLES:
        raise Unsupported(f"a pattern of sample groups for {count} samples")
    return Runs.from_values(islice(cycle(pattern), count))


class _Bits:
    """Reads unsigned integers of 4 to 32 bits from the payload of a box."""

    def __init__(self, box: Box, offset: int) -> None:
        self._data, self._at = memoryview(box.payload), 8 * offset

    @property
    def left(self) -> int:
        """The number of bits that were not read."""
        return 8 * len(self._data) - self._at

    def read(self, bits: int) -> int:
        """The next integer."""
        first, self._at = self._at, self._at + bits
        covering = int.from_bytes(self._data[first // 8 : -(-self._at // 8)], "big")
        return covering >> (-self._at % 8) & ((1 << bits) - 1)


def _parse_members(sbgp: Box, offset: int) -> Runs:
    (count,) = unpack(_U32, sbgp, offset)
    pairs = parse_integers("I", sbgp, offset + 4, count * 2)
    return Runs.of(pairs[0::2], pairs[1::2])


def _build_groups(groups: Sequence[SampleGroup]) -> list[Box]:
    """All `sgpd` boxes, each once, then all `sbgp` boxes."""
    boxes = [Box(b"sgpd", description) for description in dict.fromkeys(group.description for group in groups)]
    for group in groups:
        version = 1 if group.grouping[4:] else 0
        head = full_box(version) + group.grouping + struct.pack(">I", len(group.members.counts))
        pairs = zip(group.members.counts, group.members.values, strict=True)
        boxes.append(Box(b"sbgp", head + b"".join(struct.pack(">II", *pair) for pair in pairs)))
    return boxes
