"""Which parts an object is composed of."""

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_worker.mp4.errors import Unsupported
from media_worker.parts import (
    MAX_PARTS,
    SMALLEST_PART_BYTES,
    Copied,
    Fetched,
    Literal,
    Part,
    Piece,
    Range,
    plan_parts,
)

MIB = 1024 * 1024
pieces_strategy = st.lists(
    st.one_of(
        st.builds(Literal, st.binary(max_size=200)),
        st.builds(
            Range,
            source=st.integers(0, 3),
            offset=st.integers(0, 2**40),
            length=st.one_of(st.integers(0, 6 * MIB), st.integers(0, 2**36)),
        ),
    ),
    max_size=30,
)


def bytes_of(pieces: list[Piece]) -> list[tuple[object, int, int]]:
    """What the pieces say, with neighbouring ranges made one: (literal content or source, begin, end)."""
    flat: list[tuple[object, int, int]] = []
    for piece in pieces:
        if not piece.length:
            continue
        if isinstance(piece, Literal):
            flat.append((piece.content, 0, piece.length))
        elif flat and flat[-1][0] == piece.source and flat[-1][2] == piece.offset:
            flat[-1] = (piece.source, flat[-1][1], piece.offset + piece.length)
        else:
            flat.append((piece.source, piece.offset, piece.offset + piece.length))
    return flat


def pieces_of(parts: list[Part]) -> list[Piece]:
    return [piece for part in parts for piece in (part.pieces if isinstance(part, Fetched) else (part.range,))]


@given(pieces_strategy)
def test_the_parts_are_exactly_the_pieces(pieces: list[Piece]) -> None:
    """Nothing is lost, doubled or moved."""
    assert bytes_of(pieces_of(plan_parts(pieces))) == bytes_of(pieces)


@given(pieces_strategy)
def test_every_part_but_the_last_is_five_mebibytes_or_more(pieces: list[Piece]) -> None:
    """S3 refuses a smaller one only when the upload is completed, which is too late."""
    parts = plan_parts(pieces)
    assert all(part.length >= SMALLEST_PART_BYTES for part in parts[:-1])
    assert all(part.length > 0 for part in parts)


@given(pieces_strategy)
def test_a_fetched_part_stays_small(pieces: list[Piece]) -> None:
    """It is in memory."""
    assert all(part.length <= 16 * MIB for part in plan_parts(pieces) if isinstance(part, Fetched))


def test_a_header_takes_along_what_its_part_lacks() -> None:
    """Then the rest of the range is copied, in equal parts."""
    parts = plan_parts([Literal(b"h" * 100), Range(0, 1000, 1205 * MIB)], copy_bytes=512 * MIB)
    head = SMALLEST_PART_BYTES - 100
    assert parts[0] == Fetched((Literal(b"h" * 100), Range(0, 1000, head)))
    assert [type(part) for part in parts[1:]] == [Copied] * 3
    assert max(part.length for part in parts[1:]) - min(part.length for part in parts[1:]) <= 1


def test_small_ranges_are_fetched_together() -> None:
    """A badly interleaved file costs a few parts, not one a sample."""
    parts = plan_parts([Range(0, number * 10_000, 4_000) for number in range(10_000)])
    assert {kind for kind, _ in groupby(type(part) for part in parts)} == {Fetched}
    assert len(parts) == 5


def test_a_film_of_a_hundred_gigabytes_has_few_parts() -> None:
    """Far from S3's ten thousand."""
    assert len(plan_parts([Literal(b"moov"), *(Range(n, 0, 500 * 10**6) for n in range(200))])) == 201


def test_more_parts_than_s3_takes_are_noticed_before_the_first_is_sent() -> None:
    """Each of so many segments is a copy of its own."""
    segments = [Range(number, 0, SMALLEST_PART_BYTES) for number in range(MAX_PARTS)]
    assert len(plan_parts(segments)) == MAX_PARTS
    with pytest.raises(Unsupported, match="10001 parts"):
        plan_parts([*segments, Range(MAX_PARTS, 0, SMALLEST_PART_BYTES)])
