"""Status transitions are conditional writes: a job that has moved on stays where it is."""

from dataclasses import replace
from fractions import Fraction

import pytest
from media_worker import jobs
from media_worker.errors import JobMoved
from media_worker.jobs import JobStatus

from tests.functional.stack import Stack
from tests.unit.test_durable_plan import plan_of


@pytest.mark.parametrize("status", ["completed", "deleted"])
def test_a_failure_does_not_overwrite_a_final_status(stack: Stack, status: str) -> None:
    """The row of a completed or deleted job is unchanged."""
    stack.add_job(status={"S": status})
    before = stack.row("Jobs")
    assert not jobs.fail_job(stack.aws, "job-1", "too late")
    assert stack.row("Jobs") == before


def test_a_failure_creates_no_job(stack: Stack) -> None:
    """A job that was removed stays removed."""
    assert not jobs.fail_job(stack.aws, "job-1", "too late")
    assert stack.row("Jobs") == {}


def test_a_long_error_is_truncated(stack: Stack) -> None:
    """A row has 400 KB at most."""
    stack.add_job()
    assert jobs.fail_job(stack.aws, "job-1", "x" * 500_000)
    assert stack.job().error == "x" * 2000


def test_a_refused_transition_names_the_status(stack: Stack) -> None:
    """The error names the job's status and the wanted one."""
    stack.add_job(status={"S": "created"})
    with pytest.raises(JobMoved, match="job job-1 is created: it cannot become completed"):
        jobs.finish_reassembly(stack.aws, "job-1", {}, "segments")
    with pytest.raises(JobMoved, match="job job-2 is unknown: it cannot become completed"):
        jobs.finish_reassembly(stack.aws, "job-2", {}, "segments")


def test_a_plan_is_read_back_as_it_was_written(stack: Stack) -> None:
    """The duration is exact: two thirds of a second have no decimal form."""
    stack.add_job(status={"S": "chunking_in_progress"})
    plan = replace(plan_of(*[10] * 7), segment_duration_s=Fraction(2, 3))
    jobs.record_plan(stack.aws, stack.job(), plan)
    job = stack.job()
    assert (job.total_segments, job.segment_duration_s) == (7, Fraction(2, 3))
    assert (job.source_etag, job.plan) == (plan.source.etag, plan.digest)


def test_a_new_run_records_its_start(stack: Stack) -> None:
    """It removes the error of the last run. A run that is resumed keeps its start."""
    stack.add_job(status={"S": "failed"}, error={"S": "bad luck"}, run_started_at={"N": "17"})
    jobs.begin_chunking(stack.aws, stack.job())
    started = stack.job()
    assert started.status is JobStatus.CHUNKING_IN_PROGRESS
    assert started.error is None
    assert (started.run_started_at or 0) > 17
    jobs.begin_chunking(stack.aws, started)
    assert stack.job() == started
