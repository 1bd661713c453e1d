"""Runs behave like the list of integers that they encode."""

from __future__ import annotations

from array import array
from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st
from media_worker.mp4.samples import Runs, Timeline

VALUES = st.lists(st.integers(-3, 3), max_size=30)
DURATIONS = st.lists(st.integers(0, 4), min_size=1, max_size=30)


@given(VALUES)
def test_runs_expand_to_the_values_encoded(values: list[int]) -> None:
    """Iteration and indexing return the values that `from_values` got."""
    runs = Runs.from_values(values)
    assert list(runs) == values == [runs[index] for index in range(len(runs))]
    assert runs.total() == sum(values)


@given(VALUES, st.integers(0, 30), st.integers(0, 30))
def test_a_slice_is_the_slice_of_the_list(values: list[int], first: int, end: int) -> None:
    """Slicing runs is slicing the list."""
    end = min(end, len(values))
    assert list(Runs.from_values(values).slice(first, end)) == values[first:end]


@given(st.lists(VALUES, max_size=5))
def test_concatenated_runs_are_the_concatenated_lists(lists: list[list[int]]) -> None:
    """Equal values where two lists meet become one run."""
    joined = Runs.concat(map(Runs.from_values, lists))
    assert list(joined) == [value for values in lists for value in values]
    assert joined == Runs.from_values(joined)


@given(VALUES, st.integers(0, 40))
def test_resizing_truncates_or_extends(values: list[int], length: int) -> None:
    """A list that is too short is extended with the filler."""
    assert list(Runs.from_values(values).resized(length, 7)) == (values + [7] * 40)[:length]


def test_empty_runs_are_dropped() -> None:
    """Some files have runs with a count of 0."""
    assert Runs.of([0, 2, 0], [1, 5, 9]) == Runs.constant(2, 5)


def test_a_billion_samples_take_no_memory() -> None:
    """PCM tracks have a sample per tick, and their runs are never expanded."""
    timeline = Timeline.of(Runs.constant(10**9, 1).slice(5, 10**9))
    assert timeline.time_of(10**8) == 10**8
    assert timeline.first_at(10**8) == 10**8


@given(DURATIONS, st.integers(0, 130))
def test_the_first_sample_at_a_time_is_found(durations: list[int], time: int) -> None:
    """`first_at` is the first sample that starts at or after the time."""
    starts = list(accumulate(durations, initial=0))
    timeline = Timeline.of(Runs.from_values(durations))
    found = timeline.first_at(time)
    expected = next((number for number, start in enumerate(starts[:-1]) if start >= time), len(durations))
    assert found == expected
    assert timeline.all_times() == array("q", starts[:-1])
    assert [timeline.time_of(number) for number in range(len(starts))] == starts
