"""The boxes of a sample table survive writing and reading, and are read as the standard says."""

from __future__ import annotations

import struct
from array import array
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_worker.mp4.boxes import Box, full_box, parse_boxes
from media_worker.mp4.errors import BrokenFile, Unsupported
from media_worker.mp4.samples import Chunks, Runs, SampleGroup, SampleTable, Sizes, concat_tables
from media_worker.mp4.stbl import build_chunk_offsets, build_sample_table, parse_sample_table, with_pcm_sizes

from tests.unit.mp4.movies import TrackSpec, load, make_movie
from tests.unit.mp4.strategies import videos

if TYPE_CHECKING:
    from collections.abc import Sequence

ROLL = full_box(1) + b"roll" + struct.pack(">IIh", 2, 1, -1)


def written(table: SampleTable, *more: Box) -> Box:
    """The table as an `stbl` box that was written and read."""
    boxes = [*build_sample_table(table), build_chunk_offsets(table.chunks, 0, wide=True), *more]
    stbl = Box(b"stbl", children=tuple(boxes))
    return parse_boxes(memoryview(stbl.to_bytes()), b"minf")[0]


def small() -> SampleTable:
    movie = make_movie([TrackSpec([40, 40, 20], offsets=[40, 80, 0], sync=[0], per_chunk=2)])
    return load(movie).tracks[0].table


def with_box(kind: bytes, payload: bytes) -> Box:
    """The small table with one box replaced."""
    stbl = written(small())
    return stbl.with_children((*(box for box in stbl.children or () if box.kind != kind), Box(kind, payload)))


@settings(max_examples=60, deadline=None)
@given(videos())
def test_a_table_survives_writing_and_reading(spec: TrackSpec) -> None:
    """`parse(build(table)) == table`."""
    table = load(make_movie([spec])).tracks[0].table
    assert parse_sample_table(written(table)) == table


def test_every_optional_box_survives_writing_and_reading() -> None:
    """Dependencies, sample groups, partial sync samples, and the bounds of the composition offsets."""
    table = replace(
        small(),
        per_sample={b"sdtp": b"abc"},
        groups=(SampleGroup(b"roll", Runs.from_values([0, 1, 1]), ROLL),),
        partial_sync=array("Q", [2]),
        has_bounds=True,
    )
    assert parse_sample_table(written(table)) == table
    parts = [table.slice(0, 2), table.slice(2, 3)]  # between two chunks
    assert concat_tables(parts) == table
    cslg = written(table).need(b"cslg")
    assert struct.unpack(">4x5q", cslg.payload) == (0, 0, 80, 40, 160)


def test_groups_with_different_descriptions_are_dropped() -> None:
    """The same index has different meanings in them."""
    first, other = (SampleGroup(b"roll", Runs.constant(3, 1), ROLL + extra) for extra in (b"", b"x"))
    tables = [replace(small(), groups=(group,)) for group in (first, other)]
    assert concat_tables(tables).groups == ()


def test_negative_offsets_are_written_in_version_1() -> None:
    """Version 0 is read as signed too, because some writers store negative offsets in it."""
    table = replace(small(), offsets=Runs.from_values([-40, 0, 40]))
    ctts = written(table).need(b"ctts")
    assert ctts.payload[0] == 1
    version_0 = with_box(b"ctts", full_box(0) + bytes(ctts.payload[4:]))
    assert parse_sample_table(version_0).offsets == table.offsets


@pytest.mark.parametrize(("bits", "data"), [(4, b"\x12\x30"), (8, b"\1\2\3"), (16, b"\0\1\0\2\0\3")])
def test_compact_sizes_are_read(bits: int, data: bytes) -> None:
    """`stz2` packs sizes in 4, 8 or 16 bits."""
    stbl = with_box(b"stsz", b"")
    stz2 = Box(b"stz2", full_box(0) + struct.pack(">II", bits, 3) + data)
    stbl = stbl.with_children((*(box for box in stbl.children or () if box.kind != b"stsz"), stz2))
    assert parse_sample_table(stbl).sizes.table == array("I", [1, 2, 3])


def test_tables_that_are_too_short_are_read_as_players_do() -> None:
    """The last duration repeats, missing offsets are 0, and samples without a chunk are ignored."""
    short = parse_sample_table(with_box(b"stts", full_box(0) + struct.pack(">III", 1, 2, 7)))
    assert list(short.durations) == [7, 7, 7]
    short = parse_sample_table(with_box(b"ctts", full_box(0) + struct.pack(">III", 1, 1, 9)))
    assert short.offsets == Runs.from_values([9, 0, 0])
    short = parse_sample_table(with_box(b"stsc", full_box(0) + struct.pack(">IIII", 1, 1, 1, 1)))
    assert (short.count, list(short.sizes.table or ())) == (2, [12, 13])


@pytest.mark.parametrize(
    ("kind", "payload", "error"),
    [
        (b"stts", full_box(0) + struct.pack(">I", 5), BrokenFile),
        (b"stts", full_box(0) + struct.pack(">III", 1, 3, 1 << 31), Unsupported),
        (b"stsz", full_box(0) + struct.pack(">II", 0, 1 << 30), BrokenFile),
        (b"stsc", full_box(0) + struct.pack(">IIII", 1, 2, 2, 1), BrokenFile),
        (b"stsc", full_box(0) + struct.pack(">IIIIIII", 2, 1, 2, 1, 0, 2, 1), BrokenFile),
        (b"stsz", b"", BrokenFile),
    ],
)
def test_impossible_tables_are_rejected(kind: bytes, payload: bytes, error: type[Exception]) -> None:
    """The error class tells an unsupported table from a broken one."""
    with pytest.raises(error):
        parse_sample_table(with_box(kind, payload))


