"""Times that a container has rounded are moved onto their grid; edit lists present every packet."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from media_worker.engines.commands import PacketTimes
from media_worker.engines.exact_times import with_exact_times
from media_worker.mp4 import Movie, Track
from media_worker.mp4.edit_list import Edit

from tests.unit.mp4.movies import TrackSpec, load, make_movie

RATES = [Fraction(24), Fraction(25), Fraction(30), Fraction(50), Fraction(60)]
RATES += [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001)]
TICKS = 16  # of the MP4, for a millisecond: what ffmpeg's muxer chooses


def rounded_movie(times_ms: Sequence[int], timescale: int = 1000 * TICKS, **spec: object) -> Movie:
    """A movie whose samples are presented in decode order at these times, in milliseconds."""
    ticks = [time * timescale // 1000 for time in times_ms]
    durations = [after - before for before, after in pairwise(ticks)]
    return load(make_movie([TrackSpec([*durations, durations[-1]], timescale=timescale, **spec)]))  # type: ignore[arg-type]


def packets_of(times: Sequence[int], duration: int, time_base: Fraction = Fraction(1, 1000)) -> PacketTimes:
    packets = PacketTimes(time_base)
    for time in times:
        packets.add(time, duration, 0)
    return packets


def presentation_times_s(track: Track) -> list[Fraction]:
    return [Fraction(time, track.timescale) for time in track.table.all_composition_times()]


@given(st.sampled_from(RATES), st.integers(10, 400), st.booleans())
def test_a_constant_frame_rate_is_restored(rate: Fraction, count: int, cut: bool) -> None:
    """Matroska rounds to a millisecond, other muxers cut. All frames last equally long again."""
    times_ms = [int(1000 * n / rate + (0 if cut else Fraction(1, 2))) for n in range(count)]
    movie = rounded_movie(times_ms)
    (track,) = with_exact_times(movie, [packets_of(times_ms, 33)]).tracks
    durations = {Fraction(duration, track.timescale) for duration in track.table.durations}
    (duration_s,) = durations
    for number, time_s in enumerate(presentation_times_s(track)):
        assert abs(time_s - Fraction(times_ms[number], 1000)) <= Fraction(1, 1000)
    if count >= 300:
        assert duration_s == 1 / rate


@given(st.lists(st.sampled_from([1, 1, 1, 1, 1, 1, 2, 4]), min_size=30, max_size=60))
def test_missing_frames_stay_missing(steps: list[int]) -> None:
    """A recorder that has dropped frames: the others keep their times on the grid of 30 fps."""
    assume(steps.count(1) > len(steps) // 2)
    numbers = [0, *accumulate(steps)]
    times_ms = [round(n * 1000 / 30) for n in numbers]
    (track,) = with_exact_times(rounded_movie(times_ms), [packets_of(times_ms, 33)]).tracks
    assert presentation_times_s(track) == [Fraction(n, 30) for n in numbers]


def test_b_frames_are_restored_in_their_order() -> None:
    """Decode times are the presentation times in order, as early as the reordering needs."""
    displayed = [0, 3, 1, 2, 6, 4, 5, 9, 7, 8]
    decoded_ms = [round((n - 1) * 1000 / 30) + 100 for n in range(10)]
    composed_ms = [round(n * 1000 / 30) + 100 for n in displayed]
    ticks = [time * TICKS for time in decoded_ms]
    durations = [after - before for before, after in pairwise(ticks)]
    offsets = [(c - d) * TICKS for c, d in zip(composed_ms, decoded_ms, strict=True)]
    spec = TrackSpec([*durations, durations[-1]], timescale=1000 * TICKS, offsets=offsets, sync=[0])
    times_ms = [time - 100 for time in composed_ms]
    movie = with_exact_times(load(make_movie([spec])), [packets_of(times_ms, 33)])
    (track,) = movie.tracks
    start = track.table.composition_start()
    frames = [Fraction(time - start, track.timescale) * 30 for time in track.table.all_composition_times()]
    assert frames == displayed
    assert track.table.offsets is not None
    assert min(track.table.offsets) == 0
    ranges = track.presented_ranges(movie.timescale)
    assert ranges is not None
    assert ranges[0].media_start == start
    assert ranges[0].end == 10 * track.timescale // 30


@given(st.lists(st.integers(17, 90), min_size=30, max_size=60))
def test_a_variable_frame_rate_stays_as_it_is(durations_ms: list[int]) -> None:
    """A phone's frames at any millisecond: no time changes."""
    assume(len(set(durations_ms)) > 20)
    times_ms = [0, *accumulate(durations_ms)]
    movie = rounded_movie(times_ms)
    (track,) = with_exact_times(movie, [packets_of(times_ms, 33)]).tracks
    assert presentation_times_s(track) == [Fraction(time, 1000) for time in times_ms]


