"""Splitting and joining keep every sample, once and at its time."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_worker.mp4 import differences, lay_out, plan_join, plan_split, presented_video, summary_of
from media_worker.mp4.edit_list import Edit, is_presented, presentation_time
from media_worker.mp4.provenance import find_provenance

from tests.unit.mp4.movies import (
    TrackSpec,
    assemble,
    join_bytes,
    load,
    make_movie,
    samples_of,
    without_provenance,
)
from tests.unit.mp4.strategies import MOVIES

SECONDS = st.fractions(Fraction(1, 50), 2, max_denominator=50)


def split(source: bytes, duration_s: Fraction, max_gap_bytes: int = 0) -> list[bytes]:
    movie = load(source)
    plan = plan_split(movie, duration_s)
    return [assemble(lay_out(movie, plan, index, max_gap_bytes), source) for index in range(plan.total_segments)]


def presented(data: bytes, track_number: int = 0) -> list[tuple[Fraction, bytes]]:
    """The samples that a track presents, in order, with their presentation times in seconds."""
    movie = load(data)
    track = movie.tracks[track_number]
    ranges = track.presented_ranges(movie.timescale)
    assert ranges is not None
    samples = [sample for sample in samples_of(data, track) if is_presented(ranges, sample.composition_time)]
    times = [presentation_time(ranges, sample.composition_time) / track.timescale for sample in samples]
    return sorted(zip(times, (sample.data for sample in samples), strict=True))


@settings(max_examples=80, deadline=None)
@given(MOVIES, SECONDS)
def test_every_frame_is_presented_by_one_segment(specs: tuple[TrackSpec, ...], duration_s: Fraction) -> None:
    """The segments present the frames of the source, in order and at their times. Nothing is presented twice."""
    source = make_movie(specs)
    plan = plan_split(load(source), duration_s)
    found: list[tuple[Fraction, bytes]] = []
    movie_starts_s = (Fraction(0), *plan.starts_s[1:])
    for start_s, planned, segment in zip(movie_starts_s, plan.segments, split(source, duration_s), strict=True):
        frames = presented(segment)
        assert len(frames) == planned.frames == presented_video(load(segment)).frames
        found.extend((start_s + time, data) for time, data in frames)
    assert found == presented(source)


@settings(max_examples=80, deadline=None)
@given(MOVIES, SECONDS)
def test_every_sample_is_in_a_segment_in_order(specs: tuple[TrackSpec, ...], duration_s: Fraction) -> None:
    """The segments together have the samples of each track, byte for byte. Only open GOPs and audio overlap: what a
    segment repeats is at the end of the one before, and what trails it is at the start of those after it.
    """
    source = make_movie(specs)
    segments = [(segment, load(segment)) for segment in split(source, duration_s)]
    for number, track in enumerate(load(source).tracks):
        expected = [sample.data for sample in samples_of(source, track)]
        found: list[bytes] = []
        for data, movie in segments:
            provenance = find_provenance(movie.box)
            assert provenance is not None
            known = provenance.tracks[number]
            samples = [sample.data for sample in samples_of(data, movie.tracks[number])]
            if known.repeated_samples and not track.is_video:
                assert samples[: known.repeated_samples] == found[-known.repeated_samples :]
            own = samples[known.repeated_samples : len(samples) - known.trailing_samples]
            found.extend(own)
            trailing = samples[len(samples) - known.trailing_samples :]
            assert trailing == expected[len(found) : len(found) + known.trailing_samples]
        assert found == expected


def test_a_sync_sample_that_shares_its_time_is_no_cut_point() -> None:
    """The HLS muxer of ffmpeg writes such ones at open GOPs: the other frame needs the GOP before."""
    spec = TrackSpec([40] * 9, offsets=[0, 0, 0, 40, 0, 0, 0, 0, 0], sync=[0, 3, 6])
    assert plan_split(load(make_movie([spec])), Fraction(1, 10)).starts_s == (Fraction(0), Fraction(24, 100))


@pytest.mark.parametrize(("packet", "expected"), [(1024, 4), (960, 4), (4096, 1), (100, 39)])
def test_audio_has_a_pre_roll_of_80_ms(packet: int, expected: int) -> None:
    """The packets before the first one are decoded, but hidden by the edit list."""
    video = TrackSpec([40] * 100, sync=[0, 50])
    audio = TrackSpec([packet] * (4 * 48000 // packet), handler=b"soun", timescale=48000)
    source = make_movie([video, audio])
    movie = load(source)
    plan = plan_split(movie, Fraction(2))
    segment = load(assemble(lay_out(movie, plan, 1), source))
    provenance = find_provenance(segment.box)
    assert provenance is not None
    repeated = provenance.tracks[1].repeated_samples
    assert repeated == expected
    ranges = segment.tracks[1].presented_ranges(segment.timescale)
    assert ranges is not None
    assert ranges[0].media_start == repeated * packet
    first = plan.cuts[1][1]
    assert ranges[0].start == first.decode_time - 2 * 48000
    assert first.sample * packet == first.decode_time


@pytest.mark.parametrize(("packet", "expected"), [(1024, 6), (4608, 2), (96, 60)])
def test_audio_is_presented_until_120_ms_after_the_join(packet: int, expected: int) -> None:
    """A worker's encoder pads its last packet with silence, so it gets the audio that follows. The last segment ends
    where the source ends.
    """
    video = TrackSpec([40] * 100, sync=[0, 50])
    audio = TrackSpec([packet] * (4 * 48000 // packet), handler=b"soun", timescale=48000)
    source = make_movie([video, audio])
    movie = load(source)
    plan = plan_split(movie, Fraction(2))
    first, last = (load(assemble(lay_out(movie, plan, index), source)) for index in range(2))
    provenance = find_provenance(first.box)
    assert provenance is not None
    assert provenance.tracks[1].trailing_samples == expected
    ends = [(each.tracks[1].presented_ranges(each.timescale) or ())[-1].end for each in (first, last)]
    assert ends == [plan.cuts[1][1].media_time + 48000 * 12 // 100, 4 * 48000 // packet * packet - 2 * 48000]


def test_audio_behind_the_join_is_only_presented_without_an_interruption() -> None:
    """If the edit list skips media there, the overlap ends at the skip."""
    video = TrackSpec([40] * 100, sync=[0, 50])
    edits = (Edit(2010, 0), Edit(1990, 3010))
    audio = TrackSpec([10] * 400, handler=b"soun", timescale=1000, edits=edits)
    source = make_movie([video, audio])
    movie = load(source)
    first = load(assemble(lay_out(movie, plan_split(movie, Fraction(2)), 0), source))
    ranges = first.tracks[1].presented_ranges(first.timescale)
    assert [each.end for each in ranges or ()] == [2010]


def test_no_packet_before_a_gap_is_a_pre_roll() -> None:
    """A recording that was paused for six seconds: ffmpeg would drop all audio that follows such a packet."""
    video = TrackSpec([40] * 49 + [6000] + [40] * 50, sync=[0, 50])
    audio = TrackSpec([1024] * 90 + [6 * 48000] + [1024] * 90, handler=b"soun", timescale=48000)
    movie = load(make_movie([video, audio]))
    plan = plan_split(movie, Fraction(7))
    provenance = find_provenance(load(assemble(lay_out(movie, plan, 1), make_movie([video, audio]))).box)
    assert provenance is not None
    assert provenance.tracks[1].first_sample - provenance.tracks[1].repeated_samples == 91  # the first one behind it


def test_pcm_needs_no_pre_roll() -> None:
    """Each sample is decoded alone."""
    video = TrackSpec([40] * 100, sync=[0, 50])
    audio = TrackSpec([1] * 32000, handler=b"soun", timescale=8000, sizes=[2] * 32000, per_chunk=1000)
    source = make_movie([video, audio])
    movie = load(source)
    segment = load(assemble(lay_out(movie, plan_split(movie, Fraction(2)), 1), source))
    provenance = find_provenance(segment.box)
    assert provenance is not None
    assert provenance.tracks[1].repeated_samples == 0


@settings(max_examples=80, deadline=None)
@given(MOVIES, SECONDS)
def test_untouched_segments_join_to_the_source(specs: tuple[TrackSpec, ...], duration_s: Fraction) -> None:
    """Samples, decode and composition times, sync samples and edit lists are those of the source."""
    source = make_movie(specs)
    joined = join_bytes(split(source, duration_s))
    before, after = load(source), load(joined)
    assert after.timescale == before.timescale
    for old, new in zip(before.tracks, after.tracks, strict=True):
        assert samples_of(joined, new) == samples_of(source, old)
        assert new.edits == old.edits
        assert new.descriptions == old.descriptions


@settings(max_examples=60, deadline=None)
@given(MOVIES, SECONDS)
def test_every_segment_starts_with_a_frame_that_decodes_alone(
    specs: tuple[TrackSpec, ...], duration_s: Fraction
) -> None:
    """The first sample of a segment is a sync sample and is presented first, at time 0."""
    source = make_movie(specs)
    for number, segment in enumerate(split(source, duration_s)):
        movie = load(segment)
        samples = samples_of(segment, movie.tracks[0])
        if number:
            assert samples[0].is_sync
            assert samples[0].composition_time == min(sample.composition_time for sample in samples)
            ranges = movie.tracks[0].presented_ranges(movie.timescale)
            assert ranges is not None
            assert presentation_time(ranges, samples[0].composition_time) == 0


@settings(max_examples=60, deadline=None)
@given(MOVIES, SECONDS)
def test_other_tracks_are_in_sync_to_the_tick(specs: tuple[TrackSpec, ...], duration_s: Fraction) -> None:
    """Each sample is presented as long after its segment's start as in the source."""
    source = make_movie(specs)
    movie = load(source)
    plan = plan_split(movie, duration_s)
    for index in range(plan.total_segments):
        segment = load(assemble(lay_out(movie, plan, index), source))
        for number, (whole, part) in enumerate(zip(movie.tracks, segment.tracks, strict=True)):
            first, end = plan.samples(number, index)
            ranges, own = whole.presented_ranges(movie.timescale), part.presented_ranges(segment.timescale)
            if first == end or not index:
                continue
            assert ranges is not None
            assert own is not None
            segment_start = plan.starts_s[index] * whole.timescale
            begin = plan.cuts[number][index].media_time
            expected = presentation_time(ranges, begin) - segment_start
            assert presentation_time(own, part.table.composition_start()) == expected


