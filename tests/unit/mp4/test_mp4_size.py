"""Long and large movies: the memory that the index takes, and offsets above 32 bits."""

from __future__ import annotations

import tracemalloc
from array import array
from fractions import Fraction

import pytest
from media_worker.mp4 import Movie, lay_out, plan_join, plan_split, read_movie
from media_worker.mp4.samples import Runs, SampleTable, Sizes

from tests.unit.mp4.movies import chunked, header_of, long_movie

HOUR_S = 3600
GB = 1 << 30


def read_header(header: bytes, size_bytes: int) -> Movie:
    return read_movie(lambda offset, length: header[offset : offset + length], size_bytes)


def test_the_index_of_a_long_movie_takes_little_memory() -> None:
    """An hour has about 400,000 samples. `make bench-plan` measures time and memory for ten."""
    header, size_bytes = long_movie(HOUR_S)
    tracemalloc.start()
    movie = read_header(header, size_bytes)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 3 * len(header)
    assert [track.table.count for track in movie.tracks] == [HOUR_S * 60, HOUR_S * 48_000 // 1024]
    plan = plan_split(movie, Fraction(30))
    assert plan.total_segments == 120
    assert sum(segment.frames for segment in plan.segments) == HOUR_S * 60
    layout = lay_out(movie, plan, 60)
    assert len(layout.header) < 2 * len(header) // 120
    assert len(layout.ranges) == 2


def large_segment(samples: int, sample_bytes: int) -> tuple[bytes, int]:
    """A segment with a few huge samples. Returns its header, and the size that the file would have."""
    sizes = Sizes.of(array("I", [sample_bytes]) * samples)
    video = SampleTable(Runs.constant(samples, 60_000), None, sizes, None, chunked(sizes, 1, 0))
    header = header_of(video, SampleTable.empty(), samples * sample_bytes)
    return header, len(header) + samples * sample_bytes


def test_a_final_above_100_gb_has_64_bit_offsets() -> None:
    """The offsets in `co64` are where the ranges put the samples."""
    header, size_bytes = large_segment(10, 3 * GB)
    segments = [read_header(header, size_bytes) for _ in range(5)]
    layout = plan_join(segments)
    assert layout.size_bytes > 150 * GB
    assert b"co64" in layout.header
    assert b"stco" not in layout.header[: layout.header.index(b"co64")]
    final = read_header(layout.header, layout.size_bytes)
    offsets = final.tracks[0].table.chunks.offsets
    assert offsets[0] == len(layout.header)
    assert offsets[-1] + 3 * GB == layout.size_bytes
    assert sum(each.length for each in layout.ranges) == 150 * GB


@pytest.mark.parametrize(("media_bytes", "kind"), [((1 << 32) - 5000, b"stco"), ((1 << 32) - 10, b"co64")])
def test_offsets_have_32_bits_if_they_fit(media_bytes: int, kind: bytes) -> None:
    """The size of the header counts, because the media follows it."""
    header, _ = large_segment(1, media_bytes)
    assert kind in header


def test_a_segment_of_a_huge_source_has_32_bit_offsets() -> None:
    """The offsets of a segment count from its own start."""
    header, size_bytes = large_segment(40, GB)
    movie = read_header(header, size_bytes)
    plan = plan_split(movie, Fraction(1))
    layout = lay_out(movie, plan, 39)
    assert plan.total_segments == 40
    assert b"stco" in layout.header
    assert layout.ranges[0].offset > 38 * GB
