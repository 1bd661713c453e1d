"""AV1 forward key frames: which samples a segment can start with, and how many reads it takes to find them.

The clip has four seconds at 24 frames per second. Its key frames are presented at 0, 1, 2 and 3 s; all but the first
are hidden in the sample 7 frames earlier. It was made by `aomenc --enable-fwd-kf=1 --fwd-kf-dist=24 --kf-max-dist=9999
--lag-in-frames=25 --passes=2 --cq-level=62`.
"""

from __future__ import annotations

from array import array
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_worker.mp4 import SplitPlan, SplitRule, lay_out, plan_join, plan_split, split_at
from media_worker.mp4.forward_keys import key_bytes, presented_in
from media_worker.mp4.key_frames import extent_of
from media_worker.mp4.provenance import Provenance, build_provenance, find_provenance, without_provenance
from media_worker.mp4.samples import concat_tables

from tests.unit.mp4.movies import TrackSpec, assemble, load, make_movie, video_entry

CLIP = (Path(__file__).parents[2] / "media" / "av1_forward_keys.mp4").read_bytes()
MOVIE = load(CLIP)
HIDDEN, PRESENTED = (17, 41, 65), (24, 48, 72)


def sample(number: int) -> bytes:
    offset, length = extent_of(MOVIE.tracks[0].table, number, len(CLIP))
    return CLIP[offset : offset + length]


GOP = [sample(number) for number in range(HIDDEN[0], PRESENTED[0] + 1)]
SEQUENCE = GOP[0][:12]


class Reader:
    """Counts what is read."""

    def __init__(self, data: bytes = CLIP) -> None:
        self.data = data
        self.lengths: list[int] = []

    def __call__(self, offset: int, length: int) -> bytes:
        self.lengths.append(length)
        return self.data[offset : offset + length]


def plan_of(rule: SplitRule | Fraction, context_frames: int = 0) -> SplitPlan:
    return plan_split(MOVIE, rule, Reader(), context_frames=context_frames)


def segments_of(plan: SplitPlan) -> list[bytes]:
    return [assemble(lay_out(MOVIE, plan, index), CLIP) for index in range(plan.total_segments)]


def test_a_segment_starts_where_a_forward_key_frame_is_presented() -> None:
    """Its first sample is the hidden key frame and the sample that presents it. The segment before does not overlap."""
    plan = plan_of(Fraction(1))
    assert [cut.sample for cut in plan.cuts[0]] == [0, *PRESENTED, 96]
    assert plan.notice is None
    for hidden, presented, segment in zip(HIDDEN, PRESENTED, segments_of(plan)[1:], strict=True):
        movie = load(segment)
        offset, length = extent_of(movie.tracks[0].table, 0, len(segment))
        key = sample(hidden)[: key_bytes(sample(hidden))]
        assert segment[offset : offset + length] == key + sample(presented)
        assert movie.tracks[0].table.count == 24
        assert list(movie.tracks[0].table.sync or ()) == [0]


@pytest.mark.parametrize("context_frames", [0, 2, 30])
def test_untouched_segments_restore_the_source(context_frames: int) -> None:
    """Byte for byte the same samples with the same tables."""
    segments = segments_of(plan_of(Fraction(1), context_frames))
    layout = plan_join([load(segment) for segment in segments])
    final = load(assemble(layout, *segments))
    assert layout.is_restored
    for before, after in zip(MOVIE.tracks, final.tracks, strict=True):
        assert after.table.sizes.table == before.table.sizes.table
        assert (after.table.sync, after.table.durations, after.edits) == (
            before.table.sync,
            before.table.durations,
            before.edits,
        )
    joined = assemble(layout, *segments)
    for number in range(96):
        offset, length = extent_of(final.tracks[0].table, number, len(joined))
        assert joined[offset : offset + length] == sample(number)


@pytest.mark.parametrize(
    ("rule", "samples"),
    [
        (SplitRule(segments=2), [48]),
        (SplitRule(cut_times_s=(Fraction(1), Fraction("2.9")), tolerance_s=Fraction("0.2")), [24, 72]),
        (SplitRule(Fraction(3), max_duration_s=Fraction(2)), [48]),
    ],
)
def test_every_rule_finds_them(rule: SplitRule, samples: list[int]) -> None:
    """Also backwards in time. A stored plan cuts at the same samples again."""
    plan = plan_of(rule)
    assert [cut.sample for cut in plan.cuts[0][1:-1]] == samples
    assert split_at(MOVIE, plan.starts_s, Reader()).cuts == plan.cuts


def test_files_that_need_no_forward_key_frames_do_not_pay() -> None:
    """They are only searched for if the plan would have a notice."""
    reader = Reader()
    assert plan_split(MOVIE, Fraction(5), reader).total_segments == 1
    assert not reader.lengths