@settings(max_examples=60, deadline=None)
@given(MOVIES, SECONDS)
def test_segments_without_provenance_keep_every_frame_in_order(
    specs: tuple[TrackSpec, ...], duration_s: Fraction
) -> None:
    """Concatenated by their own times, all frames are there and are presented in the same order."""
    source = make_movie(specs)
    segments = [without_provenance(segment) for segment in split(source, duration_s)]
    joined = join_bytes(segments)
    before, after = (samples_of(data, load(data).tracks[0]) for data in (source, joined))
    assert [sample.data for sample in after] == [sample.data for sample in before]
    presented = [sorted(samples, key=lambda sample: sample.composition_time) for samples in (before, after)]
    assert [sample.data for sample in presented[0]] == [sample.data for sample in presented[1]]


@settings(max_examples=50, deadline=None)
@given(MOVIES, SECONDS, st.integers(0, 60))
def test_merged_ranges_change_no_sample(specs: tuple[TrackSpec, ...], duration_s: Fraction, gap: int) -> None:
    """Gaps that are copied with the samples do not matter."""
    source = make_movie(specs)
    joined = join_bytes(split(source, duration_s, gap))
    for old, new in zip(load(source).tracks, load(joined).tracks, strict=True):
        assert samples_of(joined, new) == samples_of(source, old)


@settings(max_examples=50, deadline=None)
@given(MOVIES, SECONDS)
def test_a_written_file_is_as_planned(specs: tuple[TrackSpec, ...], duration_s: Fraction) -> None:
    """The summary of the layout is the summary of the file that was read back."""
    source = make_movie(specs)
    movie = load(source)
    plan = plan_split(movie, duration_s)
    segments = []
    for index in range(plan.total_segments):
        layout = lay_out(movie, plan, index)
        segments.append(assemble(layout, source))
        assert not differences(layout.summary, summary_of(load(segments[-1]), len(segments[-1])))
    final = plan_join([load(segment) for segment in segments])
    joined = assemble(final, *segments)
    assert not differences(final.summary, summary_of(load(joined), len(joined)))


def test_a_difference_is_named() -> None:
    """The difference says what was found and what was expected."""
    long, short = (make_movie([TrackSpec([40] * count)]) for count in (10, 9))
    reasons = differences(summary_of(load(long), len(long)), summary_of(load(short), len(long)))
    assert "track 1: samples is 9, expected 10" in reasons
