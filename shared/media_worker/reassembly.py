"""Reassembly: the story of one job, step by step."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from media_worker import jobs
from media_worker.completions import Completion, current_completions, describe_gaps
from media_worker.deadline import Context, Deadline
from media_worker.engines import make_final
from media_worker.errors import BadSegment, JobMoved, NothingToDo, NotReady, TransferFailed
from media_worker.final import check_final
from media_worker.final_delivery import record_failure
from media_worker.jobs import REASSEMBLY_STATUSES, Job, JobStatus
from media_worker.keys import build_final_key
from media_worker.lease import reassembly_lease, run_under_lease
from media_worker.messages import ReassemblyRequest
from media_worker.s3 import StoredObject, Target, abort_incomplete_uploads, describe, is_made_from, let_expire
from media_worker.telemetry import Steps, count, logger

if TYPE_CHECKING:
    from media_worker.aws import Aws


_HEADS_AT_ONCE = 16


def reassemble(aws: "Aws", request: ReassemblyRequest, context: Context, *, is_final_delivery: bool = False) -> None:
    """Join a job's processed segments into its final and record that on the job. The final delivery only records the
    failure.

    Raises:
        NothingToDo: the job is unknown, deleted or completed.
        PermanentError: the job is `failed`, with this text as its error.
        RetryableError: nothing is lost; the message must be delivered again.
    """
    lease = reassembly_lease(aws, request.job_id)
    if is_final_delivery:
        uploads = (aws.settings.output_bucket_name, build_final_key(request.job_id))
        record_failure(aws, lease, context, REASSEMBLY_STATUSES, uploads)
    run_under_lease(aws, lease, context, partial(_reassemble, aws, request, context))


def _reassemble(aws: "Aws", request: ReassemblyRequest, context: Context) -> None:
    """The part under the lease."""
    with jobs.failing_job(aws, request.job_id):
        job = jobs.read_job(aws, request.job_id)
        if job is None:
            raise NothingToDo(f"there is no job {request.job_id}")
        if job.status not in jobs.TRANSITIONS[JobStatus.REASSEMBLING]:
            raise NothingToDo(f"job {job.job_id} is {job.status}: there is nothing to join")
        steps = Steps()
        if final := _written_final(aws, job):
            jobs.begin_reassembly(aws, job.job_id)
        else:
            final = _write_final(aws, job, Deadline(context), steps)
        abort_incomplete_uploads(aws, final.bucket, final.key)
        with _expiring_if_deleted(aws, job):
            with steps.step("verify"):
                check_final(aws, final)
            jobs.finish_reassembly(aws, job.job_id, steps.report)
    count("JobsCompleted")
    logger.info("Job completed", event="job_completed", key=final.key, bytes=final.size_bytes)


def _write_final(aws: "Aws", job: Job, deadline: Deadline, steps: Steps) -> StoredObject:
    segments = _find_segments(aws, job, _complete_set(aws, job))
    jobs.begin_reassembly(aws, job.job_id)
    target = Target(aws.settings.output_bucket_name, build_final_key(job.job_id), job.source_etag or "")
    make_final(aws, job, segments, target, deadline, steps)
    final = _written_final(aws, job)
    if final is None:
        raise TransferFailed("the final was written, but S3 does not have it")
    return final


@contextmanager
def _expiring_if_deleted(aws: "Aws", job: Job) -> Iterator[None]:
    """If the job was deleted while its final was being written, have the final expire: nothing else removes it."""
    try:
        yield
    except JobMoved:
        found = jobs.read_job(aws, job.job_id)
        if found is not None and found.status is JobStatus.DELETED:
            let_expire(aws, aws.settings.output_bucket_name, build_final_key(job.job_id))
            logger.info("Job was deleted: its final will expire", event="final_expires")
        raise


def _written_final(aws: "Aws", job: Job) -> StoredObject | None:
    """The final of exactly this source, if an earlier attempt wrote it. One of another source does not count."""
    final = describe(aws, aws.settings.output_bucket_name, build_final_key(job.job_id))
    return final if final and is_made_from(final, job.source_etag or "") else None


def _complete_set(aws: "Aws", job: Job) -> list[Completion]:
    """The completions of all segments, in order.

    Raises:
        NotReady: they are not exactly 0..total-1; says which are missing.
    """
    if job.total_segments is None:
        raise NotReady(f"job {job.job_id} has no total_segments yet: its source has not been planned")
    completions = current_completions(aws, job)
    if gaps := describe_gaps([completion.segment_index for completion in completions], job.total_segments):
        raise NotReady(f"job {job.job_id} cannot be joined: {gaps}")
    return completions


def _find_segments(aws: "Aws", job: Job, completions: list[Completion]) -> list[StoredObject]:
    """The processed segments as S3 describes them.

    Raises:
        BadSegment: one is missing, or its completion names another location than the contract's.
    """

    def find(completion: Completion) -> StoredObject:
        bucket, key = completion.location(job.job_id, aws.settings.output_bucket_name)
        if not (segment := describe(aws, bucket, key)):
            raise BadSegment(
                f"segment {completion.segment_index} was completed, but {completion.output_s3_uri} does not exist"
            )
        return segment

    with ThreadPoolExecutor(_HEADS_AT_ONCE) as pool:
        return list(pool.map(find, completions))
