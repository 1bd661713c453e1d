"""Long and large movies: the memory that the index takes, and offsets above 32 bits."""

from __future__ import annotations

import tracemalloc
from array import array
from fractions import Fraction
from itertools import cycle, islice

import pytest
from media_worker.mp4 import Movie, Track, lay_out, plan_join, plan_split, read_movie
from media_worker.mp4.samples import Chunks, Runs, SampleTable, Sizes
from media_worker.mp4.writer import build_header

from tests.unit.mp4.movies import FTYP, TrackSpec, audio_entry, moov_box, trak_box, video_entry

HOUR_S = 3600
GB = 1 << 30


def chunked(sizes: Sizes, per_chunk: int, first_offset: int) -> Chunks:
    counts = array("I", [per_chunk]) * (sizes.count // per_chunk)
    if rest := sizes.count % per_chunk:
        counts.append(rest)
    starts = range(0, sizes.count, per_chunk)
    offsets = array("Q", (first_offset + sizes.between(0, start) for start in starts))
    return Chunks.of(offsets, counts, Runs.constant(len(counts), 1))


def movie_header(video: SampleTable, audio: SampleTable, media_bytes: int) -> bytes:
    specs = TrackSpec([], timescale=60_000), TrackSpec([], b"soun", 48_000)
    traks = [trak_box(1, specs[0], video_entry()), trak_box(2, specs[1], audio_entry())]
    tracks = (
        Track(traks[0], 60_000, (video_entry(),), (), video),
        Track(traks[1], 48_000, (audio_entry(),), (), audio),
    )
    return build_header(Movie(FTYP, moov_box(traks, 1000), 1000, tracks), media_bytes)


def one_hour() -> tuple[bytes, int]:
    """60 fps with B-frames and AAC at 48 kHz, half a second per chunk. Returns header and file size."""
    frames, packets = HOUR_S * 60, HOUR_S * 48_000 // 1024
    sizes = Sizes.of(array("I", islice(cycle(range(2000, 60_000, 977)), frames)))
    audio_sizes = Sizes.of(array("I", islice(cycle(range(200, 400, 7)), packets)))
    video = SampleTable(
        durations=Runs.constant(frames, 1000),
        offsets=Runs.of(array("Q", [1]) * frames, islice(cycle([2000, 5000, 2000, 0, 1000]), frames)),
        sizes=sizes,
        sync=array("Q", range(0, frames, 120)),
        chunks=chunked(sizes, 30, 0),
    )
    video_bytes = sizes.between(0, frames)
    media_bytes = video_bytes + audio_sizes.between(0, packets)
    chunks = chunked(audio_sizes, 23, video_bytes)
    audio = SampleTable(Runs.constant(packets, 1024), None, audio_sizes, None, chunks)
    header = movie_header(video, audio, media_bytes)
    return header, len(header) + media_bytes


def read_header(header: bytes, size_bytes: int) -> Movie:
    return read_movie(lambda offset, length: header[offset : offset + length], size_bytes)


def test_the_index_of_a_long_movie_takes_little_memory() -> None:
    """An hour has about 400,000 samples. `make bench-plan` measures time and memory for ten."""
    header, size_bytes = one_hour()
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
    header = movie_header(video, SampleTable.empty(), samples * sample_bytes)
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
