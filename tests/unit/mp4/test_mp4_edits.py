"""Edit lists: where media time goes in the film."""

from __future__ import annotations

from fractions import Fraction

import pytest
from media_worker.mp4.boxes import Box, parse_boxes
from media_worker.mp4.edits import (
    EMPTY,
    Edit,
    build_elst,
    cut_spans,
    edits_of,
    exact_movie_timescale,
    film_time,
    media_time_at,
    parse_edits,
    spans_of,
)
from media_worker.mp4.errors import BrokenFile


def test_an_edit_list_survives_writing_and_reading() -> None:
    """Both versions: 64-bit numbers only where they are needed."""
    for edits in ((Edit(5, EMPTY), Edit(7, 3)), (Edit(1 << 33, 1 << 40), Edit(1, 0, 0x8000))):
        (box,) = parse_boxes(memoryview(build_elst(edits).to_bytes()), b"edts")
        assert parse_edits(box) == edits


def test_an_edit_list_cannot_be_longer_than_its_box() -> None:
    """The count is the file's word only."""
    with pytest.raises(BrokenFile):
        parse_edits(Box(b"elst", bytes(4) + b"\xff\xff\xff\xff"))


def test_delay_and_trim_move_the_film() -> None:
    """500 ms of nothing, then media from tick 90: film time is media time + 410."""
    spans = spans_of([Edit(500, EMPTY), Edit(1000, 90)], 1000, 1000)
    assert spans is not None
    assert film_time(spans, 90) == 500
    assert film_time(spans, 190) == 600
    assert film_time(spans, 0) == 500  # hidden: counts as shown at the next visible moment
    assert media_time_at(spans, Fraction(0)) == 90
    assert media_time_at(spans, Fraction(1499)) == 1089
    assert media_time_at(spans, Fraction(1500)) is None


@pytest.mark.parametrize(
    "edits",
    [
        [Edit(100, 500), Edit(100, 0)],  # jumps back
        [Edit(100, 0), Edit(100, 50)],  # shows something twice
        [Edit(100, 0, 0x8000)],  # slow motion
        [Edit(100, EMPTY)],  # shows nothing at all
        [Edit(0, 0), Edit(100, 50)],  # a still picture
        [Edit(100, -7)],
    ],
)
def test_a_film_that_does_not_run_straight_has_no_spans(edits: list[Edit]) -> None:
    """Such a film cannot be cut by media order."""
    assert spans_of(edits, 1000, 1000) is None


def test_an_edit_of_length_zero_at_the_end_shows_all_there_is() -> None:
    """8.6.6.1; fragmented files are written so."""
    spans = spans_of([Edit(0, 40)], 1000, 1000)
    assert spans is not None
    assert spans[0].media_end is None
    assert film_time(spans, 10**9) == 10**9 - 40


def test_cut_spans_keep_the_film_time() -> None:
    """The part of the media that a segment holds is shown when it was shown in the whole."""
    spans = spans_of([Edit(100, 0), Edit(100, 300)], 1000, 1000)
    assert spans is not None
    middle = cut_spans(spans, 50, 350)
    assert [span.film_start for span in middle] == [50, 100]
    assert [span.media_start for span in middle] == [50, 300]
    assert [span.media_end for span in middle] == [100, 350]
    edits = edits_of(
        middle, film_origin=Fraction(20), media_origin=50, media_end=400, track_timescale=1000, movie_timescale=1000
    )
    assert edits == (Edit(30, EMPTY), Edit(50, 0), Edit(50, 250))


def test_the_movie_timescale_holds_every_tick() -> None:
    """The least common multiple, as long as 32 bits hold it; the first tracks matter most."""
    assert exact_movie_timescale([30000, 44100]) == 4410000
    assert exact_movie_timescale([90000, 4294967291, 48000]) == 720000
