"""Edit lists map media times to presentation times."""

from __future__ import annotations

from fractions import Fraction

import pytest
from media_worker.mp4.boxes import Box, parse_boxes
from media_worker.mp4.edit_list import (
    EMPTY,
    Edit,
    PresentedRange,
    build_elst,
    clip_ranges,
    edits_of,
    exact_movie_timescale,
    media_time_at,
    parse_elst,
    presentation_time,
    presented_ranges,
)
from media_worker.mp4.errors import BrokenFile


def test_an_edit_list_survives_writing_and_reading() -> None:
    """Version 1, with 64-bit numbers, is only used where it is needed."""
    for edits in ((Edit(5, EMPTY), Edit(7, 3)), (Edit(1 << 33, 1 << 40), Edit(1, 0, 0x8000))):
        (box,) = parse_boxes(memoryview(build_elst(edits).to_bytes()), b"edts")
        assert parse_elst(box) == edits


def test_an_edit_list_cannot_be_longer_than_its_box() -> None:
    """The declared number of entries is checked against the box."""
    with pytest.raises(BrokenFile):
        parse_elst(Box(b"elst", bytes(4) + b"\xff\xff\xff\xff"))


def test_an_edit_list_can_delay_and_trim() -> None:
    """500 ms of nothing, then media from tick 90: presentation time is media time + 410."""
    ranges = presented_ranges([Edit(500, EMPTY), Edit(1000, 90)], 1000, 1000)
    assert ranges is not None
    assert presentation_time(ranges, 90) == 500
    assert presentation_time(ranges, 190) == 600
    assert presentation_time(ranges, 0) == 500  # not presented: the time at which the next presented media is
    assert media_time_at(ranges, Fraction(0)) == 90
    assert media_time_at(ranges, Fraction(1499)) == 1089
    assert media_time_at(ranges, Fraction(1500)) is None


@pytest.mark.parametrize(
    "edits",
    [
        [Edit(100, 500), Edit(100, 0)],  # jumps back
        [Edit(100, 0), Edit(100, 50)],  # presents media twice
        [Edit(100, 0, 0x8000)],  # slow motion
        [Edit(100, EMPTY)],  # presents nothing
        [Edit(0, 0), Edit(100, 50)],  # a still frame
        [Edit(100, -7)],
    ],
)
def test_only_forward_playback_at_normal_speed_has_ranges(edits: list[Edit]) -> None:
    """Other edit lists cannot be cut in media order."""
    assert presented_ranges(edits, 1000, 1000) is None


def test_a_last_edit_of_duration_zero_extends_to_the_end() -> None:
    """Fragmented files have such edits (8.6.6.1)."""
    ranges = presented_ranges([Edit(0, 40)], 1000, 1000)
    assert ranges is not None
    assert ranges[0].media_end is None
    assert presentation_time(ranges, 10**9) == 10**9 - 40


def test_clipped_ranges_keep_their_presentation_times() -> None:
    """Media of a segment is presented at the same time as in the source, relative to the segment's start."""
    ranges = presented_ranges([Edit(100, 0), Edit(100, 300)], 1000, 1000)
    assert ranges is not None
    middle = clip_ranges(ranges, 50, 350)
    assert [each.start for each in middle] == [50, 100]
    assert [each.media_start for each in middle] == [50, 300]
    assert [each.media_end for each in middle] == [100, 350]
    edits = edits_of(
        middle, movie_start=Fraction(20), media_zero=50, media_end=400, track_timescale=1000, movie_timescale=1000
    )
    assert edits == (Edit(30, EMPTY), Edit(50, 0), Edit(50, 250))


def test_a_late_start_is_an_empty_edit() -> None:
    """Start and end are rounded to movie ticks, not the length."""

    def edits(start: int) -> tuple[Edit, ...]:
        presented = PresentedRange(Fraction(start), Fraction(5), Fraction(95))
        return edits_of(
            [presented], movie_start=Fraction(0), media_zero=0, media_end=0, track_timescale=90, movie_timescale=1000
        )

    assert edits(0) == (Edit(1000, 5),)
    assert edits(1) == (Edit(11, EMPTY), Edit(1000, 5))


def test_the_movie_timescale_is_exact_for_every_track() -> None:
    """It is the least common multiple, or that of the first tracks if it exceeds 32 bits."""
    assert exact_movie_timescale([30000, 44100]) == 4410000
    assert exact_movie_timescale([90000, 4294967291, 48000]) == 720000


def test_a_movie_timescale_fits_a_signed_number() -> None:
    """Larger ones are negative for ffmpeg. Video at 25 fps, audio at 48 and 44.1 kHz, and subtitles need 3528000000."""
    assert exact_movie_timescale([12800, 1000, 48000, 44100, 1000000]) == 28224000
