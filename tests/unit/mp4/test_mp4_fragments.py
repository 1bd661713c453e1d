"""Fragmented films are read as if they had one table."""

from __future__ import annotations

import struct
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_worker.mp4 import Unsupported, lay_out, plan_split, read_movie
from media_worker.mp4.edits import EMPTY, Edit

from tests.unit.mp4.films import TrackSpec, join_bytes, load, make_film, put_together, samples_of
from tests.unit.mp4.fragmented_films import make_fragmented
from tests.unit.mp4.strategies import FILMS

VIDEO = TrackSpec([40] * 30, offsets=[40, 80, 0] * 10, sync=range(0, 30, 3))
SOUND = TrackSpec([1024] * 50, b"soun", 48000)


@settings(max_examples=60, deadline=None)
@given(FILMS, st.integers(1, 6))
def test_fragments_say_the_same_as_one_table(specs: tuple[TrackSpec, ...], fragments: int) -> None:
    """Same samples, times and sync marks as in a file without fragments."""
    whole = make_film([TrackSpec(**{**vars(spec), "edits": ()}) for spec in specs])
    parts = make_fragmented([TrackSpec(**{**vars(spec), "edits": ()}) for spec in specs], fragments)
    if min(specs[0].offsets or [0]) < 0:
        with pytest.raises(Unsupported, match="negative"):
            load(parts)
        return
    for old, new in zip(load(whole).tracks, load(parts).tracks, strict=True):
        assert samples_of(parts, new) == samples_of(whole, old)
        assert new.edits == ()


def test_a_film_that_starts_late_gets_an_empty_edit() -> None:
    """Media times begin at 0 in a whole file; the delay moves to the edit list, exactly."""
    movie = load(make_fragmented([VIDEO, SOUND], 4, start_times=[5000, 240_001]))
    assert movie.timescale == 48000
    assert movie.tracks[0].edits[0] == Edit(5 * 48000, EMPTY)
    assert movie.tracks[1].edits[0] == Edit(240_001, EMPTY)


def test_segments_of_a_fragmented_film_join_to_all_its_samples() -> None:
    """Cut and joined without fragments."""
    film = make_fragmented([VIDEO, SOUND], 4)
    movie = load(film)
    plan = plan_split(movie, Fraction(1, 3))
    assert plan.total_segments > 2
    segments = [put_together(lay_out(movie, plan, index), film) for index in range(plan.total_segments)]
    joined = join_bytes(segments)
    for old, new in zip(movie.tracks, load(joined).tracks, strict=True):
        assert samples_of(joined, new) == samples_of(film, old)


def test_each_fragment_costs_one_read() -> None:
    """Media is jumped over."""
    film = make_fragmented([TrackSpec([40] * 400, sizes=[5000] * 400)], 20)
    reads = []

    def read(offset: int, length: int) -> bytes:
        reads.append(length)
        return film[offset : offset + length]

    assert read_movie(read, len(film)).tracks[0].table.count == 400
    assert len(reads) <= 22
    assert sum(reads) < 20 * 4096 + 2 * 65536


def test_overlapping_fragments_are_left_to_another_engine() -> None:
    """Times that go back cannot be written in one table."""
    film = bytearray(make_fragmented([VIDEO], 3))
    at = film.index(b"tfdt", film.index(b"tfdt") + 1) + 8
    film[at : at + 8] = struct.pack(">Q", 1)
    with pytest.raises(Unsupported, match="overlap"):
        load(bytes(film))
