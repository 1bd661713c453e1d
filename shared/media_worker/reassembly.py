"""Reassembly: the story of one job, step by step."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from media_worker import jobs
from media_worker.completions import Completion, current_completions
from media_worker.deadline import Context, Deadline
from media_worker.engines import make_final
from media_worker.errors import BadSegment, JobMoved, NothingToDo, NotReady, TransferFailed
from media_worker.final import check_final
from media_worker.giving_up import REASSEMBLY, give_up
from media_worker.jobs import Job, JobStatus
from media_worker.keys import build_final_key
from media_worker.lease import reassembly_lease, run_under_lease
from media_worker.messages import ReassemblyRequest
from media_worker.plan import describe_gaps
from media_worker.storage import StoredObject, Target, describe, is_made_of, let_expire, remove_incomplete
from media_worker.telemetry import Steps, count, logger

if TYPE_CHECKING:
    from media_worker.aws import Aws


_HEADS_AT_ONCE = 16


def reassemble(aws: "Aws", request: ReassemblyRequest, context: Context, *, is_last_receive: bool = False) -> None:
    """Join a job's processed segments into its final, and say so on the job. On the last receive: give it up instead.

    Raises:
        NothingToDo: the job is unknown, deleted or completed.
        PermanentError: the job is `failed` now, with this text as its error.
        RetryableError: nothing is lost; the message has to come back.
    """
    if is_last_receive:
        give_up(aws, REASSEMBLY, reassembly_lease(aws), request.job_id, context)
        return
    run_under_lease(aws, reassembly_lease(aws), request.job_id, context, partial(_reassemble, aws, request, context))


def _reassemble(aws: "Aws", request: ReassemblyRequest, context: Context) -> Mapping[str, Any]:
    """The part under the lease."""
    with jobs.failing_job(aws, request.job_id):
        job = jobs.read_job(aws, request.job_id)
        if job is None:
            raise NothingToDo(f"there is no job {request.job_id}")
        if job.status not in jobs.TRANSITIONS[JobStatus.REASSEMBLING]:
            raise NothingToDo(f"job {job.job_id} is {job.status}: there is nothing to join")
        return _make_final(aws, job, context)


def _make_final(aws: "Aws", job: Job, context: Context) -> Mapping[str, Any]:
    steps = Steps()
    final = _written_final(aws, job)
    if final is None:
        segments = _find_segments(aws, job, _complete_set(aws, job))
        jobs.begin_reassembly(aws, job.job_id)
        target = Target(aws.settings.output_bucket_name, build_final_key(job.job_id), job.source_etag or "")
        make_final(aws, job, segments, target, Deadline(context), steps)
        final = _written_final(aws, job)
    else:
        jobs.begin_reassembly(aws, job.job_id)
        logger.info("the final is there: an earlier try wrote it")
    remove_incomplete(aws, aws.settings.output_bucket_name, build_final_key(job.job_id))
    if final is None:
        raise TransferFailed("the final was written and is not there")
    with _expiring_if_deleted(aws, job):
        with steps.step("verify"):
            check_final(aws, final)
        jobs.finish_reassembly(aws, job.job_id, steps.report)
    count("JobsCompleted")
    logger.info("job completed", key=final.key, bytes=final.size_bytes)
    return {"final": final.key}


@contextmanager
def _expiring_if_deleted(aws: "Aws", job: Job) -> Iterator[None]:
    """A job that was deleted while its final was written: nothing else would ever remove that."""
    try:
        yield
    except JobMoved:
        found = jobs.read_job(aws, job.job_id)
        if found is not None and found.status is JobStatus.DELETED:
            let_expire(aws, aws.settings.output_bucket_name, build_final_key(job.job_id))
            logger.info("the job was deleted: its final will expire")
        raise


def _written_final(aws: "Aws", job: Job) -> StoredObject | None:
    """The final of this very source, if it was written; a leftover of another source does not count."""
    final = describe(aws, aws.settings.output_bucket_name, build_final_key(job.job_id))
    return final if final and is_made_of(final, job.source_etag or "") else None


def _complete_set(aws: "Aws", job: Job) -> list[Completion]:
    """The completions of all segments, in order.

    Raises:
        NotReady: they are not exactly 0..total-1; says which are missing.
    """
    if job.total_segments is None:
        raise NotReady(f"job {job.job_id} has no total_segments yet: its chunking has not planned")
    completions = current_completions(aws, job)
    if gaps := describe_gaps([completion.segment_index for completion in completions], job.total_segments):
        raise NotReady(f"job {job.job_id} cannot be joined: {gaps}")
    return completions


def _find_segments(aws: "Aws", job: Job, completions: list[Completion]) -> list[StoredObject]:
    """The processed segments as S3 has them.

    Raises:
        BadSegment: one is not there, or not where the contract says.
    """

    def find(completion: Completion) -> StoredObject:
        bucket, key = completion.location(job.job_id, aws.settings.output_bucket_name)
        if not (segment := describe(aws, bucket, key)):
            raise BadSegment(
                f"segment {completion.segment_index} was completed, but {completion.output_s3_uri} is not there"
            )
        return segment

    with ThreadPoolExecutor(_HEADS_AT_ONCE) as pool:
        return list(pool.map(find, completions))
