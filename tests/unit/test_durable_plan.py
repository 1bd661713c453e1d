"""The plan of a job: stored as versioned JSON, named by its digest, refused when it contradicts itself."""

import json
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_worker.errors import BadPlan
from media_worker.plan import Plan, PlannedCut, PlannedSegment, PlannedSource, digest_of, parse_plan

SOURCE = PlannedSource("input/job-1/source.mp4", "etag", 1_000)


def plan_of(*frames: int, frame_s: Fraction = Fraction(1, 25), start_s: Fraction = Fraction(0)) -> Plan:
    segments, first = [], 0
    for index, count in enumerate(frames):
        segments.append(PlannedSegment(index, first, count, start_s, count * frame_s, frame_s))
        first, start_s = first + count, start_s + count * frame_s
    return Plan(SOURCE, "copy", Fraction(4), 12_800, tuple(segments))


plans = st.builds(
    plan_of,
    st.integers(1, 10_000),
    st.integers(1, 10_000),
    st.integers(1, 10_000),
    frame_s=st.fractions(min_value=Fraction(1, 1000), max_value=2, max_denominator=100_000),
    start_s=st.fractions(min_value=0, max_value=10, max_denominator=1000),
)


@given(plans)
def test_a_stored_plan_reads_back_as_it_was(plan: Plan) -> None:
    """parse(to_json(plan)) == plan, and the digest names the stored bytes."""
    assert parse_plan(plan.to_json()) == plan
    assert digest_of(plan.to_json()) == plan.digest


@given(plans, st.fractions(min_value=0, max_value=2, max_denominator=1000))
def test_how_long_a_first_frame_lasts_is_stored(plan: Plan, first_frame_s: Fraction) -> None:
    """If the frame rate varies. Plans of a constant rate do not name it."""
    varying = replace(plan, segments=tuple(replace(each, first_frame_s=first_frame_s) for each in plan.segments))
    assert parse_plan(varying.to_json()) == varying
    assert b"first_frame_s" not in plan.to_json()


def test_a_segment_without_a_duration_has_no_frame_rate() -> None:
    """A broken file can have frames that last no time. Its plan is made, and refused with a reason."""
    planned = PlannedSegment(0, 0, 1, Fraction(0), Fraction(0), Fraction(0))
    assert planned.frame_rate is None
    assert "frame-rate" not in planned.metadata()


def test_plans_with_cuts_are_of_version_3() -> None:
    """They say what was wanted and got; plans without are written as before, byte for byte."""
    plain = plan_of(10, 10)
    cuts = (PlannedCut(Fraction(1, 3), Fraction(2, 5)), PlannedCut(Fraction(9), None))
    timed = replace(plain, segment_duration_s=None, cut_times=cuts, cut_tolerance_s=Fraction(1, 2))
    numbered = replace(plain, segment_duration_s=None, wanted_segments=2, context_frames=4)
    for plan in (timed, numbered):
        assert json.loads(plan.to_json())["version"] == 3
        assert parse_plan(plan.to_json()) == plan
    assert json.loads(timed.to_json())["cut_times"] == [
        {"wanted_s": "1/3", "got_s": "2/5"},
        {"wanted_s": "9", "got_s": None},
    ]
    assert (timed.wanted, numbered.wanted) == ("1 of 2 wanted cut times", "about 2 segments of equal duration")
    assert plain.digest == "ac828ea347d56d8ee388bbeb0f6f604b"


def test_a_later_plan_with_the_same_cuts_has_another_digest() -> None:
    """It is read back as it was written."""
    plan = plan_of(10, 10)
    later = replace(plan, replanned_at=1_800_000_000)
    assert later.digest != plan.digest
    assert parse_plan(later.to_json()) == later


@given(plans, plans)
def test_different_plans_have_different_digests(one: Plan, other: Plan) -> None:
    """Two plans share a digest only when they are equal."""
    assert (one.digest == other.digest) == (one == other)


def test_a_plan_written_by_hand_is_read() -> None:
    """The documented format is all that a plan needs."""
    stored = json.dumps(
        {
            "version": 1,
            "source": {"key": "input/job-1/source.mp4", "etag": "e", "size_bytes": 10},
            "engine": "copy",
            "segment_duration_s": "4",
            "timescale": 25,
            "segments": [
                {
                    "index": 0,
                    "first_frame": 0,
                    "frames": 50,
                    "start_s": "0",
                    "duration_s": "2",
                    "longest_frame_s": "1/25",
                },
                {
                    "index": 1,
                    "first_frame": 50,
                    "frames": 1,
                    "start_s": "2",
                    "duration_s": "1/25",
                    "longest_frame_s": "1/25",
                },
            ],
        }
    ).encode()
    plan = parse_plan(stored)
    assert (plan.frames, plan.duration_s, plan.notice) == (51, Fraction(51, 25), None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 4}, "version is 4"),
        ({"segments": []}, "no segments"),
        ({"source": None}, "cannot be read"),
        ({"segment_duration_s": "1/0"}, "cannot be read"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused(change: dict[str, object], reason: str) -> None:
    """Another version, no segments or bad values: BadPlan says which."""
    stored = json.loads(plan_of(10, 10).to_json()) | change
    with pytest.raises(BadPlan, match=reason):
        parse_plan(json.dumps(stored).encode())


@pytest.mark.parametrize(
    ("attribute", "value"), [("first_frame", 9), ("first_frame", 11), ("start_s", "1/3"), ("index", 2), ("frames", 0)]
)
def test_segments_tile_the_video(attribute: str, value: object) -> None:
    """A gap, an overlap, or an empty segment is refused."""
    stored = json.loads(plan_of(10, 10).to_json())
    stored["segments"][1][attribute] = value
    with pytest.raises(BadPlan, match="segment 1"):
        parse_plan(json.dumps(stored).encode())


def test_text_that_is_not_json_is_refused() -> None:
    """A damaged plan stops the job; it is never guessed."""
    with pytest.raises(BadPlan, match="cannot be read"):
        parse_plan(b"\x00\x01")


def test_a_segment_says_what_its_worker_needs() -> None:
    """Frames, first frame, exact start and duration; the frame rate when it is constant."""
    planned = plan_of(75, 50).segments[1]
    assert planned.metadata() == {
        "frames": "50",
        "first-frame": "75",
        "start-seconds": "3",
        "duration-seconds": "2",
        "frame-rate": "25",
    }
    variable = PlannedSegment(0, 0, 3, Fraction(0), Fraction(1), Fraction(1, 2))
    assert "frame-rate" not in variable.metadata()


def test_a_plan_with_context_frames_is_version_2() -> None:
    """It reads back as it was written. A plan without them is version 1, as before: its digest does not change."""
    plain = plan_of(10, 10)
    segments = (
        replace(plain.segments[0], context_after=4),
        replace(plain.segments[1], context_before=4),
    )
    plan = replace(plain, context_frames=4, segments=segments)
    assert json.loads(plan.to_json())["version"] == 2
    assert parse_plan(plan.to_json()) == plan
    assert plan.segments[0].metadata(has_context=True)["context-before"] == "0"
    assert plan.segments[0].metadata(has_context=True)["context-after"] == "4"
    assert json.loads(plain.to_json())["version"] == 1
    assert b"context" not in plain.to_json()
