"""Small movies for the tests, made without an encoder. Every sample has content of its own."""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass, field
from itertools import accumulate, cycle, islice
from typing import TYPE_CHECKING

from media_worker.mp4 import Layout, Movie, Track, plan_join, read_movie
from media_worker.mp4.boxes import Box, full_box
from media_worker.mp4.provenance import PROVENANCE_UUID
from media_worker.mp4.samples import Chunks, Runs, SampleTable, Sizes
from media_worker.mp4.writer import build_header

if TYPE_CHECKING:
    from collections.abc import Sequence

    from media_worker.mp4.edit_list import Edit

MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
FTYP = b"isom\0\0\2\0isomiso2mp41"


@dataclass(frozen=True)
class TrackSpec:
    """A track to be made. The lists must have the same length."""

    durations: Sequence[int]
    handler: bytes = b"vide"
    timescale: int = 1000
    offsets: Sequence[int] | None = None
    sync: Sequence[int] | None = None
    edits: Sequence[Edit] = ()
    per_chunk: int = 3
    entry: Box | None = None
    sizes: Sequence[int] = field(default=())

    @property
    def sample_sizes(self) -> list[int]:
        return list(self.sizes) or [12 + number % 5 for number in range(len(self.durations))]


@dataclass(frozen=True)
class Sample:
    """A sample as a reader finds it: decode and composition time in ticks, and its bytes."""

    decode_time: int
    composition_time: int
    is_sync: bool
    data: bytes


def video_entry(kind: bytes = b"avc1", width: int = 64, config: bytes = b"x") -> Box:
    head = bytes(6) + struct.pack(">H", 1) + bytes(16) + struct.pack(">HH", width, 48) + bytes(50)
    return Box(kind, head + Box(b"avcC", config).to_bytes())


def audio_entry(kind: bytes = b"mp4a", rate: int = 48000, extra: bytes = b"") -> Box:
    head = bytes(6) + struct.pack(">H", 1) + bytes(8) + struct.pack(">HHII", 2, 16, 0, rate << 16)
    return Box(kind, head + extra)


def trak_box(number: int, spec: TrackSpec, entry: Box) -> Box:
    tkhd = full_box(0, 7) + struct.pack(">IIIII", 0, 0, number, 0, 0) + bytes(16) + MATRIX + struct.pack(">II", 64, 48)
    mdhd = full_box(0) + struct.pack(">IIIII", 0, 0, spec.timescale, 0, 0x55C40000)
    hdlr = full_box(0) + bytes(4) + spec.handler + bytes(12) + b"maker\0"
    dref = full_box(0) + struct.pack(">I", 1) + Box(b"url ", full_box(0, 1)).to_bytes()
    stsd = full_box(0) + struct.pack(">I", 1) + entry.to_bytes()
    stbl = Box(b"stbl", children=(Box(b"stsd", stsd),))
    dinf = Box(b"dinf", Box(b"dref", dref).to_bytes())
    minf = Box(b"minf", children=(Box(b"vmhd", full_box(0, 1) + bytes(8)), dinf, stbl))
    mdia = Box(b"mdia", children=(Box(b"mdhd", mdhd), Box(b"hdlr", hdlr), minf))
    return Box(b"trak", children=(Box(b"tkhd", tkhd), mdia))


def moov_box(traks: Sequence[Box], timescale: int) -> Box:
    mvhd = full_box(0) + struct.pack(">IIII", 0, 0, timescale, 0) + bytes(76) + struct.pack(">I", 99)
    return Box(b"moov", children=(Box(b"mvhd", mvhd), *traks, Box(b"udta", b"keep me")))