@given(st.permutations(range(8)), st.lists(st.integers(17, 90), min_size=8, max_size=8))
def test_decode_times_are_the_presentation_times_in_order(order: list[int], steps_ms: list[int]) -> None:
    """Not those that ffmpeg has guessed (here: one tick apart), and never later than the presentation times."""
    frames_ms = list(accumulate(steps_ms))
    times_ms = [frames_ms[number] for number in order]
    offsets = [time * TICKS - index for index, time in enumerate(times_ms)]
    movie = load(make_movie([TrackSpec([1] * 8, timescale=1000 * TICKS, offsets=offsets, sync=[0])]))
    (track,) = with_exact_times(movie, [packets_of(times_ms, 33)]).tracks
    decoded = [0, *accumulate(track.table.durations)][:-1]
    composed = list(track.table.all_composition_times())
    delay = max(index - number for index, number in enumerate(order))
    assert decoded[delay:] == sorted(composed)[: 8 - delay]
    assert all(early <= late for early, late in zip(decoded, composed, strict=True))
    assert [time - composed[0] for time in composed] == [(time - times_ms[0]) * TICKS for time in times_ms]


@given(st.sampled_from([(48000, 1024), (44100, 1024), (48000, 1536), (44100, 1152)]), st.integers(0, 5000))
def test_audio_packets_follow_each_other_exactly(codec: tuple[int, int], gap_ms: int) -> None:
    """Their rounded times are not kept, but a gap in the audio is."""
    rate, packet = codec
    assume(gap_ms == 0 or gap_ms > 10)
    gap = gap_ms * rate // 1000
    starts = [n * packet + (gap if n >= 50 else 0) for n in range(100)]
    times_ms = [round(start * 1000 / rate) for start in starts]
    ticks = [round(time * rate / 1000) for time in times_ms]
    durations = [after - before for before, after in pairwise(ticks)]
    # ffmpeg's muxer writes most durations as they should be.
    durations = [packet if index not in {0, 49, 98} else each for index, each in enumerate(durations)]
    spec = TrackSpec([*durations, packet], handler=b"soun", timescale=rate)
    (track,) = with_exact_times(load(make_movie([spec])), [packets_of(times_ms, packet * 1000 // rate)]).tracks
    found = list(track.table.durations)
    assert found[:49] == [packet] * 49
    assert found[50:] == [packet] * 50
    assert abs(found[49] - packet - gap) <= 2 * rate // 1000 + 1


@given(st.integers(-100, 100), st.integers(5, 50))
def test_every_packet_from_time_0_on_is_presented(first_ms: int, count: int) -> None:
    """Whatever edit list ffmpeg has written: here one that hides the last frames."""
    times_ms = [first_ms + 40 * n for n in range(count)]
    movie = rounded_movie([40 * n for n in range(count)], edits=[Edit(40 * (count - 2), 0)])
    exact = with_exact_times(movie, [packets_of(times_ms, 40)])
    (track,) = exact.tracks
    ranges = track.presented_ranges(exact.timescale)
    assert ranges is not None
    (presented,) = ranges
    assert presented.start == max(0, first_ms) * TICKS
    assert presented.media_start == max(0, -first_ms) * TICKS
    assert presented.media_end == 40 * count * TICKS


def test_what_the_source_hides_stays_hidden() -> None:
    """Packets that are only decoded, at the start and at the end."""
    movie = rounded_movie([40 * n for n in range(10)])
    packets = PacketTimes(Fraction(1, 1000))
    for number in range(10):
        packets.add(40 * (number - 2), 40, 4 if number in {0, 1, 9} else 1)
    exact = with_exact_times(movie, [packets])
    ranges = exact.tracks[0].presented_ranges(exact.timescale)
    assert ranges is not None
    assert [ranges[0].start, ranges[0].media_start, ranges[0].media_end] == [0, 80 * TICKS, 360 * TICKS]


@pytest.mark.parametrize("handler", [b"text", b"tmcd"])
def test_tracks_of_ffmpegs_own_keep_their_edit_lists(handler: bytes) -> None:
    """Chapters and timecode, in a finer movie timescale."""
    video = TrackSpec([512] * 50, timescale=12800)
    other = TrackSpec([1000], handler=handler, edits=[Edit(500, -1), Edit(1000, 0)])
    exact = with_exact_times(load(make_movie([video, other])), [packets_of([40 * n for n in range(50)], 40)])
    scale = exact.timescale // 1000
    assert exact.tracks[1].edits == (Edit(500 * scale, -1), Edit(1000 * scale, 0))
    assert replace(exact.tracks[1], edits=()).table.count == 1
