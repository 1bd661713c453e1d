"""The note in a segment: believed only when it is true."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from media_worker.mp4 import lay_out, plan_join, plan_split
from media_worker.mp4.boxes import Box
from media_worker.mp4.edits import EMPTY, Edit
from media_worker.mp4.origin import ORIGIN_UUID, Origin, TrackOrigin, find_origin, origin_box

from tests.unit.mp4.films import TrackSpec, load, make_film, put_together

ORIGIN = Origin("abc", 1, 3, 600, (TrackOrigin(7, -3, (Edit(5, EMPTY), Edit(9, 0))),), "def")
FILM = make_film([TrackSpec([40] * 30, sync=range(0, 30, 5))])


def segments() -> list[bytes]:
    movie = load(FILM)
    plan = plan_split(movie, Fraction(2, 5))
    return [put_together(lay_out(movie, plan, index), FILM) for index in range(plan.total_segments)]


def is_restored(parts: list[bytes]) -> bool:
    return plan_join([load(part) for part in parts]).is_restored


def test_a_note_survives_writing_and_reading() -> None:
    """`find(box(note)) == note`."""
    assert find_origin(Box(b"moov", children=(origin_box(ORIGIN),))) == ORIGIN


@pytest.mark.parametrize(
    "change",
    [
        {"tracks": 5},
        {"tracks": [{"first_sample": 0, "offset_shift": 0, "edits": 1}]},
        {"tracks": [5]},
        {"segment_index": -1},
        {"segment_index": True},
        {"movie_timescale": 0},
        {"total_segments": 1 << 70},
        {"digest": None, "source": None, "tracks": None},
    ],
)
def test_a_note_that_makes_no_sense_is_none(change: dict[str, object]) -> None:
    """A segment comes from others: nothing in it is trusted."""
    note = json.loads(bytes(origin_box(ORIGIN).payload[16:])) | change
    moov = Box(b"moov", children=(Box(b"uuid", ORIGIN_UUID + json.dumps(note).encode()),))
    assert find_origin(moov) is None


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b" " * (2 << 20)])
def test_a_note_that_is_none_is_none(text: bytes) -> None:
    """Not even JSON, or far too much of it."""
    assert find_origin(Box(b"moov", children=(Box(b"uuid", ORIGIN_UUID + text),))) is None


def test_all_segments_of_a_film_restore_it() -> None:
    """In their order, and all of them."""
    parts = segments()
    assert len(parts) == 3
    assert is_restored(parts)


def test_a_changed_segment_is_found_out() -> None:
    """The note is still there, but another duration is not what the digest was made of."""
    parts = segments()
    at = parts[1].index(b"stts") + 4 + 8 + 4
    parts[1] = parts[1][:at] + b"\0\0\0\x29" + parts[1][at + 4 :]
    assert not is_restored(parts)


def test_segments_of_two_films_or_in_another_order_restore_nothing() -> None:
    """They are joined by their own times."""
    parts = segments()
    assert not is_restored([parts[0], parts[2], parts[1]])
    assert not is_restored(parts[:2])
    assert not is_restored([parts[0], parts[1], parts[1]])
