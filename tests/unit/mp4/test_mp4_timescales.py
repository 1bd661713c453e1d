"""Segments of different timescales, or with different sparse tracks, join."""

from __future__ import annotations

import itertools
from dataclasses import replace
from fractions import Fraction

import pytest
from media_worker.mp4 import plan_join
from media_worker.mp4.concat import MAX_TIMESCALE, common_timescale

from tests.unit.mp4.movies import TrackSpec, join_bytes, load, make_movie, samples_of

# What encoders choose for 20, 29.97 and 19.996 fps: the common multiple exceeds 2^31.
TIMESCALES = (10240, 10002, 19996)
FRAMES = 60


def video(timescale: int, frames: int = FRAMES) -> TrackSpec:
    """Frames of about 50 ms with a B-frame between any two, in whole ticks of the timescale."""
    ends = [round(Fraction(number, 20) * timescale) for number in range(frames + 1)]
    durations = [after - before for before, after in itertools.pairwise(ends)]
    step = durations[0]
    return TrackSpec(durations, timescale=timescale, offsets=[step, 2 * step, 0] * (frames // 3), sync=[0])


def times_s(data: bytes) -> list[Fraction]:
    """The decode times of the first track."""
    track = load(data).tracks[0]
    return [Fraction(sample.decode_time, track.timescale) for sample in samples_of(data, track)]


def test_the_common_timescale_is_exact_where_it_can_be() -> None:
    """A multiple of all, or of those that occur most."""
    assert common_timescale([12800, 15360, 12800]) == 76800
    most = common_timescale([*TIMESCALES, 10240, 10240])
    assert most % 10240 == 0
    assert most <= MAX_TIMESCALE


def test_rounding_does_not_add_up() -> None:
    """After 660 s of segments in three incompatible timescales, each frame is within a tick of its time."""
    segments = [make_movie([video(TIMESCALES[number % 3])]) for number in range(220)]
    joined = join_bytes(segments)
    track = load(joined).tracks[0]
    assert track.table.count == 220 * FRAMES
    tick_s = Fraction(1, min(*TIMESCALES, track.timescale))
    found = times_s(joined)
    start_s = Fraction(0)
    for number, segment in enumerate(segments):
        own = times_s(segment)
        for index, time_s in enumerate(own):
            assert abs(found[number * FRAMES + index] - start_s - time_s) < tick_s
        start_s += Fraction(load(segment).tracks[0].table.media_duration, load(segment).tracks[0].timescale)
    assert start_s > 659


def test_the_samples_of_all_timescales_keep_their_order() -> None:
    """B-frames are still presented between the frames around them."""
    segments = [make_movie([video(timescale)]) for timescale in TIMESCALES]
    joined = join_bytes(segments)
    samples = samples_of(joined, load(joined).tracks[0])
    ordered = [sample.data for sample in sorted(samples, key=lambda sample: sample.composition_time)]
    own = [samples_of(segment, load(segment).tracks[0]) for segment in segments]
    expected = [each.data for part in own for each in sorted(part, key=lambda sample: sample.composition_time)]
    assert ordered == expected


CHAPTERS = TrackSpec([3000], handler=b"text")
AUDIO = TrackSpec([1024] * 141, handler=b"soun", timescale=48000)


@pytest.mark.parametrize("late", [1, 2])
def test_late_chapters_and_audio_that_ends_early_join(late: int) -> None:
    """Segments of two tracks each, but not of the same two."""
    first, last = make_movie([video(10240), AUDIO]), make_movie([video(10240), CHAPTERS])
    segments = [first] * late + [last] * (3 - late)
    joined = load(join_bytes(segments))
    assert [track.handler for track in joined.tracks] == [b"vide", b"soun", b"text"]
    assert [track.table.count for track in joined.tracks] == [3 * FRAMES, late * 141, 3 - late]
    chapters = joined.tracks[2].presented_ranges(joined.timescale)
    assert chapters
    assert chapters[0].start / joined.tracks[2].timescale == 3 * late


def test_a_sparse_track_keeps_its_time_between_others() -> None:
    """Only the middle segment has a subtitle."""
    plain, titled = make_movie([video(10240)]), make_movie([video(10240), replace(CHAPTERS, durations=[1000])])
    layout = plan_join([load(plain), load(titled), load(plain)])
    assert [track.samples for track in layout.summary.tracks] == [3 * FRAMES, 1]
