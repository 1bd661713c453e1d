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
    movie = with_late_starts(load(make_movie([LATE, AUDIO])), Fraction(2))
    assert [set(track.table.durations.values) for track in movie.tracks] == [{40}, {20}]
    assert [first_s(movie, number) for number in range(2)] == [Fraction(20, 1000), Fraction(55, 1000)]
    assert presented_video(movie).duration_s == 2


@pytest.mark.parametrize("duration_s", [None, Fraction(202, 100)])
def test_video_of_the_planned_duration_stays(duration_s: Fraction | None) -> None:
    """Its first frame may last longer than the second one. None: its duration says nothing."""
    source = load(make_movie([LATE]))
    assert with_late_starts(source, duration_s) == source


@pytest.mark.parametrize("edits", [(Edit(2020, 0),), (Edit(2000, 20),), (Edit(5, EMPTY), Edit(2020, 0))])
def test_an_edit_list_is_believed(edits: tuple[Edit, ...]) -> None:
    """That of audio always. That of video unless it just says that everything is presented from time 0 on."""
    video, audio = TrackSpec(LATE.durations, sync=[0], edits=edits), TrackSpec([60] + [20] * 99, b"soun", edits=edits)
    source = load(make_movie([video, audio]))
    movie = with_late_starts(source, Fraction(2))
    assert movie.tracks[1].table == source.tracks[1].table
    assert (movie == source) == (edits != (Edit(2020, 0),))
