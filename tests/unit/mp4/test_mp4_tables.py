"""Sample tables: each box is written as it is read, and read as the standard says."""

from __future__ import annotations

import struct
from array import array
from dataclasses import replace

import pytest
from hypothesis import given, settings
from media_worker.mp4.boxes import Box, full_box, parse_boxes
from media_worker.mp4.errors import BrokenFile, Unsupported
from media_worker.mp4.groups import SampleGroup
from media_worker.mp4.runs import Runs
from media_worker.mp4.stbl import parse_sample_table
from media_worker.mp4.tables import SampleTable, concat_tables
from media_worker.mp4.writer import chunk_offset_box, table_boxes

from tests.unit.mp4.films import TrackSpec, load, make_film
from tests.unit.mp4.strategies import videos

ROLL = full_box(1) + b"roll" + struct.pack(">IIh", 2, 1, -1)


def written(table: SampleTable, *more: Box) -> Box:
    """The table as `stbl`, through bytes."""
    boxes = [*table_boxes(table), chunk_offset_box(table.chunks, 0, wide=True), *more]
    stbl = Box(b"stbl", children=tuple(boxes))
    return parse_boxes(memoryview(stbl.to_bytes()), b"minf")[0]


def small() -> SampleTable:
    film = make_film([TrackSpec([40, 40, 20], offsets=[40, 80, 0], sync=[0], per_chunk=2)])
    return load(film).tracks[0].table


def with_box(kind: bytes, payload: bytes) -> Box:
    """The small table with one box replaced."""
    stbl = written(small())
    return stbl.with_children((*(box for box in stbl.children or () if box.kind != kind), Box(kind, payload)))


@settings(max_examples=60, deadline=None)
@given(videos())
def test_a_table_survives_writing_and_reading(spec: TrackSpec) -> None:
    """`parse(write(table)) == table`."""
    table = load(make_film([spec])).tracks[0].table
    assert parse_sample_table(written(table)) == table


def test_everything_about_single_samples_survives() -> None:
    """Dependency bytes, sample groups, partial sync samples, and the bounds of the offsets."""
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


def test_groups_that_are_described_differently_are_left_out() -> None:
    """Their indexes would mean different things."""
    first, other = (SampleGroup(b"roll", Runs.constant(3, 1), ROLL + extra) for extra in (b"", b"x"))
    tables = [replace(small(), groups=(group,)) for group in (first, other)]
    assert concat_tables(tables).groups == ()


def test_negative_offsets_are_written_in_version_1() -> None:
    """Version 0 is read as signed as well: some writers put negative numbers there."""
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


def test_tables_that_end_early_go_on_as_players_do() -> None:
    """Durations repeat the last one, offsets are 0, samples without a chunk do not exist."""
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
        (b"saiz", full_box(0), Unsupported),
    ],
)
def test_impossible_tables_are_refused(kind: bytes, payload: bytes, error: type[Exception]) -> None:
    """With the class that says who may still try."""
    with pytest.raises(error):
        parse_sample_table(with_box(kind, payload))


def test_samples_of_no_chunk_and_sync_numbers_out_of_order_are_settled() -> None:
    """Chunks without samples are skipped; sync samples are sorted, and none lies behind the end."""
    stsc = full_box(0) + struct.pack(">IIIIIII", 2, 1, 0, 1, 2, 3, 1)
    table = parse_sample_table(with_box(b"stsc", stsc))
    assert len(table.chunks.offsets) == 1
    table = parse_sample_table(with_box(b"stss", full_box(0) + struct.pack(">IIIII", 4, 3, 1, 1, 99)))
    assert table.sync == array("Q", [0, 2])
