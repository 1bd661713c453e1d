"""`describe_gaps`: how a set of segment indexes differs from the planned one."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_worker.completions import describe_gaps


@given(st.integers(0, 100).flatmap(lambda total: st.permutations(range(total))))
def test_a_complete_set_has_no_gaps(indexes: list[int]) -> None:
    """Exactly 0..total-1, in any order, is complete."""
    assert describe_gaps(indexes, len(indexes)) is None


@given(st.lists(st.integers(-3, 40), max_size=40), st.integers(0, 40))
def test_any_other_set_has_a_description(indexes: list[int], total: int) -> None:
    """Missing, unexpected and duplicate indexes are all found."""
    assert (describe_gaps(indexes, total) is None) == (sorted(indexes) == list(range(total)))


@pytest.mark.parametrize(
    ("indexes", "total", "description"),
    [
        ([0, 2], 3, "of 3 segments: missing 1"),
        ([], 3, "of 3 segments: missing 0-2"),
        ([0, 1, 2, 5, 9], 12, "of 12 segments: missing 3-4, 6-8, 10-11"),
        ([0, 1, 2], 2, "of 2 segments: unexpected 2"),
        ([0, -1], 1, "of 1 segments: unexpected -1"),
        ([0, 1, 1], 2, "of 2 segments: twice 1"),
        ([1, 1, 3], 3, "of 3 segments: missing 0, 2; unexpected 3; twice 1"),
        (
            range(0, 100, 2),
            100,
            "of 100 segments: missing 1, 3, 5, 7, 9, 11, 13, 15, 17, 19 and 40 more runs",
        ),
    ],
)
def test_the_description_is_short(indexes: Sequence[int], total: int, description: str) -> None:
    """Consecutive indexes become ranges, and a long list is truncated."""
    assert describe_gaps(indexes, total) == description
