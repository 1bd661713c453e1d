"""Random movies: reordered frames, open and closed GOPs, variable frame rate, delayed and trimmed audio."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from hypothesis import strategies as st
from media_worker.mp4.edit_list import EMPTY, Edit

from tests.unit.mp4.movies import TrackSpec

type Draw = Any


@st.composite
def videos(draw: Draw) -> TrackSpec:
    """GOPs with random presentation orders. Some are open: they have leading samples."""
    order: list[int] = []
    sync: list[int] = []
    for _ in range(draw(st.integers(1, 6))):
        length = draw(st.integers(1, 6))
        gop = draw(st.permutations(range(length)))
        if draw(st.booleans()):  # closed: the sync sample is presented first
            gop = [0, *(rank for rank in gop if rank != 0)]
        sync.append(len(order))
        order.extend(sync[-1] + rank for rank in gop)
    durations = draw(st.lists(st.integers(1, 50), min_size=len(order), max_size=len(order)))
    lengths = draw(st.lists(st.integers(1, 50), min_size=len(order), max_size=len(order)))
    presented_at = list(accumulate(lengths, initial=draw(st.integers(0, 100))))
    decoded_at = list(accumulate(durations, initial=0))
    offsets = [presented_at[rank] - time for rank, time in zip(order, decoded_at, strict=False)]
    start = presented_at[0]
    edits = draw(st.sampled_from([(), (Edit(sum(lengths), start),), (Edit(70, EMPTY), Edit(sum(lengths), start))]))
    return TrackSpec(durations, offsets=offsets, sync=sync, edits=edits, per_chunk=draw(st.integers(1, 7)))


@st.composite
def audios(draw: Draw) -> TrackSpec:
    """Packets of 1024 samples at 48 kHz: with encoder delay, delayed by an empty edit, or neither."""
    count = draw(st.integers(0, 60))
    length = count * 1024 // 48
    edits = draw(st.sampled_from([(), (Edit(length, 1024),), (Edit(33, EMPTY), Edit(length, 0))]))
    durations = [1024] * count
    return TrackSpec(durations, b"soun", 48000, edits=edits if count else (), per_chunk=draw(st.integers(1, 9)))


@st.composite
def texts(draw: Draw) -> TrackSpec:
    """Few, long samples. Some are empty."""
    durations = draw(st.lists(st.integers(1, 400), max_size=5))
    sizes = [number % 2 * 9 for number in range(len(durations))]
    return TrackSpec(durations, b"text", 90, sizes=sizes, per_chunk=1)


MOVIES = st.tuples(videos(), audios(), texts())
