"""First samples that last too long, because they should begin later."""

from fractions import Fraction

import pytest
from media_worker.mp4 import Movie, presented_video, with_late_starts
from media_worker.mp4.edit_list import EMPTY, Edit, presentation_time

from tests.unit.mp4.movies import TrackSpec, load, make_movie

LATE = TrackSpec([60] + [40] * 49, sync=[0])  # 2 s at 25 fps, 20 ms late
AUDIO = TrackSpec([75] + [20] * 99, b"soun", 1000)


def first_s(movie: Movie, number: int) -> Fraction:
    """When the first sample of a track is presented."""
    track = movie.tracks[number]
    ranges = track.presented_ranges(movie.timescale)
    assert ranges is not None
    return presentation_time(ranges, track.table.composition_start()) / track.timescale


def test_a_first_sample_that_is_too_long_begins_later() -> None:
    """All samples have their duration, and the others stay at their times."""
    movie = with_late_starts(load(make_movie([LATE, AUDIO])), Fraction(2), None)
    assert [set(track.table.durations.values) for track in movie.tracks] == [{40}, {20}]
    assert [first_s(movie, number) for number in range(2)] == [Fraction(20, 1000), Fraction(55, 1000)]
    assert presented_video(movie).duration_s == 2


VARYING = TrackSpec([100, 40, 80, 40, 120], sync=[0])


@pytest.mark.parametrize(
    ("first_frame_s", "begins_s"), [("1/25", "3/50"), ("2/25", "1/50"), ("1/10", "0"), ("4/25", "0"), ("99/1000", "0")]
)
def test_a_varying_frame_rate(first_frame_s: str, begins_s: str) -> None:
    """The plan says how long the first frame should last. A millisecond is rounding."""
    movie = with_late_starts(load(make_movie([VARYING])), Fraction(1), Fraction(first_frame_s))
    assert first_s(movie, 0) == Fraction(begins_s)
    assert presented_video(movie).duration_s == Fraction(380, 1000) - Fraction(begins_s)


def test_reordered_frames_of_a_varying_rate() -> None:
    """The second frame is the one that is presented second."""
    spec = TrackSpec([100, 40, 40, 40], offsets=[80, 160, 40, 120], sync=[0])  # presented at 80, 180, 260 and 300
    movie = with_late_starts(load(make_movie([spec])), Fraction(1), Fraction(60, 1000))
    assert (first_s(movie, 0), movie.tracks[0].table.durations[0]) == (Fraction(120, 1000), 60)


def test_a_rate_that_became_constant_stays() -> None:
    """A worker may make the rate constant: then no frame is too long."""
    source = load(make_movie([TrackSpec([40] * 5, sync=[0])]))
    assert with_late_starts(source, Fraction(1), Fraction(1, 50)) == source


@pytest.mark.parametrize("duration_s", [None, Fraction(202, 100)])
def test_video_of_the_planned_duration_stays(duration_s: Fraction | None) -> None:
    """Its first frame may last longer than the second one. None: its duration says nothing."""
    source = load(make_movie([LATE]))
    assert with_late_starts(source, duration_s, None) == source


@pytest.mark.parametrize("edits", [(Edit(2020, 0),), (Edit(2000, 20),), (Edit(5, EMPTY), Edit(2020, 0))])
def test_an_edit_list_is_believed(edits: tuple[Edit, ...]) -> None:
    """That of audio always. That of video unless it just says that everything is presented from time 0 on."""
    video, audio = TrackSpec(LATE.durations, sync=[0], edits=edits), TrackSpec([60] + [20] * 99, b"soun", edits=edits)
    source = load(make_movie([video, audio]))
    movie = with_late_starts(source, Fraction(2), None)
    assert movie.tracks[1].table == source.tracks[1].table
    assert (movie == source) == (edits != (Edit(2020, 0),))
