"""Cutting and joining by the index: nothing lost, nothing twice, nothing moved."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st
from media_worker.mp4 import differences, lay_out, plan_join, plan_split, summary_of
from media_worker.mp4.edits import film_time

from tests.unit.mp4.films import (
    TrackSpec,
    join_bytes,
    load,
    make_film,
    put_final_together,
    put_together,
    samples_of,
    without_note,
)
from tests.unit.mp4.strategies import FILMS

SECONDS = st.fractions(Fraction(1, 50), 2, max_denominator=50)


def cut(film: bytes, duration_s: Fraction, max_gap_bytes: int = 0) -> list[bytes]:
    movie = load(film)
    plan = plan_split(movie, duration_s)
    return [put_together(lay_out(movie, plan, index, max_gap_bytes), film) for index in range(plan.total_segments)]


@settings(max_examples=80, deadline=None)
@given(FILMS, SECONDS)
def test_every_sample_is_in_exactly_one_segment_in_order(specs: tuple[TrackSpec, ...], duration_s: Fraction) -> None:
    """All segments in a row hold each track's samples, byte for byte."""
    film = make_film(specs)
    segments = [(segment, load(segment)) for segment in cut(film, duration_s)]
    for number, track in enumerate(load(film).tracks):
        found = [sample.data for data, movie in segments for sample in samples_of(data, movie.tracks[number])]
        assert found == [sample.data for sample in samples_of(film, track)]


@settings(max_examples=80, deadline=None)
@given(FILMS, SECONDS)
def test_untouched_segments_join_to_the_source(specs: tuple[TrackSpec, ...], duration_s: Fraction) -> None:
    """Samples, decode and composition times, sync marks and edit lists are the source's own."""
    film = make_film(specs)
    joined = join_bytes(cut(film, duration_s))
    before, after = load(film), load(joined)
    assert after.timescale == before.timescale
    for old, new in zip(before.tracks, after.tracks, strict=True):
        assert samples_of(joined, new) == samples_of(film, old)
        assert new.edits == old.edits
        assert new.descriptions == old.descriptions


@settings(max_examples=60, deadline=None)
@given(FILMS, SECONDS)
def test_every_segment_begins_with_a_picture_that_decodes_alone(
    specs: tuple[TrackSpec, ...], duration_s: Fraction
) -> None:
    """The first picture of a segment is a sync sample, shown first of all of them, at the very start."""
    film = make_film(specs)
    for number, segment in enumerate(cut(film, duration_s)):
        movie = load(segment)
        pictures = samples_of(segment, movie.tracks[0])
        if number:
            assert pictures[0].is_sync
            assert pictures[0].composition_time == min(picture.composition_time for picture in pictures)
            spans = movie.tracks[0].spans(movie.timescale)
            assert spans is not None
            assert film_time(spans, pictures[0].composition_time) == 0


@settings(max_examples=60, deadline=None)
@given(FILMS, SECONDS)
def test_other_tracks_are_in_sync_to_the_tick(specs: tuple[TrackSpec, ...], duration_s: Fraction) -> None:
    """Each sample is shown as long after its segment's start as it was after the cut in the source."""
    film = make_film(specs)
    movie = load(film)
    plan = plan_split(movie, duration_s)
    for index in range(plan.total_segments):
        segment = load(put_together(lay_out(movie, plan, index), film))
        for number, (whole, part) in enumerate(zip(movie.tracks, segment.tracks, strict=True)):
            first, end = plan.samples(number, index)
            spans, own = whole.spans(movie.timescale), part.spans(segment.timescale)
            if first == end or not index:
                continue
            assert spans is not None
            assert own is not None
            origin = plan.starts_s[index] * whole.timescale
            begin = plan.cuts[number][index].media_time
            local = part.table.composition_start()
            assert film_time(own, local) == film_time(spans, begin) - origin


@settings(max_examples=60, deadline=None)
@given(FILMS, SECONDS)
def test_segments_without_a_note_keep_every_picture_in_order(
    specs: tuple[TrackSpec, ...], duration_s: Fraction
) -> None:
    """Joined by their own times alone, all pictures are there, and shown in the same order."""
    film = make_film(specs)
    segments = [without_note(segment) for segment in cut(film, duration_s)]
    joined = join_bytes(segments)
    before, after = (samples_of(data, load(data).tracks[0]) for data in (film, joined))
    assert [sample.data for sample in after] == [sample.data for sample in before]
    shown = [sorted(pictures, key=lambda picture: picture.composition_time) for pictures in (before, after)]
    assert [picture.data for picture in shown[0]] == [picture.data for picture in shown[1]]


@settings(max_examples=50, deadline=None)
@given(FILMS, SECONDS, st.integers(0, 60))
def test_gaps_that_are_copied_along_change_nothing(
    specs: tuple[TrackSpec, ...], duration_s: Fraction, gap: int
) -> None:
    """Fewer ranges, some bytes too many, the same samples."""
    film = make_film(specs)
    joined = join_bytes(cut(film, duration_s, gap))
    for old, new in zip(load(film).tracks, load(joined).tracks, strict=True):
        assert samples_of(joined, new) == samples_of(film, old)


@settings(max_examples=50, deadline=None)
@given(FILMS, SECONDS)
def test_a_finished_file_is_as_its_plan_says(specs: tuple[TrackSpec, ...], duration_s: Fraction) -> None:
    """The summary of a plan is the summary of what was read back."""
    film = make_film(specs)
    movie = load(film)
    plan = plan_split(movie, duration_s)
    segments = []
    for index in range(plan.total_segments):
        layout = lay_out(movie, plan, index)
        segments.append(put_together(layout, film))
        assert not differences(layout.summary, summary_of(load(segments[-1]), len(segments[-1])))
    final = plan_join([load(segment) for segment in segments])
    joined = put_final_together(final, segments)
    assert not differences(final.summary, summary_of(load(joined), len(joined)))


def test_a_difference_is_named() -> None:
    """A film that lost samples on the way is described, not only rejected."""
    long, short = (make_film([TrackSpec([40] * count)]) for count in (10, 9))
    said = differences(summary_of(load(long), len(long)), summary_of(load(short), len(long)))
    assert "track 1: samples 9 instead of 10" in said