def sample_data(track: int, number: int, size: int) -> bytes:
    return (b"%d:%d;" % (track, number) * (size // 3 + 1))[:size]


def _table(spec: TrackSpec, chunk_offsets: Sequence[int]) -> SampleTable:
    count = len(spec.durations)
    counts = array("I", (min(spec.per_chunk, count - first) for first in range(0, count, spec.per_chunk)))
    sizes = spec.sample_sizes
    # PCM samples (one tick each) have a constant size, as in real files. Others have a table.
    is_pcm = set(spec.durations) == {1} and len(set(sizes)) == 1 and sizes[0] > 0
    return SampleTable(
        durations=Runs.from_values(spec.durations),
        offsets=None if spec.offsets is None else Runs.from_values(spec.offsets),
        sizes=Sizes.same(count, sizes[0]) if is_pcm else Sizes.of(array("I", sizes)),
        sync=None if spec.sync is None else array("Q", spec.sync),
        chunks=Chunks.of(array("Q", chunk_offsets), counts, Runs.constant(len(counts), 1)),
    )


def make_movie(specs: Sequence[TrackSpec], timescale: int = 1000) -> bytes:
    """A file with its tracks interleaved chunk by chunk and `moov` in front."""
    media = b""
    offsets: list[list[int]] = [[] for _ in specs]
    for round_number in range(max((len(spec.durations) for spec in specs), default=0)):
        for number, spec in enumerate(specs):
            first = round_number * spec.per_chunk
            if first >= len(spec.durations):
                continue
            offsets[number].append(len(media))
            sizes = spec.sample_sizes[first : first + spec.per_chunk]
            media += b"".join(sample_data(number, first + n, size) for n, size in enumerate(sizes))
    tracks, traks = [], []
    for number, (spec, chunk_offsets) in enumerate(zip(specs, offsets, strict=True)):
        entry = spec.entry or (audio_entry() if spec.handler == b"soun" else video_entry())
        traks.append(trak_box(number + 1, spec, entry))
        tracks.append(Track(traks[-1], spec.timescale, (entry,), tuple(spec.edits), _table(spec, chunk_offsets)))
    return build_header(Movie(FTYP, moov_box(traks, timescale), timescale, tuple(tracks)), len(media)) + media


def load(data: bytes) -> Movie:
    return read_movie(lambda offset, length: data[offset : offset + length], len(data))


def samples_of(data: bytes, track: Track) -> list[Sample]:
    """Every sample of a track, read chunk by chunk."""
    table = track.table
    times = list(accumulate(table.durations, initial=0))[: table.count]
    offsets = list(table.offsets) if table.offsets is not None else [0] * table.count
    sync = set(range(table.count)) if table.sync is None else set(table.sync)
    found = []
    for number, offset in enumerate(table.chunks.offsets):
        position = offset
        for sample in range(table.chunks.starts[number], table.chunks.starts[number + 1]):
            size = table.sizes.between(sample, sample + 1)
            content = data[position : position + size]
            found.append(Sample(times[sample], times[sample] + offsets[sample], sample in sync, content))
            position += size
    return found


def assemble(layout: Layout, *sources: bytes) -> bytes:
    """The file that a layout describes."""
    return layout.header + b"".join(sources[each.source][each.offset : each.end] for each in layout.ranges)


def join_bytes(segments: Sequence[bytes]) -> bytes:
    return assemble(plan_join([load(segment) for segment in segments]), *segments)


def without_provenance(segment: bytes) -> bytes:
    """The segment as a worker writes it that does not know the provenance box."""
    return segment.replace(b"uuid" + PROVENANCE_UUID, b"free" + PROVENANCE_UUID)


def chunked(sizes: Sizes, per_chunk: int, first_offset: int) -> Chunks:
    """Chunks of `per_chunk` samples, one after the other from an offset on."""
    counts = array("I", [per_chunk]) * (sizes.count // per_chunk)
    if rest := sizes.count % per_chunk:
        counts.append(rest)
    offsets, offset = array("Q"), first_offset
    for start in range(0, sizes.count, per_chunk):
        offsets.append(offset)
        offset += sizes.between(start, min(start + per_chunk, sizes.count))
    return Chunks.of(offsets, counts, Runs.constant(len(counts), 1))


def header_of(video: SampleTable, audio: SampleTable, media_bytes: int) -> bytes:
    """The header of a movie with two tracks, in timescales of 60,000 and 48,000 Hz."""
    specs = TrackSpec([], timescale=60_000), TrackSpec([], b"soun", 48_000)
    traks = [trak_box(1, specs[0], video_entry()), trak_box(2, specs[1], audio_entry())]
    tracks = (
        Track(traks[0], 60_000, (video_entry(),), (), video),
        Track(traks[1], 48_000, (audio_entry(),), (), audio),
    )
    return build_header(Movie(FTYP, moov_box(traks, 1000), 1000, tracks), media_bytes)


def long_movie(seconds: int, fps: int = 60, frames_per_chunk: int = 30) -> tuple[bytes, int]:
    """B-frames, a sync sample every two seconds, and AAC at 48 kHz. Returns the header, and the size that the file
    would have.
    """
    frames, packets, ticks = seconds * fps, seconds * 48_000 // 1024, 60_000 // fps
    sizes = Sizes.of(array("I", islice(cycle(range(2000, 60_000, 977)), frames)))
    audio_sizes = Sizes.of(array("I", islice(cycle(range(200, 400, 7)), packets)))
    offsets = islice(cycle([2 * ticks, 5 * ticks, 2 * ticks, 0, ticks]), frames)
    video = SampleTable(
        durations=Runs.constant(frames, ticks),
        offsets=Runs.of(array("Q", [1]) * frames, offsets),
        sizes=sizes,
        sync=array("Q", range(0, frames, 2 * fps)),
        chunks=chunked(sizes, frames_per_chunk, 0),
    )
    video_bytes = sizes.between(0, frames)
    media_bytes = video_bytes + audio_sizes.between(0, packets)
    packets_per_chunk = max(1, 23 * frames_per_chunk // 30)
    audio = SampleTable(
        Runs.constant(packets, 1024), None, audio_sizes, None, chunked(audio_sizes, packets_per_chunk, video_bytes)
    )
    header = header_of(video, audio, media_bytes)
    return header, len(header) + media_bytes
