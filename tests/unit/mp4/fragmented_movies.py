"""The small movies of `movies`, but in fragments."""

from __future__ import annotations

import struct
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

from media_worker.mp4.boxes import Box, full_box, mdat_header

from tests.unit.mp4.movies import TrackSpec, make_movie, sample_data

if TYPE_CHECKING:
    from collections.abc import Sequence

NON_SYNC = 0x01010000


def make_fragmented(specs: Sequence[TrackSpec], fragments: int, start_times: Sequence[int] = ()) -> bytes:
    """A `moov` without samples, followed by `fragments` pairs of `moof` and `mdat`."""
    empty = [replace(spec, durations=[], offsets=None, sync=None, sizes=[]) for spec in specs]
    bare = make_movie(empty)
    trex = [Box(b"trex", full_box(0) + struct.pack(">5I", number + 1, 1, 0, 0, 0)) for number in range(len(specs))]
    moov = bytearray(bare[: bare.rindex(b"mdat") - 4])
    mvex = Box(b"mvex", children=tuple(trex)).to_bytes()
    at = moov.index(b"moov") - 4
    moov[at : at + 4] = struct.pack(">I", len(moov) - at + len(mvex))
    movie = bytes(moov) + mvex
    starts = list(start_times) or [0] * len(specs)
    for number in range(fragments):
        movie += _fragment(specs, number, fragments, starts)
    return movie


def _fragment(specs: Sequence[TrackSpec], number: int, fragments: int, starts: Sequence[int]) -> bytes:
    def moof(data_offset: int) -> tuple[bytes, bytes]:
        trafs, media = [], b""
        for track, spec in enumerate(specs):
            count = len(spec.durations)
            part = range(count * number // fragments, count * (number + 1) // fragments)
            trafs.append(_traf(track, spec, part, starts[track], data_offset + len(media)))
            sizes = spec.sample_sizes
            media += b"".join(sample_data(track, sample, sizes[sample]) for sample in part)
        mfhd = Box(b"mfhd", full_box(0) + struct.pack(">I", number + 1))
        return Box(b"moof", children=(mfhd, *trafs)).to_bytes(), media

    length = len(moof(0)[0])
    head, media = moof(length + 8)
    return head + mdat_header(len(media)) + media


def _traf(track: int, spec: TrackSpec, part: range, start_time: int, data_offset: int) -> Box:
    times = list(accumulate(spec.durations, initial=start_time))
    sync = set(part if spec.sync is None else spec.sync)
    rows = b"".join(
        struct.pack(
            ">IIIi",
            spec.durations[sample],
            spec.sample_sizes[sample],
            0 if sample in sync else NON_SYNC,
            spec.offsets[sample] if spec.offsets else 0,
        )
        for sample in part
    )
    tfhd = Box(b"tfhd", full_box(0, 0x20000) + struct.pack(">I", track + 1))
    tfdt = Box(b"tfdt", full_box(1) + struct.pack(">Q", times[part.start]))
    trun = Box(b"trun", full_box(1, 0xF01) + struct.pack(">Ii", len(part), data_offset) + rows)
    return Box(b"traf", children=(tfhd, tfdt, trun))
