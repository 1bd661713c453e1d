"""Where a video is cut: at sync samples near the wanted times, and more often where a segment would be too long."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from media_worker.mp4 import SplitRule, plan_split, presented_video, split_at
from media_worker.mp4.split_rule import bounded, later_starts, match_cuts, match_equal

from tests.unit.mp4.movies import TrackSpec, load, make_movie
from tests.unit.mp4.strategies import MOVIES

TIMES = st.fractions(0, 60, max_denominator=25)
TOLERANCES = st.fractions(0, 10, max_denominator=25)


@dataclass(frozen=True)
class Listed:
    """Starts from a list."""

    first_s: Fraction
    end_s: Fraction
    later_s: tuple[Fraction, ...]

    def at_or_after(self, time_s: Fraction, until_s: Fraction) -> Fraction | None:
        index = bisect_left(self.later_s, time_s)
        return next((each for each in self.later_s[index : index + 1] if each <= until_s), None)

    def at_or_before(self, time_s: Fraction, from_s: Fraction) -> Fraction | None:
        index = bisect_right(self.later_s, time_s)
        return next((each for each in self.later_s[max(0, index - 1) : index] if each >= from_s), None)

    @property
    def all_s(self) -> tuple[Fraction, ...]:
        return (self.first_s, *self.later_s)


@st.composite
def listed(draw: st.DrawFn) -> Listed:
    times = sorted(draw(st.sets(TIMES, min_size=2, max_size=30)))
    return Listed(times[0], times[-1], tuple(times[1:-1]))


@given(listed(), st.lists(TIMES, max_size=20), TOLERANCES)
def test_each_wanted_time_gets_the_nearest_start_within_the_tolerance(
    starts: Listed, wanted: list[Fraction], tolerance_s: Fraction
) -> None:
    """None is lost, none is nearer, and None only if all are too far away."""
    cuts = match_cuts(starts, wanted, tolerance_s)
    assert [each.wanted_s for each in cuts] == sorted(set(wanted))
    for cut in cuts:
        nearest = min(abs(each - cut.wanted_s) for each in starts.all_s)
        if cut.got_s is None:
            assert nearest > tolerance_s
        else:
            assert cut.got_s in starts.all_s
            assert abs(cut.got_s - cut.wanted_s) == nearest <= tolerance_s


@given(listed(), st.lists(TIMES, max_size=20), TOLERANCES)
def test_the_starts_are_sorted_and_unique(starts: Listed, wanted: list[Fraction], tolerance_s: Fraction) -> None:
    """Two wanted times with the same start make one cut; the start of the video is no cut."""
    later = later_starts(starts, match_cuts(starts, wanted, tolerance_s))
    assert later == sorted(set(later) & set(starts.later_s))


@given(listed(), st.integers(1, 40))
def test_a_number_of_segments_is_the_most_that_are_made(starts: Listed, segments: int) -> None:
    """Each cut is at most half a segment from its ideal time; with a start at every ideal time, all are made."""
    cuts = match_equal(starts, segments)
    assert len(later_starts(starts, cuts)) < segments or segments == 1
    ideal = Listed(starts.first_s, starts.end_s, tuple(each.wanted_s for each in cuts))
    assert later_starts(ideal, match_equal(ideal, segments)) == [each.wanted_s for each in cuts]


@given(listed(), TIMES.filter(bool), st.data())
def test_segments_are_longer_than_the_maximum_only_where_no_start_allows_less(
    starts: Listed, max_s: Fraction, data: st.DataObject
) -> None:
    """A segment that is too long has no start inside."""
    chosen = sorted(data.draw(st.sets(st.sampled_from(starts.later_s)))) if starts.later_s else []
    keep_all = data.draw(st.booleans())
    found = list(bounded(starts, chosen, max_s, keep_all=keep_all))
    assert found == sorted(set(found) & set(starts.later_s))
    assert not keep_all or set(chosen) <= set(found)
    for before_s, after_s in pairwise((starts.first_s, *found, starts.end_s)):
        assert after_s - before_s <= max_s or not any(before_s < each < after_s for each in starts.later_s)


def test_a_start_right_behind_an_added_one_is_left_out() -> None:
    """Unless it was wanted: 4 s, then 1 s, would be two segments where one is enough."""
    starts = Listed(Fraction(0), Fraction(10), tuple(map(Fraction, (2, 4, 5, 7, 9))))
    assert list(bounded(starts, [Fraction(5)], Fraction(4), keep_all=True)) == [4, 5, 9]
    assert list(bounded(starts, [Fraction(5), Fraction(7)], Fraction(4), keep_all=False)) == [4, 7]


# Movies


@settings(max_examples=100, deadline=None)
@given(MOVIES, st.lists(st.fractions(0, 3, max_denominator=50), min_size=1, max_size=6), st.fractions(0, 1))
def test_cut_times_of_a_movie(specs: tuple[TrackSpec, ...], wanted: list[Fraction], tolerance_s: Fraction) -> None:
    """The segments tile the video, start at cut points, nearest to what was wanted; a stored plan cuts there again."""
    movie = load(make_movie(specs))
    whole = presented_video(movie)
    plan = plan_split(movie, SplitRule(cut_times_s=tuple(wanted), tolerance_s=tolerance_s))
    everywhere = plan_split(movie, SplitRule(whole.duration_s, max_duration_s=Fraction(1, 10**6)))
    assert set(plan.starts_s) <= set(everywhere.starts_s)
    assert sum(each.frames for each in plan.segments) == whole.frames
    assert all(each.frames for each in plan.segments)
    assert [each.end_s for each in plan.segments[:-1]] == list(plan.starts_s[1:])
    for cut in plan.matched_cuts:
        nearest = min(abs(each - cut.wanted_s) for each in everywhere.starts_s)
        assert (cut.got_s is None) == (nearest > tolerance_s)
        assert cut.got_s is None or (abs(cut.got_s - cut.wanted_s) == nearest and cut.got_s in plan.starts_s)
    assert split_at(movie, plan.starts_s).segments == plan.segments


@settings(max_examples=50, deadline=None)
@given(MOVIES, st.integers(1, 9), st.fractions(Fraction(1, 20), 1))
def test_a_number_of_segments_and_a_maximum(specs: tuple[TrackSpec, ...], segments: int, max_s: Fraction) -> None:
    """At most as many segments as wanted; with a maximum, those that exceed it are in the notice."""
    movie = load(make_movie(specs))
    assert plan_split(movie, SplitRule(segments=segments)).total_segments <= segments
    plan = plan_split(movie, SplitRule(segments=segments, max_duration_s=max_s))
    assume(plan.total_segments > 1)
    too_long = [each for each in plan.segments if each.duration_s > max_s]
    assert bool(too_long) == ("more than the maximum" in (plan.notice or ""))


def notice(rule: SplitRule) -> str | None:
    """The notice for 20 s with key frames at 0, 4, 5 and 15 s."""
    return plan_split(load(make_movie([TrackSpec([40] * 500, sync=[0, 100, 125, 375])])), rule).notice


def test_the_notice_names_lost_cut_times() -> None:
    """Which ones, and the tolerance."""
    times_s = tuple(map(Fraction, (4, 10, 15)))
    assert notice(SplitRule(cut_times_s=times_s, tolerance_s=Fraction(5))) is None
    assert "no keyframe within 2 s of 1 of 3 wanted cut times: 10 s;" in str(
        notice(SplitRule(cut_times_s=times_s, tolerance_s=Fraction(2)))
    )


def test_the_notice_names_segments_over_the_maximum() -> None:
    """Also if the wanted duration allows twice as much."""
    assert "segment 2 lasts 10.0 s, more than the maximum of 8 s" in str(
        notice(SplitRule(Fraction(4), max_duration_s=Fraction(8)))
    )
    assert notice(SplitRule(Fraction(5), max_duration_s=Fraction(10))) is None


@pytest.mark.parametrize("values", [{}, {"segments": 2, "segment_duration_s": Fraction(1)}, {"segments": 0}])
def test_a_rule_is_one_of_three(values: dict[str, Fraction | int]) -> None:
    """None, two, or zero segments."""
    with pytest.raises(ValueError, match=r"give one of|must be above 0"):
        SplitRule(**values)  # type: ignore[arg-type]
