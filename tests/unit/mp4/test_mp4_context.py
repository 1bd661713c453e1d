"""Context frames: a segment also presents frames of its neighbours, exactly, whatever the GOP structure."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st
from media_worker.mp4 import lay_out, own_part, plan_join, plan_split, presented_video, split_at
from media_worker.mp4.edit_list import is_presented, presentation_time

from tests.unit.mp4.movies import TrackSpec, assemble, join_bytes, load, make_movie, samples_of, without_provenance
from tests.unit.mp4.strategies import MOVIES

SECONDS = st.fractions(Fraction(1, 50), 1, max_denominator=50)
CONTEXT = st.integers(1, 12)


def split(source: bytes, duration_s: Fraction, context_frames: int) -> list[bytes]:
    movie = load(source)
    plan = plan_split(movie, duration_s, context_frames=context_frames)
    return [assemble(lay_out(movie, plan, index, 0), source) for index in range(plan.total_segments)]


def presented(data: bytes) -> list[tuple[Fraction, bytes]]:
    """The frames that a file presents, in order, with their presentation times in seconds."""
    movie = load(data)
    track = movie.tracks[0]
    ranges = track.presented_ranges(movie.timescale)
    assert ranges is not None
    samples = [sample for sample in samples_of(data, track) if is_presented(ranges, sample.composition_time)]
    times = [presentation_time(ranges, sample.composition_time) / track.timescale for sample in samples]
    return sorted(zip(times, (sample.data for sample in samples), strict=True))


@settings(max_examples=80, deadline=None)
@given(MOVIES, SECONDS, CONTEXT)
def test_a_segment_presents_its_own_frames_and_the_context(
    specs: tuple[TrackSpec, ...], duration_s: Fraction, context_frames: int
) -> None:
    """The frames of the source from N before the segment's first to N after its last, in order and at their times."""
    source = make_movie(specs)
    plan = plan_split(load(source), duration_s, context_frames=context_frames)
    expected, first = presented(source), 0
    for index, data in enumerate(split(source, duration_s, context_frames)):
        end = first + plan.segments[index].frames
        before = min(first, context_frames) if plan.context else 0
        after = min(len(expected) - end, context_frames) if plan.context else 0
        found = [(time + plan.movie_start_s(index), frame) for time, frame in presented(data)]
        assert found == expected[first - before : end + after]
        assert presented_video(load(data)).frames == before + plan.segments[index].frames + after
        assert presented_video(own_part(load(data))).frames == plan.segments[index].frames
        first = end
    assert first == len(expected)


@settings(max_examples=60, deadline=None)
@given(MOVIES, SECONDS, CONTEXT)
def test_a_segment_has_every_sample_that_its_frames_refer_to(
    specs: tuple[TrackSpec, ...], duration_s: Fraction, context_frames: int
) -> None:
    """From a sync sample that is presented first, without a gap in decode order but the leading samples of that one."""
    source = make_movie(specs)
    order = [sample.data for sample in samples_of(source, load(source).tracks[0])]
    for index, data in enumerate(split(source, duration_s, context_frames)):
        samples = samples_of(data, load(data).tracks[0])
        first = order.index(samples[0].data)
        assert samples[0].is_sync
        following = order.index(samples[1].data) if len(samples) > 1 else first + 1
        if index and first:
            assert samples[0].composition_time == min(sample.composition_time for sample in samples)
        else:
            assert following == first + 1 or samples[0].composition_time <= samples[1].composition_time
        assert [sample.data for sample in samples[1:]] == order[following : following + len(samples) - 1]


@settings(max_examples=60, deadline=None)
@given(MOVIES, SECONDS, CONTEXT)
def test_untouched_segments_join_to_the_source(
    specs: tuple[TrackSpec, ...], duration_s: Fraction, context_frames: int
) -> None:
    """Every track has the samples, times, sync samples and edit lists of the source: the context is dropped."""
    source = make_movie(specs)
    joined = join_bytes(split(source, duration_s, context_frames))
    before, after = load(source), load(joined)
    for old, new in zip(before.tracks, after.tracks, strict=True):
        assert samples_of(joined, new) == samples_of(source, old)
        assert new.edits == old.edits


@settings(max_examples=40, deadline=None)
@given(MOVIES, SECONDS, CONTEXT)
def test_a_stored_plan_gives_the_same_segments(
    specs: tuple[TrackSpec, ...], duration_s: Fraction, context_frames: int
) -> None:
    """A retry cuts at the stored times and finds the same context."""
    movie = load(make_movie(specs))
    plan = plan_split(movie, duration_s, context_frames=context_frames)
    assert split_at(movie, plan.starts_s, context_frames=context_frames) == replace(plan, notice=None)


def test_an_untouched_segment_among_processed_ones_is_joined_without_its_context() -> None:
    """The frames of the context, and the audio beside it, are left out of the final."""
    video = TrackSpec([40] * 40, sync=range(0, 40, 10))
    audio = TrackSpec([1024] * 75, handler=b"soun", timescale=48000)
    source = make_movie([video, audio])
    parts = split(source, Fraction(2, 5), 4)
    plain = split(source, Fraction(2, 5), 0)
    mixed = [load(without_provenance(plain[0])), load(parts[1]), load(parts[2]), load(without_provenance(plain[3]))]
    starts_s = [Fraction(number * 2, 5) for number in range(4)]
    layout = plan_join(mixed, starts_s)
    assert not layout.is_restored
    final = assemble(layout, plain[0], parts[1], parts[2], plain[3])
    assert presented(final) == presented(source)
