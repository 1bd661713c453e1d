"""Fragmented files are read as if they had one sample table."""

from __future__ import annotations

import struct
from fractions import Fraction
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_worker.byte_ranges import MIN_PART_BYTES, UploadedPart, plan_parts
from media_worker.mp4 import Unsupported, lay_out, plan_split, read_movie
from media_worker.mp4.edit_list import EMPTY, Edit

from tests.unit.mp4.fragmented_movies import make_fragmented
from tests.unit.mp4.movies import TrackSpec, assemble, join_bytes, load, make_movie, samples_of
from tests.unit.mp4.strategies import MOVIES

VIDEO = TrackSpec([40] * 30, offsets=[40, 80, 0] * 10, sync=range(0, 30, 3))
AUDIO = TrackSpec([1024] * 50, b"soun", 48000)


@settings(max_examples=60, deadline=None)
@given(MOVIES, st.integers(1, 6))
def test_fragments_have_the_samples_of_one_table(specs: tuple[TrackSpec, ...], fragments: int) -> None:
    """Samples, times and sync samples are those of the same movie without fragments."""
    whole = make_movie([TrackSpec(**{**vars(spec), "edits": ()}) for spec in specs])
    parts = make_fragmented([TrackSpec(**{**vars(spec), "edits": ()}) for spec in specs], fragments)
    if min(specs[0].offsets or [0]) < 0:
        with pytest.raises(Unsupported, match="negative"):
            load(parts)
        return
    for old, new in zip(load(whole).tracks, load(parts).tracks, strict=True):
        assert samples_of(parts, new) == samples_of(whole, old)
        assert new.edits == ()


def test_a_late_start_becomes_an_empty_edit() -> None:
    """Media times begin at 0 without fragments, so the exact delay is in the edit list.

    It lasts until the first frame is presented, 40 ms after the first decode time: ffmpeg would present that frame at
    the end of the delay.
    """
    movie = load(make_fragmented([VIDEO, AUDIO], 4, start_times=[5000, 240_001]))
    assert movie.timescale == 48000
    assert movie.tracks[0].edits == (Edit(5040 * 48, EMPTY), Edit(1200 * 48, 40))
    assert movie.tracks[1].edits[0] == Edit(240_001, EMPTY)


def test_segments_of_a_fragmented_file_join_to_all_its_samples() -> None:
    """The segments and the final have no fragments."""
    source = make_fragmented([VIDEO, AUDIO], 4)
    movie = load(source)
    plan = plan_split(movie, Fraction(1, 3))
    assert plan.total_segments > 2
    segments = [assemble(lay_out(movie, plan, index), source) for index in range(plan.total_segments)]
    joined = join_bytes(segments)
    for old, new in zip(movie.tracks, load(joined).tracks, strict=True):
        assert samples_of(joined, new) == samples_of(source, old)


def test_each_fragment_costs_one_read() -> None:
    """The media between fragments is not read."""
    data = make_fragmented([TrackSpec([40] * 400, sizes=[5000] * 400)], 20)
    reads = []

    def read(offset: int, length: int) -> bytes:
        reads.append(length)
        return data[offset : offset + length]

    assert read_movie(read, len(data)).tracks[0].table.count == 400
    assert len(reads) <= 22
    assert sum(reads) < 20 * 4096 + 2 * 65536


def test_overlapping_fragments_are_unsupported() -> None:
    """Decode times that go back cannot be written in one table."""
    data = bytearray(make_fragmented([VIDEO], 3))
    at = data.index(b"tfdt", data.index(b"tfdt") + 1) + 8
    data[at : at + 8] = struct.pack(">Q", 1)
    with pytest.raises(Unsupported, match="overlap"):
        load(bytes(data))


def test_the_media_of_a_fragmented_source_is_copied_by_s3() -> None:
    """The boxes between fragments are copied with it, so that ranges are large enough for S3 to copy them."""
    source = make_fragmented([TrackSpec([40] * 400, sizes=[100_000] * 400)], 80)
    movie = load(source)
    plan = plan_split(movie, Fraction(8))
    parts = [plan_parts([layout.header, *layout.ranges]) for layout in map(partial(lay_out, movie, plan), range(2))]
    uploaded = [sum(part.length for part in each if isinstance(part, UploadedPart)) for each in parts]
    assert all(each <= MIN_PART_BYTES for each in uploaded)
    assert [len(each) for each in parts] == [2, 2]