def test_the_search_is_bounded() -> None:
    """In a long file without forward key frames, 128 samples are looked at, whatever the rule."""
    reader = Reader(make_movie([TrackSpec([40] * 20_000, sync=[0], entry=video_entry(b"av01"))]))
    plan = plan_split(load(reader.data), Fraction(2), reader)
    assert plan.total_segments == 1
    assert plan.notice is not None
    assert len(reader.lengths) == 128


def test_a_cut_costs_few_reads() -> None:
    """The largest samples of two blocks of 64, and those from a key frame to the one that presents it.

    The file is not searched from its beginning to its end.
    """
    video, reader = MOVIE.tracks[0], Reader()
    table = replace(concat_tables([video.table] * 20), sync=array("Q", [0]))
    movie = replace(MOVIE, tracks=(replace(video, table=table, edits=()),))
    plan = plan_split(movie, Fraction(20), reader)
    assert plan.total_segments == 4
    assert len(reader.lengths) <= 3 * (16 + 16)


def test_without_a_reader_the_file_is_one_segment() -> None:
    """Nothing in the index marks forward key frames."""
    assert plan_split(MOVIE, Fraction(1)).total_segments == 1


# Which samples present a hidden key frame


DELIMITER = b"\x12\0"


def test_the_sample_that_presents_the_key_frame_is_found() -> None:
    """It is the one that resets the decoder, not another one that presents a hidden frame."""
    assert presented_in(GOP) == PRESENTED[0] - HIDDEN[0]
    assert presented_in(GOP[:-1]) is None


IN_ANOTHER_SLOT = GOP[0][:17] + b"\x08" + GOP[0][18:]  # the key frame refreshes slot 4 instead of slot 3
OTHER_SLOTS = [b"\x1a\x01" + bytes([0x80 | slot << 4 | 8]) for slot in range(8)]
REFUSED = {
    "a sequence header is missing": [GOP[0][len(SEQUENCE) :], *GOP[1:]],
    "another temporal unit begins": [*GOP[:-1], DELIMITER + GOP[-1]],
    "another sequence begins": [*GOP[:-1], SEQUENCE[:-1] + bytes([SEQUENCE[-1] ^ 8]) + GOP[-1]],
    "another frame comes first": [*GOP[:-1], GOP[1] + GOP[-1]],
    "another key frame is hidden": [GOP[0], IN_ANOTHER_SLOT, *GOP[1:]],
    "another key frame is presented": [GOP[0], sample(0), *GOP[1:]],
    "it is presented at once": [GOP[0] + GOP[-1], *GOP[1:]],
    "it does not begin with a hidden key frame": [sample(0), *GOP[1:]],
    "damaged": [GOP[0][:13]],
    "empty": [b""],
}


@pytest.mark.parametrize("why", sorted(REFUSED))
def test_what_is_not_certain_is_not_cut(why: str) -> None:
    """A decoder that starts there would not present exactly the same frames."""
    assert presented_in(REFUSED[why]) is None


def test_an_unknown_frame_that_is_presented_ends_the_search() -> None:
    """A frame from before the key frame may be a key frame, too. Presented, it would replace all references."""
    refused = [other for other in OTHER_SLOTS if presented_in([GOP[0], other, *GOP[1:]]) is None]
    assert 0 < len(refused) < 8


@pytest.mark.parametrize(("kind", "is_static"), [(1, True), (2, True), (4, False)])
def test_metadata_about_a_single_frame_is_not_moved_to_another(kind: int, is_static: bool) -> None:
    """HDR10 metadata is about the whole video, HDR10+ metadata about the frame that a sample presents."""
    metadata = bytes([0x2A, 3, kind, 0, 0])
    assert key_bytes(SEQUENCE + metadata + GOP[0][12:]) == (key_bytes(GOP[0]) + 5 if is_static else 0)


@given(st.lists(st.binary(max_size=60), max_size=4), st.integers(0, len(GOP)), st.integers(0, 500))
def test_any_bytes_have_an_answer(damaged: list[bytes], kept: int, cut: int) -> None:
    """Nothing is raised."""
    samples = [*GOP[:kept], *damaged, *(each[:cut] for each in GOP[kept:])]
    assert presented_in(samples) in (None, *range(len(samples)))
    assert all(0 <= key_bytes(each) <= len(each) for each in samples)


def test_a_provenance_that_names_too_many_bytes_is_not_used() -> None:
    """The segments are then joined by their own times."""
    segments = [load(segment) for segment in segments_of(plan_of(Fraction(1)))]
    known = find_provenance(segments[1].box)
    assert known is not None

    def with_key_bytes(size: int) -> bool:
        tracks = (replace(known.tracks[0], key_bytes=size), *known.tracks[1:])
        changed: Provenance = replace(known, tracks=tracks)
        moov = without_provenance(segments[1].box)
        box = moov.with_children((*(moov.children or ()), build_provenance(changed)))
        return plan_join([segments[0], replace(segments[1], box=box), *segments[2:]]).is_restored

    assert with_key_bytes(known.tracks[0].key_bytes)
    assert not with_key_bytes(1 << 20)
