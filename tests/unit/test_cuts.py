"""Where ffmpeg cuts: everything covered, in order, cut at clean keyframes only."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_worker.engines import cuts
from media_worker.engines.cuts import Frame, Plan, Span, measure_span, offset_of_next, plan_cuts
from media_worker.errors import BadSource

SECOND = Fraction(1)


@dataclass(frozen=True)
class Group:
    """A group of pictures: its keyframe, pictures that lead it (they need the group before), pictures that follow."""

    leading: int
    following: int


@st.composite
def streams(draw: st.DrawFn) -> list[Frame]:
    """The frames of a stream as encoders make them, in decoding order, from any start and at any constant rate."""
    groups = draw(st.lists(st.builds(Group, leading=st.integers(0, 2), following=st.integers(0, 6)), min_size=1))
    return stream(
        groups,
        rate=draw(st.sampled_from([Fraction(25), Fraction(30000, 1001), Fraction(1)])),
        start_s=draw(st.fractions(-5, 5, max_denominator=1000)),
    )


def stream(groups: Sequence[Group], rate: Fraction = Fraction(1), start_s: Fraction = Fraction(0)) -> list[Frame]:
    """Each group's keyframe is decoded first; its leading pictures are presented before it."""
    frames: list[Frame] = []
    for group in groups:
        first = len(frames)
        shown = [first + group.leading, *range(first, first + group.leading)]
        shown += range(first + group.leading + 1, first + group.leading + 1 + group.following)
        for offset, position in enumerate(shown):
            frames.append(
                Frame(start_s + (first + offset) / rate, start_s + position / rate, 1 / rate, is_keyframe=offset == 0)
            )
    return frames


def even(*keyframes: int, total: int) -> list[Frame]:
    """A frame a second, with keyframes at these seconds."""
    return [Frame(Fraction(n), Fraction(n), SECOND, is_keyframe=n in keyframes) for n in range(total)]


durations = st.fractions(Fraction(1, 100), 20, max_denominator=1000)


@given(streams(), durations)
def test_a_plan_covers_every_frame_once_and_in_order(frames: list[Frame], duration_s: Fraction) -> None:
    """The first segment begins with the first frame, each next one later, the last one before the end."""
    made = plan_cuts(iter(frames), duration_s)
    assert made.starts[0] == 0
    assert all(start < following for start, following in pairwise((*made.starts, made.frame_count)))
    assert made.frame_count == len(frames)
    assert made.total_segments == len(made.cuts) + 1
    assert made.segment_duration_s == duration_s


@given(streams(), durations)
def test_a_cut_is_a_clean_keyframe(frames: list[Frame], duration_s: Fraction) -> None:
    """No picture after a cut is presented before it: each segment can be decoded without the one before."""
    for cut in plan_cuts(frames, duration_s).cuts:
        assert frames[cut].is_keyframe
        assert all(frame.presented_at_s >= frames[cut].presented_at_s for frame in frames[cut:])
        assert all(frame.presented_at_s < frames[cut].presented_at_s for frame in frames[:cut])


@given(streams(), durations)
def test_a_cut_is_the_first_clean_keyframe_after_a_multiple_of_the_duration(
    frames: list[Frame], duration_s: Fraction
) -> None:
    """For each k there is a cut at the first clean keyframe at or after k x duration, and nowhere else."""
    times_s = [frame.presented_at_s for frame in frames]
    clean = [
        number
        for number, frame in enumerate(frames)
        if number > 0 and frame.is_keyframe and min(times_s[number:]) == times_s[number]
    ]
    boundaries = [times_s[0] + k * duration_s for k in range(1, int((max(times_s) - times_s[0]) / duration_s) + 1)]
    expected = {next((number for number in clean if times_s[number] >= boundary), None) for boundary in boundaries} - {
        None
    }
    assert set(plan_cuts(frames, duration_s).cuts) == expected


@given(streams(), durations)
def test_the_same_source_is_always_cut_alike(frames: list[Frame], duration_s: Fraction) -> None:
    """A retry finds the same cuts, also when the stream's times are shifted as a whole."""
    shifted = [
        Frame(frame.decoded_at_s + 7, frame.presented_at_s + 7, frame.duration_s, frame.is_keyframe) for frame in frames
    ]
    assert plan_cuts(frames, duration_s) == plan_cuts(shifted, duration_s)


