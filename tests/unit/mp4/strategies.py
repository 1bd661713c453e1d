"""Random films: reordered pictures, open and closed groups, uneven durations, late and trimmed sound."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from hypothesis import strategies as st
from media_worker.mp4.edits import EMPTY, Edit

from tests.unit.mp4.films import TrackSpec

type Draw = Any


@st.composite
def videos(draw: Draw) -> TrackSpec:
    """Groups of pictures with random display orders; some of them open (pictures shown before their sync sample)."""
    order: list[int] = []
    sync: list[int] = []
    for _ in range(draw(st.integers(1, 6))):
        length = draw(st.integers(1, 6))
        shown = draw(st.permutations(range(length)))
        if draw(st.booleans()):  # closed: the sync sample is shown first
            shown = [0, *(place for place in shown if place != 0)]
        sync.append(len(order))
        order.extend(len(order) + place - len(order) + sync[-1] for place in shown)
    durations = draw(st.lists(st.integers(1, 50), min_size=len(order), max_size=len(order)))
    lengths = draw(st.lists(st.integers(1, 50), min_size=len(order), max_size=len(order)))
    shown_at = list(accumulate(lengths, initial=draw(st.integers(0, 100))))
    decoded_at = list(accumulate(durations, initial=0))
    offsets = [shown_at[place] - time for place, time in zip(order, decoded_at, strict=False)]
    start = shown_at[0]
    edits = draw(st.sampled_from([(), (Edit(sum(lengths), start),), (Edit(70, EMPTY), Edit(sum(lengths), start))]))
    return TrackSpec(durations, offsets=offsets, sync=sync, edits=edits, per_chunk=draw(st.integers(1, 7)))


@st.composite
def sounds(draw: Draw) -> TrackSpec:
    """Packets of 1024 at 48 kHz, perhaps with encoder delay, perhaps late, perhaps none."""
    count = draw(st.integers(0, 60))
    length = count * 1024 // 48
    edits = draw(st.sampled_from([(), (Edit(length, 1024),), (Edit(33, EMPTY), Edit(length, 0))]))
    durations = [1024] * count
    return TrackSpec(durations, b"soun", 48000, edits=edits if count else (), per_chunk=draw(st.integers(1, 9)))


@st.composite
def texts(draw: Draw) -> TrackSpec:
    """Few, long samples; some without bytes."""
    durations = draw(st.lists(st.integers(1, 400), max_size=5))
    sizes = [number % 2 * 9 for number in range(len(durations))]
    return TrackSpec(durations, b"text", 90, sizes=sizes, per_chunk=1)


FILMS = st.tuples(videos(), sounds(), texts())
