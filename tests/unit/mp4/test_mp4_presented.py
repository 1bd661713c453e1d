"""What a video presents: whole, and by segment."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given, settings
from media_worker.mp4 import Unsupported, plan_split, presented_video, split_at
from media_worker.mp4.edit_list import EMPTY, Edit

from tests.unit.mp4.movies import TrackSpec, load, make_movie
from tests.unit.mp4.strategies import MOVIES
from tests.unit.mp4.test_mp4_split_join import SECONDS


def presented(spec: TrackSpec, timescale: int = 1000) -> tuple[int, Fraction, Fraction, Fraction]:
    found = presented_video(load(make_movie([spec], timescale)))
    return found.frames, found.start_s, found.duration_s, found.longest_frame_s


@settings(max_examples=100, deadline=None)
@given(MOVIES, SECONDS)
def test_segments_tile_the_video(specs: tuple[TrackSpec, ...], duration_s: Fraction) -> None:
    """Every presented frame is in one segment, and each segment starts when the one before it ends."""
    movie = load(make_movie(specs))
    whole, plan = presented_video(movie), plan_split(movie, duration_s)
    assert len(plan.segments) == plan.total_segments
    assert sum(segment.frames for segment in plan.segments) == whole.frames
    assert min(segment.frames for segment in plan.segments) > 0
    assert plan.segments[0].start_s == whole.start_s
    assert all(before.end_s == after.start_s for before, after in pairwise(plan.segments))
    assert plan.segments[-1].end_s == whole.end_s
    assert plan.starts_s == tuple(segment.start_s for segment in plan.segments)
    assert max(segment.longest_frame_s for segment in plan.segments) == whole.longest_frame_s


@settings(max_examples=60, deadline=None)
@given(MOVIES, SECONDS)
def test_a_stored_plan_is_carried_out(specs: tuple[TrackSpec, ...], duration_s: Fraction) -> None:
    """Cutting at the starts of a plan gives the plan."""
    movie = load(make_movie(specs))
    plan = plan_split(movie, duration_s)
    again = split_at(movie, plan.starts_s)
    assert (again.starts_s, again.cuts, again.segments) == (plan.starts_s, plan.cuts, plan.segments)


@pytest.mark.parametrize("start_s", [Fraction(1, 5), Fraction(1, 7), Fraction(100)])
def test_a_start_that_is_no_cut_point_is_named(start_s: Fraction) -> None:
    """A frame that is not a sync sample, a time between frames, and a time behind the end."""
    movie = load(make_movie([TrackSpec([40] * 30, sync=range(0, 30, 10))]))
    with pytest.raises(Unsupported, match=str(start_s)):
        split_at(movie, [Fraction(0), start_s])


@pytest.mark.parametrize(("end_ms", "frames"), [(999, 25), (1000, 25), (1001, 25), (1003, 26), (961, 24), (962, 25)])
def test_an_edit_list_in_milliseconds_is_rounded(end_ms: int, frames: int) -> None:
    """The movie timescale of ffmpeg is 1000: a frame of which less than a millisecond is presented does not count."""
    video = TrackSpec([512] * 30, timescale=12800, edits=(Edit(end_ms, 0),))
    assert presented(video)[0] == frames


def test_an_exact_edit_list_is_not_rounded() -> None:
    """The movie timescale is that of the track, so one tick is a frame that is presented for one tick."""
    assert presented(TrackSpec([512] * 30, timescale=12800, edits=(Edit(5121, 0),)), 12800)[0] == 11
    assert presented(TrackSpec([512] * 30, timescale=12800, edits=(Edit(5120, 0),)), 12800)[0] == 10


def test_frames_shorter_than_the_rounding_count() -> None:
    """1000 frames per second in a movie timescale of 600."""
    assert presented(TrackSpec([1] * 1000, timescale=1000, edits=(Edit(300, 0),)), 600)[0] == 500


def test_hidden_frames_do_not_count() -> None:
    """Two at the start and three at the end. The last presented frame ends where the edit list ends."""
    video = TrackSpec([40] * 20, offsets=[80] * 20, edits=(Edit(100, EMPTY), Edit(600, 160)))
    assert presented(video) == (15, Fraction(1, 10), Fraction(3, 5), Fraction(1, 25))


def test_a_frame_before_a_pause_lasts_through_it() -> None:
    """An empty edit in the middle: the longest frame is the one before it."""
    video = TrackSpec([40] * 20, edits=(Edit(400, 0), Edit(1000, EMPTY), Edit(400, 400)))
    assert presented(video) == (20, Fraction(0), Fraction(9, 5), Fraction(26, 25))


def test_a_loop_presents_its_frames_twice() -> None:
    """A frame counts each time that the edit list presents it. Such a movie stays in one segment and says why."""
    video = TrackSpec([40] * 20, sync=range(0, 20, 5), edits=(Edit(400, 0), Edit(400, 0)))
    assert presented(video)[:3] == (20, Fraction(0), Fraction(4, 5))
    plan = plan_split(load(make_movie([video])), Fraction(1, 5))
    assert plan.segments[0].frames == 20
    assert plan.notice is not None
    assert "edit list" in plan.notice


def test_audio_has_no_frames() -> None:
    """A movie without video is refused."""
    with pytest.raises(Unsupported, match="no video"):
        presented_video(load(make_movie([TrackSpec([1024] * 20, b"soun", 48000)])))


def notice(sync: list[int], wanted_s: int = 2) -> str | None:
    return plan_split(load(make_movie([TrackSpec([40] * 500, sync=sync)])), Fraction(wanted_s)).notice


def test_a_single_keyframe_is_noticed() -> None:
    """The notice says why there is one segment and what to do."""
    assert notice([0]) == (
        "one segment: the source has a single keyframe; "
        "re-encode with a keyframe every few seconds to process it in parallel"
    )
    assert notice([0], wanted_s=20) is None


def test_a_long_segment_is_noticed() -> None:
    """Segment 1 lasts twelve seconds instead of two."""
    assert notice(list(range(0, 500, 50))) is None
    found = notice([0, 50, 100, 400, 450])
    assert found is not None
    assert found.startswith("segment 2 lasts 12.0 s, more than twice the wanted 2 s")
