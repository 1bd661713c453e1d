"""A job's row is parsed strictly, and its status follows the table of transitions."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from boto3.dynamodb.types import TypeSerializer
from hypothesis import given
from hypothesis import strategies as st
from media_worker.errors import PermanentError
from media_worker.jobs import CANCELLABLE, RETRIABLE, TRANSITIONS, Job, JobStatus, _exact

S = JobStatus
ROW = {"job_id": "j", "status": "created", "mode": "sbs"}


def job(**attributes: Any) -> Job:
    serialize = TypeSerializer().serialize
    return Job.from_item({name: serialize(value) for name, value in (ROW | attributes).items()})


def without(name: str) -> dict[str, Any]:
    return {key: {"S": value} for key, value in ROW.items() if key != name}


@pytest.mark.parametrize(
    ("to", "reached_from"),
    [
        (S.CHUNKING_IN_PROGRESS, {S.CREATED, S.INGESTING, S.CHUNKING_IN_PROGRESS, S.FAILED}),
        (S.CHUNKING_COMPLETE, {S.CHUNKING_IN_PROGRESS}),
        (S.REASSEMBLING, {S.CHUNKING_IN_PROGRESS, S.CHUNKING_COMPLETE, S.REASSEMBLING, S.FAILED}),
        (S.COMPLETED, {S.REASSEMBLING}),
        (S.FAILED, set(S) - {S.COMPLETED, S.DELETED}),
    ],
)
def test_the_transitions(to: JobStatus, reached_from: set[JobStatus]) -> None:
    """The complete table."""
    assert TRANSITIONS[to] == reached_from


def test_the_statuses_that_others_set() -> None:
    """`created`, `ingesting` and `deleted` are set by other software."""
    assert set(S) - set(TRANSITIONS) == {S.CREATED, S.INGESTING, S.DELETED}


@pytest.mark.parametrize("end", [S.COMPLETED, S.DELETED])
def test_final_statuses_are_final(end: JobStatus) -> None:
    """A deleted or completed job is never brought back."""
    assert all(end not in reached_from for reached_from in TRANSITIONS.values())


@pytest.mark.parametrize("to", TRANSITIONS)
def test_a_cancelled_job_can_become_nothing(to: JobStatus) -> None:
    """Until an explicit retry removes `cancelled_at`. Without it, a failed job can be redriven."""
    assert not job(status="failed", cancelled_at=1).can_become(to)
    assert job(status="failed").can_become(to) == (S.FAILED in TRANSITIONS[to])


def test_a_person_can_do_more_than_a_message() -> None:
    """Retry ended jobs; cancel all that have not completed."""
    assert {S.FAILED, S.COMPLETED} == RETRIABLE
    assert set(S) - {S.COMPLETED, S.DELETED} == CANCELLABLE


def test_a_row_needs_three_attributes() -> None:
    """All others are optional."""
    assert job() == Job("j", JobStatus.CREATED, "sbs")


def test_a_complete_row_is_parsed() -> None:
    """Numbers are exact, and unknown attributes are ignored."""
    row = job(
        status="chunking_complete",
        mode="anaglyph",
        total_segments=12,
        segment_duration_sec=Decimal("2.5"),
        engine="ffmpeg",
        source_etag="abc",
        run_started_at=1_700_000_000,
        error="none",
        created_at=1,
        title="a title",
        tags={"a", "b"},
    )
    assert row == Job(
        job_id="j",
        status=JobStatus.CHUNKING_COMPLETE,
        mode="anaglyph",
        total_segments=12,
        segment_duration_s=Fraction(5, 2),
        engine="ffmpeg",
        source_etag="abc",
        run_started_at=1_700_000_000,
        error="none",
    )


@pytest.mark.parametrize(("text", "seconds"), [("2.5", Fraction(5, 2)), ("2/3", Fraction(2, 3)), ("10", Fraction(10))])
def test_a_segment_duration_may_be_text(text: str, seconds: Fraction) -> None:
    """A row that was written by hand may have it either way."""
    assert job(segment_duration_sec=text).segment_duration_s == seconds


@pytest.mark.parametrize("name", ROW)
def test_a_row_without_a_required_attribute_is_refused(name: str) -> None:
    """The error names the attribute."""
    with pytest.raises(PermanentError, match=f"the job's row cannot be used: KeyError: '{name}'"):
        Job.from_item(without(name))


@pytest.mark.parametrize(
    ("attributes", "complaint"),
    [
        ({"status": "archived"}, "archived"),
        ({"mode": "V R"}, "mode 'V R' is not 1 to 32 characters of a-z, 0-9 and -"),
        ({"engine": "gstreamer"}, "'gstreamer' is not one of"),
        ({"total_segments": Decimal("1.5")}, "1.5 is not a whole number"),
        ({"total_segments": "many"}, "many"),
        ({"segment_duration_sec": 0}, "segment_duration_sec is 0: it must be more than 0"),
        ({"segment_duration_sec": -1}, "it must be more than 0"),
        ({"segment_duration_sec": "1/0"}, "ZeroDivisionError"),
        ({"segment_duration_sec": "soon"}, "soon"),
        ({"segment_duration_sec": [1]}, "TypeError"),
        ({"segments": 0}, "segments is 0: it must be a whole number from 1 to 99999"),
        ({"segments": Decimal("1.5")}, "segments is 1.5"),
        ({"segments": 2, "cut_times_s": [1]}, "segments and cut_times_s exclude each other: set only one of them"),
        ({"segments": 2, "segment_duration_sec": 4}, "segment_duration_sec and segments exclude each other"),
        ({"cut_times_s": []}, "cut_times_s must be a list of 1 to 10000 numbers"),
        ({"cut_times_s": "12"}, "cut_times_s must be a list"),
        ({"cut_times_s": [1, -1]}, "a time in cut_times_s is -1: it must be at least 0"),
        ({"cut_times_s": [1, [2]]}, "TypeError"),
        ({"cut_tolerance_sec": 1}, "cut_tolerance_sec has no meaning without cut_times_s"),
        ({"max_segment_duration_sec": 0}, "max_segment_duration_sec is 0: it must be more than 0"),
        ({"max_segment_duration_sec": 2, "segment_duration_sec": 4}, "is less than segment_duration_sec"),
    ],
)
def test_a_row_that_violates_the_contract_is_refused(attributes: dict[str, Any], complaint: str) -> None:
    """The error names the value."""
    with pytest.raises(PermanentError, match=complaint):
        job(**attributes)


@given(st.fractions(min_value=Fraction(1, 10**6), max_value=10**6))
def test_a_duration_is_read_back_as_it_was_written(seconds: Fraction) -> None:
    """A retry must split at the same points as the first attempt."""
    assert job(segment_duration_sec=_exact(seconds)).segment_duration_s == seconds


@pytest.mark.parametrize(
    ("seconds", "written"), [(Fraction(300), Decimal(300)), (Fraction(1, 10), Decimal("0.1")), (Fraction(2, 3), "2/3")]
)
def test_a_duration_is_a_number_if_that_is_exact(seconds: Fraction, written: Decimal | str) -> None:
    """Two thirds of a second are stored as text."""
    assert _exact(seconds) == written