def test_empty_chunks_and_unordered_sync_samples_are_normalised() -> None:
    """Chunks without samples are dropped. Sync samples are sorted, without those above the number of samples."""
    stsc = full_box(0) + struct.pack(">IIIIIII", 2, 1, 0, 1, 2, 3, 1)
    table = parse_sample_table(with_box(b"stsc", stsc))
    assert len(table.chunks.offsets) == 1
    table = parse_sample_table(with_box(b"stss", full_box(0) + struct.pack(">IIIII", 4, 3, 1, 1, 99)))
    assert table.sync == array("Q", [0, 2])


def pcm(size_bytes: int = 1, duration: int = 1) -> SampleTable:
    chunks = Chunks.of(array("Q", [0]), array("I", [100]), Runs.constant(1, 1))
    return SampleTable(Runs.constant(100, duration), None, Sizes.same(100, size_bytes), None, chunks)


def entry(kind: bytes, version: int = 0, channels: int = 2, bits: int = 16, more: bytes = b"") -> Box:
    head = bytes(6) + struct.pack(">HHHIHHI", 1, version, 0, 0, channels, bits, 0) + struct.pack(">I", 48000 << 16)
    return Box(kind, head + more)


VERSION_1 = struct.pack(">IIII", 1, 3, 6, 2)
VERSION_2 = struct.pack(">IdIIIIII", 72, 48000.0, 2, 0x7F000000, 24, 12, 6, 1)


@pytest.mark.parametrize(
    ("description", "size_bytes"),
    [
        (entry(b"twos"), 4),
        (entry(b"sowt", channels=1), 2),
        (entry(b"in24"), 6),
        (entry(b"ulaw", channels=1), 1),
        (entry(b"qdmx", version=1, more=VERSION_1), 6),
        (entry(b"lpcm", version=2, more=VERSION_2), 6),
        (entry(b"ipcm"), 1),  # ISO: the table decides
    ],
)
def test_the_sample_entry_determines_the_size_of_pcm(description: Box, size_bytes: int) -> None:
    """It is channels times bits, or a field of newer entries."""
    assert with_pcm_sizes(pcm(), description).sizes.constant == size_bytes


def test_compressed_packets_keep_their_size() -> None:
    """AC-3 packets have a constant size too, but last longer than a tick."""
    table = pcm(1792, duration=1536)
    assert with_pcm_sizes(table, entry(b"ac-3")) is table


def test_audio_with_shared_packets_is_unsupported() -> None:
    """With IMA and MACE, the tables do not say where a sample is."""
    with pytest.raises(Unsupported, match="share a packet"):
        with_pcm_sizes(pcm(), entry(b"ima4", version=1, more=struct.pack(">IIII", 64, 34, 68, 2)))


def compact_groups(
    patterns: Sequence[tuple[Sequence[int], int]], length_code: int, count_code: int, index_code: int
) -> Box:
    """A `csgp` box. The codes 0 to 3 mean 4, 8, 16 and 32 bits."""
    numbers = [
        *(pair for pattern, count in patterns for pair in ((len(pattern), 4 << length_code), (count, 4 << count_code))),
        *((index, 4 << index_code) for pattern, _ in patterns for index in pattern),
    ]
    bits = "".join(f"{number:0{width}b}" for number, width in numbers)
    bits += "0" * (-len(bits) % 8)
    flags = length_code << 4 | count_code << 2 | index_code
    head = full_box(0, flags) + b"roll" + struct.pack(">I", len(patterns))
    return Box(b"csgp", head + int(bits or "0", 2).to_bytes(len(bits) // 8, "big"))


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 15), min_size=1, max_size=5), st.integers(0, 15)), max_size=6),
    st.integers(0, 3),
    st.integers(0, 3),
    st.integers(0, 3),
)
def test_compact_sample_groups_become_plain_ones(
    patterns: list[tuple[list[int], int]], length_code: int, count_code: int, index_code: int
) -> None:
    """Each pattern repeats until it covers its number of samples. Samples without a group have index 0."""
    csgp = compact_groups(patterns, length_code, count_code, index_code)
    table = load(make_movie([TrackSpec([40] * 50)])).tracks[0].table
    parsed = parse_sample_table(written(table, Box(b"sgpd", ROLL), csgp))
    expected = [pattern[n % len(pattern)] for pattern, count in patterns for n in range(count)]
    (group,) = parsed.groups
    assert list(group.members) == (expected + [0] * 50)[:50]
    assert {box.kind for box in build_sample_table(parsed)} >= {b"sgpd", b"sbgp"}


@pytest.mark.parametrize("missing", [1, 2, 5])
def test_a_truncated_compact_group_is_rejected(missing: int) -> None:
    """Its counts are checked against its size."""
    csgp = compact_groups([([1, 2], 10)], 1, 1, 1)
    cut = Box(b"csgp", bytes(csgp.payload)[:-missing])
    with pytest.raises(BrokenFile):
        parse_sample_table(written(small(), Box(b"sgpd", ROLL), cut))