def test_a_cut_waits_for_the_next_keyframe() -> None:
    """At or after: a keyframe right at the boundary is taken, one just before is not."""
    assert plan_cuts(even(0, 3, 4, 7, 9, total=12), Fraction(4)).starts == (0, 4, 9)


def test_a_gap_of_several_durations_is_one_segment() -> None:
    """Two boundaries without a keyframe between them make one cut."""
    assert plan_cuts(even(0, 9, 10, 12, total=14), Fraction(4)).starts == (0, 9, 12)


@pytest.mark.parametrize("total", [1, 3, 100])
def test_one_keyframe_is_one_segment(total: int) -> None:
    """A source without a second keyframe is not cut, however long."""
    assert plan_cuts(even(0, total=total), SECOND).starts == (0,)


def test_a_source_shorter_than_a_segment_is_one_segment() -> None:
    """Keyframes alone are no reason to cut."""
    assert plan_cuts(even(0, 1, 2, total=3), Fraction(300)).starts == (0,)


def test_pictures_that_lead_a_keyframe_keep_it_from_being_a_cut() -> None:
    """An open group of pictures needs the group before; the next closed one is taken instead."""
    frames = stream([Group(0, 3), Group(2, 3), Group(0, 3)])
    assert plan_cuts(frames, Fraction(2)).starts == (0, 10)


def test_a_stream_of_open_groups_only_is_one_segment() -> None:
    """There is no clean cut in it."""
    assert plan_cuts(stream([Group(0, 3), *[Group(1, 3)] * 5]), SECOND).total_segments == 1


def test_a_keyframe_at_the_very_end_is_a_cut() -> None:
    """Nothing after it speaks against it."""
    assert plan_cuts(even(0, 5, total=6), SECOND).starts == (0, 5)


def test_a_source_without_frames_is_no_video() -> None:
    """There is nothing to plan."""
    with pytest.raises(BadSource, match="holds no video frame"):
        plan_cuts([], SECOND)


def test_more_segments_than_keys_have_digits_for_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to change."""
    monkeypatch.setattr(cuts, "MAX_SEGMENTS", 3)
    assert plan_cuts(even(0, 1, 2, total=3), SECOND).total_segments == 3
    with pytest.raises(BadSource, match="would be 4 segments, of 3 at most: cut longer ones"):
        plan_cuts(even(0, 1, 2, 3, total=4), SECOND)


# Spans


@given(streams())
def test_a_span_reaches_over_all_pictures(frames: list[Frame]) -> None:
    """From the first picture presented to the end of the last one, and likewise for decoding."""
    span = measure_span(iter(frames))
    assert span == Span(
        frame_count=len(frames),
        decoding_starts_s=frames[0].decoded_at_s,
        decoding_ends_s=frames[-1].decoded_at_s + frames[-1].duration_s,
        presentation_starts_s=min(frame.presented_at_s for frame in frames),
        presentation_ends_s=max(frame.presented_at_s + frame.duration_s for frame in frames),
        has_constant_rate=True,
    )


def test_nothing_has_no_span() -> None:
    """A file without pictures has none."""
    assert measure_span([]) is None


@given(streams(), durations)
def test_segments_of_a_stream_follow_each_other_as_in_the_stream(frames: list[Frame], duration_s: Fraction) -> None:
    """Each segment's next one begins where the source's next picture is presented."""
    made: Plan = plan_cuts(frames, duration_s)
    bounds = pairwise((*made.starts, made.frame_count))
    spans = [measure_span(frames[start:end]) for start, end in bounds]
    for span, following in pairwise(spans):
        assert span
        assert following
        assert offset_of_next(span, following) == 0  # their times are the source's: nothing is to be added


def test_a_variable_rate_goes_by_the_decoding_times() -> None:
    """How long the last picture of a file is presented, the file does not say."""
    one = measure_span(
        [Frame(Fraction(0), Fraction(1), SECOND, True), Frame(Fraction(1), Fraction(2), 5 * SECOND, False)]
    )
    two = measure_span([Frame(Fraction(-1), Fraction(0), SECOND, True)])
    assert one
    assert two
    assert not one.has_constant_rate
    assert offset_of_next(one, two) == Fraction(6) - Fraction(-1)
    assert offset_of_next(two, one) == Fraction(1) - Fraction(1)
