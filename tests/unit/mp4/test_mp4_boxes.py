"""Boxes survive writing and reading, and impossible ones are rejected."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_worker.mp4.boxes import (
    MAX_CHILDREN,
    MAX_DEPTH,
    Box,
    box_header,
    mdat_header,
    parse_boxes,
    read_box_header,
)
from media_worker.mp4.errors import BrokenFile

LEAVES = st.builds(Box, st.sampled_from([b"free", b"mvhd", b"\xa9nam"]), st.binary(max_size=20))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.builds(
        lambda kind, children: Box(kind, b"", tuple(children)),
        st.sampled_from([b"trak", b"mdia", b"minf"]),
        st.lists(inner, max_size=4),
    ),
    max_leaves=12,
)


def as_plain(box: Box) -> object:
    return (box.kind, bytes(box.payload), None if box.children is None else [as_plain(child) for child in box.children])


@given(st.lists(TREES, max_size=4))
def test_boxes_survive_writing_and_reading(boxes: list[Box]) -> None:
    """`parse_boxes(write(boxes)) == boxes`, and `size_bytes` is the size written."""
    data = b"".join(box.to_bytes() for box in boxes)
    assert [as_plain(box) for box in parse_boxes(memoryview(data), b"moov")] == [as_plain(box) for box in boxes]
    assert len(data) == sum(box.size_bytes for box in boxes)


def test_a_large_box_gets_a_64_bit_size() -> None:
    """Above 4 GiB, the size follows the kind."""
    header = mdat_header(5 << 30)
    assert header == struct.pack(">I4sQ", 1, b"mdat", (5 << 30) + 16)
    found = read_box_header(header)
    assert found is not None
    assert (found.size_bytes, found.header_bytes) == ((5 << 30) + 16, 16)


def test_the_largest_small_mdat_keeps_a_32_bit_size() -> None:
    """The header counts towards the 4 GiB."""
    assert len(mdat_header((1 << 32) - 9)) == 8
    assert len(mdat_header((1 << 32) - 8)) == 16


def test_a_size_of_zero_extends_to_the_end() -> None:
    """The last box of a file may have a size of 0."""
    found = read_box_header(box_header(b"mdat", 0))
    assert found is not None
    assert found.size_bytes is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (struct.pack(">I4s", 7, b"free"), "less than its header"),
        (struct.pack(">I4sQ", 1, b"free", 15), "less than its header"),
        (struct.pack(">I4s", 100, b"free"), "larger than its parent moov"),
        (Box(b"free").to_bytes() * (MAX_CHILDREN + 1), "more than"),
    ],
)
def test_impossible_sizes_are_rejected(data: bytes, reason: str) -> None:
    """A size that cannot be right makes the file a broken one."""
    with pytest.raises(BrokenFile, match=reason):
        parse_boxes(memoryview(data), b"moov")


def test_deeply_nested_boxes_are_rejected() -> None:
    """The depth is limited, so that a small file cannot exhaust the stack."""
    box = Box(b"trak", children=())
    for _ in range(MAX_DEPTH + 1):
        box = Box(b"trak", children=(box,))
    with pytest.raises(BrokenFile, match="deep"):
        parse_boxes(memoryview(box.to_bytes()), b"moov")


def test_a_zero_word_at_the_end_is_ignored() -> None:
    """QuickTime ends some lists with four zero bytes."""
    assert len(parse_boxes(memoryview(Box(b"free").to_bytes() + bytes(4)), b"moov")) == 1
