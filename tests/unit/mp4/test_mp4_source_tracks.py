"""The video of segments with the source's other tracks: what is in the file, where, and in which order."""

from __future__ import annotations

import struct
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import TYPE_CHECKING

from media_worker.byte_ranges import ByteRange, coalesced
from media_worker.mp4 import SourceTracks, lay_out, only_video, plan_source_join, plan_split, read_movie
from media_worker.mp4.boxes import Box, references
from media_worker.mp4.edit_list import Edit, rescaled

from tests.unit.mp4.movies import TrackSpec, make_movie

if TYPE_CHECKING:
    from collections.abc import Sequence

    from media_worker.mp4 import Layout, Movie, Track

SECONDS = 20
VIDEO = TrackSpec([40] * (25 * SECONDS), sync=range(0, 25 * SECONDS, 25), sizes=[300] * (25 * SECONDS))
AUDIO = TrackSpec([1024] * 940, b"soun", timescale=48000, edits=(Edit(20_000, 1024),))
GPMD = TrackSpec([1000] * SECONDS, b"meta", entry=Box(b"gpmd", bytes(6) + struct.pack(">H", 1)), per_chunk=1)


def read(body: bytes) -> Movie:
    return read_movie(lambda offset, length: body[offset : offset + length], len(body))


def write(layout: Layout, sources: Sequence[bytes]) -> bytes:
    return layout.header + b"".join(sources[each.source][each.offset : each.end] for each in layout.ranges)


def samples(movie: Movie, body: bytes, number: int) -> list[bytes]:
    table = movie.tracks[number].table
    found = []
    for chunk, offset in enumerate(table.chunks.offsets):
        first, end = table.chunks.starts[chunk : chunk + 2]
        base = table.sizes.between(0, first)
        found += [
            body[offset + table.sizes.between(0, n) - base : offset + table.sizes.between(0, n + 1) - base]
            for n in range(first, end)
        ]
    return found


def without_header(box: Box) -> Box:
    """A `trak` without the duration in its header: that is in ticks of the movie."""
    return box.with_children(tuple(child for child in box.children or () if child.kind != b"tkhd"))


def joined(block_s: Fraction = Fraction(60)) -> tuple[bytes, bytes, Layout]:
    """The source, the final, and its layout. The segments have video only, and their worker dropped the provenance."""
    source = make_movie([VIDEO, AUDIO, GPMD])
    movie = read(source)
    split = plan_split(movie, Fraction(5))
    segments = []
    for index in range(split.total_segments):
        segment = write(lay_out(only_video(movie), split.only_main(), index), [source])
        segments.append(segment.replace(b"uuid", b"free"))
    layout = plan_source_join([read(each) for each in segments], SourceTracks.of_source(movie), split.starts_s, block_s)
    return source, write(layout, [*segments, source]), layout


def test_every_sample_is_the_sources() -> None:
    """Video from the segments; audio and metadata from the source, with times and edit lists."""
    source, final, _ = joined()
    before, after = read(source), read(final)
    for number in range(3):
        assert samples(after, final, number) == samples(before, source, number)
    for number in (1, 2):
        one, other = before.tracks[number], after.tracks[number]
        assert without_header(other.box) == without_header(one.box)
        assert other.box.need(b"tkhd").payload[:20] == one.box.need(b"tkhd").payload[:20]  # flags, times and track id
        assert other.box.need(b"tkhd").payload[24:] == one.box.need(b"tkhd").payload[24:]  # behind the duration
        assert other.table.durations == one.table.durations
        assert rescaled(one.edits, before.timescale, after.timescale) == other.edits
        assert other.presented_ranges(after.timescale) == one.presented_ranges(before.timescale)


def test_only_samples_of_the_other_tracks_are_read_from_the_source() -> None:
    """The source's video stays where it is, although it is between the chunks of audio."""
    source, _, layout = joined()
    movie = read(source)
    wanted = sum(track.table.sizes.between(0, track.table.count) for track in movie.tracks[1:])
    assert sum(each.length for each in layout.ranges if each.source == 4) == wanted


def test_audio_and_video_of_a_block_are_neighbours() -> None:
    """Media of the same two seconds is in the same block of the file."""
    _, final, _ = joined(Fraction(2))
    movie = read(final)
    video, audio = movie.tracks[0], movie.tracks[1]
    block_bytes = len(final) * 2 // SECONDS
    for second in range(SECONDS):
        at = [
            track.table.chunks.slice(track.table.sizes, first := second * rate, first + 1).offsets[0]
            for track, rate in ((video, 25), (audio, 47))
        ]
        assert abs(at[0] - at[1]) <= block_bytes * 1.2


def test_references_between_tracks_stay() -> None:
    """The video keeps the source's track id and references, whatever the segment's video says."""
    chap = Box(b"tref", Box(b"chap", struct.pack(">I", 3)).to_bytes())
    wrong = Box(b"tref", Box(b"tmcd", struct.pack(">I", 9)).to_bytes())
    source, segment = read(make_movie([AUDIO, VIDEO, GPMD])), read(make_movie([VIDEO]))
    audio, video, other = source.tracks
    source = replace(source, tracks=(audio, with_reference(video, chap), other))
    segment = replace(segment, tracks=(with_reference(segment.tracks[0], wrong),))
    layout = plan_source_join([segment], SourceTracks.of_source(source), [Fraction(0)])
    final = read(layout.header + bytes(layout.media_bytes))
    assert [track.track_id for track in final.tracks] == [1, 2, 3]
    assert [track.handler for track in final.tracks] == [b"soun", b"vide", b"meta"]
    assert references(final.tracks[1].box, b"chap") == (3,)
    assert references(final.tracks[1].box, b"tmcd") == ()


def with_reference(track: Track, tref: Box) -> Track:
    return replace(track, box=track.box.with_children((*(track.box.children or ()), tref)))


def test_neighbouring_ranges_are_read_together() -> None:
    """7,200 chunks of audio between chunks of video of 20 KB take few requests; far ones take one each."""
    near = [ByteRange(0, number * 30_000, 10_000) for number in range(7200)]
    reads = coalesced(near)
    assert len(reads) <= 110
    assert all(any(read.offset <= each.offset and each.end <= read.end for read in reads) for each in near[::100])
    assert max(read.length for read in reads) <= 2 * 1024 * 1024
    assert all(one.end <= other.offset for one, other in pairwise(reads))
    far = [ByteRange(0, number * 100_000, 10_000) for number in range(100)]
    assert coalesced(reversed(far)) == far


def test_ranges_of_other_sources_are_not_read_together() -> None:
    """Each request reads one object."""
    ranges = [ByteRange(1, 0, 10), ByteRange(0, 10, 10), ByteRange(0, 0, 10)]
    assert coalesced(ranges) == [ByteRange(0, 0, 20), ByteRange(1, 0, 10)]
