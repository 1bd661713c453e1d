"""The frame contract: what processed segments and the final must hold."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_worker.errors import BadFinal, BadSegment
from media_worker.mp4 import Presented
from media_worker.verification import Expected, check_segments

from tests.unit.test_durable_plan import plan_of

FRAME_S = Fraction(1, 25)


def presented(*frames: int, frame_s: Fraction = FRAME_S) -> list[Presented]:
    return [Presented(count, Fraction(0), count * frame_s, frame_s, frame_s) for count in frames]


def test_the_planned_frames_are_accepted() -> None:
    """Same frames, same durations: the multiple is 1."""
    assert check_segments(plan_of(100, 100, 7), presented(100, 100, 7)) == 1


@given(st.integers(1, 8), st.lists(st.integers(1, 500), min_size=1, max_size=6))
def test_the_same_whole_multiple_in_all_segments_is_accepted(multiple: int, frames: list[int]) -> None:
    """Frame interpolation doubles or quadruples the frames of every segment."""
    found = presented(*(count * multiple for count in frames), frame_s=FRAME_S / multiple)
    assert check_segments(plan_of(*frames), found) in range(1, multiple + 1)


@given(st.integers(0, 4), st.sampled_from([-1, 1]))
def test_one_frame_less_or_more_is_found(index: int, difference: int) -> None:
    """Each single frame counts, in each segment."""
    frames = [50] * 5
    frames[index] += difference
    with pytest.raises(BadSegment, match=f"segment {index} has {frames[index]} frames, 50 expected"):
        check_segments(plan_of(*[50] * 5), presented(*frames))


def test_large_numbers_are_readable() -> None:
    """Thousands are grouped in the error."""
    with pytest.raises(BadSegment, match="segment 1 has 8,999 frames, 9,000 expected"):
        check_segments(plan_of(9000, 9000), presented(9000, 8999))


def test_a_segment_with_another_multiple_is_found() -> None:
    """One worker doubled the rate, the others did not."""
    with pytest.raises(BadSegment, match="segment 2 has 100 frames, 50 expected"):
        check_segments(plan_of(50, 50, 50), presented(50, 50, 100))


def test_all_wrong_segments_are_listed_up_to_ten() -> None:
    """The error names the first ten and counts the rest."""
    with pytest.raises(BadSegment) as caught:
        check_segments(plan_of(*[50] * 20), presented(*[50] * 8, *[49] * 12))
    assert str(caught.value).count("49 frames, 50 expected") == 10
    assert "and 2 more segments" in str(caught.value)
    assert "segment 8 " in str(caught.value)


@pytest.mark.parametrize(("extra_s", "accepted"), [("1/25", True), ("-1/25", True), ("2/25", False), ("-2/25", False)])
def test_durations_agree_within_one_frame(extra_s: str, accepted: bool) -> None:
    """Audio beside the video would drift otherwise."""
    found = [Presented(50, Fraction(0), 2 + Fraction(extra_s), FRAME_S, FRAME_S)]
    if accepted:
        assert check_segments(plan_of(50), found) == 1
    else:
        with pytest.raises(BadSegment, match=r"segment 0 lasts .* s, 2\.000 s expected"):
            check_segments(plan_of(50), found)


def test_what_a_final_must_hold_survives_storing() -> None:
    """The metadata of the final reads back as it was written."""
    expected = Expected(300, Fraction(12), FRAME_S, ("vide/avc1", "soun/mp4a"))
    assert Expected.parse(expected.to_json()) == expected


def test_metadata_of_many_tracks_fits() -> None:
    """S3 allows 2 KB: a movie with very many tracks is checked without their list."""
    expected = Expected(300, Fraction(12), FRAME_S, ("soun/mp4a",) * 250)
    assert len(expected.to_json()) < 2_000
    assert Expected.parse(expected.to_json()).tracks == ()


@pytest.mark.parametrize("stored", [None, "", "{}", "[]", '{"version": 2}', '{"version": 1, "frames": "x"}'])
def test_metadata_that_does_not_say_what_the_final_must_hold_is_an_error(stored: str | None) -> None:
    """A final that cannot be verified is never delivered."""
    with pytest.raises(BadFinal, match="metadata"):
        Expected.parse(stored)


def test_a_segment_with_its_context_is_refused_with_advice() -> None:
    """A worker that returned the context frames too is told to drop them, also if it doubled the rate."""
    plain = plan_of(300, 300)
    plan = replace(plain, segments=(replace(plain.segments[0], context_after=17), plain.segments[1]))
    with pytest.raises(BadSegment, match="segment 0 has 317 frames, 300 expected, 17 of them context: drop them"):
        check_segments(plan, presented(317, 300))
    doubled = presented(634, 600, frame_s=FRAME_S / 2)
    with pytest.raises(BadSegment, match="segment 0 has 634 frames, 600 expected, 34 of them context: drop them"):
        check_segments(plan, doubled)


def test_as_many_context_frames_as_own_ones_are_not_a_doubled_rate() -> None:
    """The duration tells: 20 frames in the time of 10 are interpolated, 20 in the time of 20 have their context."""
    plain = plan_of(10, 10)
    plan = replace(plain, segments=(replace(plain.segments[0], context_after=10), plain.segments[1]))
    assert check_segments(plan, presented(20, 20, frame_s=FRAME_S / 2)) == 2
    with pytest.raises(BadSegment, match="segment 0 has 20 frames, 10 expected, 10 of them context: drop them"):
        check_segments(plan, presented(20, 10))
