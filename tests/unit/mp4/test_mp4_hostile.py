"""Damaged files raise the errors of the package, within limits of time and memory."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_worker.mp4 import Mp4Error, lay_out, plan_join, plan_split
from media_worker.mp4.edit_list import EMPTY, Edit

from tests.unit.mp4.fragmented_movies import make_fragmented
from tests.unit.mp4.movies import TrackSpec, assemble, load, make_movie

SPECS = (
    TrackSpec([40] * 30, offsets=[40, 80, 0] * 10, sync=range(0, 30, 3), edits=(Edit(1200, 40),)),
    TrackSpec([1024] * 40, b"soun", 48000, edits=(Edit(20, EMPTY), Edit(800, 1024))),
    TrackSpec([1] * 300, b"soun", 8000, sizes=[4] * 300, per_chunk=50),
)
PLAIN = make_movie(SPECS)
FRAGMENTED = make_fragmented(SPECS[:2], fragments=5)
MOVIES = {"plain": PLAIN, "fragmented": FRAGMENTED}
NUMBERS = [0, 1, 2, 7, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF]


def use(data: bytes) -> None:
    """Everything that is done with a file: read, split, assemble, join."""
    with contextlib.suppress(Mp4Error):
        movie = load(data)
        plan = plan_split(movie, Fraction(1, 5))
        segments = []
        for index in range(min(plan.total_segments, 4)):
            layout = lay_out(movie, plan, index)
            segments.append(load(assemble(layout, data)))
        plan_join([movie, movie])
        plan_join(segments)


def index_end(data: bytes) -> int:
    return data.index(b"mdat") + 4


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(MOVIES)), st.data())
def test_a_changed_index_never_crashes(name: str, data: st.DataObject) -> None:
    """Any bytes of the index may have any value."""
    movie = MOVIES[name]
    mutated = bytearray(movie)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(8, index_end(movie)))
        if data.draw(st.booleans()):
            mutated[at] = data.draw(st.integers(0, 255))
        else:
            mutated[at : at + 4] = struct.pack(">I", data.draw(st.sampled_from(NUMBERS)))
    use(bytes(mutated))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(MOVIES)), st.integers(0, 3000), st.integers(0, 200))
def test_a_file_with_missing_bytes_never_crashes(name: str, at: int, length: int) -> None:
    """It ends early, or bytes in the middle are missing."""
    movie = MOVIES[name]
    use(movie[:at])
    use(movie[:at] + movie[at + length :])


@pytest.mark.parametrize("kind", [b"stts", b"ctts", b"stss", b"stsc", b"stsz", b"stco", b"elst", b"stsd", b"dref"])
@pytest.mark.parametrize("number", [0, 2, 0x7FFFFFFF, 0xFFFFFFFF])
def test_numbers_in_sample_tables_are_not_trusted(kind: bytes, number: int) -> None:
    """Counts and first entries may have any value: time and memory stay limited."""
    for shift in (4, 8, 16):
        start = 0
        while (at := PLAIN.find(kind, start)) >= 0:
            mutated = bytearray(PLAIN)
            mutated[at + 4 + shift : at + 8 + shift] = struct.pack(">I", number)
            _check_bounded(bytes(mutated))
            start = at + 1


@pytest.mark.parametrize("kind", [b"trun", b"tfhd", b"tfdt", b"trex", b"traf", b"moof"])
@pytest.mark.parametrize("number", [0, 2, 0x7FFFFFFF, 0xFFFFFFFF])
def test_numbers_in_fragments_are_not_trusted(kind: bytes, number: int) -> None:
    """The same holds for the boxes of fragments."""
    for shift in (4, 8, 12):
        mutated = bytearray(FRAGMENTED)
        at = FRAGMENTED.find(kind)
        mutated[at + 4 + shift : at + 8 + shift] = struct.pack(">I", number)
        _check_bounded(bytes(mutated))


def _check_bounded(data: bytes) -> None:
    """The timeout of pytest ends a loop that does not."""
    tracemalloc.start()
    use(data)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 64 << 20
