"""Chunking: the story of one source, step by step."""

from functools import partial
from typing import TYPE_CHECKING

from media_worker import jobs
from media_worker.completions import trigger_if_complete
from media_worker.deadline import Context, Deadline
from media_worker.engines import prepare_split
from media_worker.errors import BadSource, NothingToDo
from media_worker.final_delivery import record_failure
from media_worker.jobs import CHUNKING_STATUSES, Job, JobStatus
from media_worker.keys import build_segment_prefix
from media_worker.lease import chunking_lease, run_under_lease
from media_worker.messages import ChunkRequest
from media_worker.s3 import StoredObject, abort_incomplete_uploads, describe
from media_worker.telemetry import Steps, count, logger

if TYPE_CHECKING:
    from media_worker.aws import Aws


def chunk(aws: "Aws", request: ChunkRequest, context: Context, *, is_final_delivery: bool = False) -> None:
    """Split a job's source into segments and record that on the job. The final delivery only records the failure.

    Raises:
        NothingToDo: the job is unknown, or past chunking.
        PermanentError: the job is `failed`, with this text as its error.
        RetryableError: nothing is lost; the message must be delivered again.
    """
    lease = chunking_lease(aws, request.job_id)
    with jobs.failing_job(aws, request.job_id):
        job = _known_job(aws, request.job_id)
    if job.status not in jobs.TRANSITIONS[JobStatus.CHUNKING_IN_PROGRESS]:
        if job.status is JobStatus.CHUNKING_COMPLETE:
            # A chunking that died after its last write may not have requested the reassembly.
            trigger_if_complete(aws, job.job_id)
        raise NothingToDo(f"job {job.job_id} is {job.status}: past chunking")
    if is_final_delivery:
        uploads = (aws.settings.input_bucket_name, build_segment_prefix(job.job_id))
        record_failure(aws, lease, context, CHUNKING_STATUSES, uploads)
    run_under_lease(aws, lease, context, partial(_chunk, aws, request, context))
    trigger_if_complete(aws, job.job_id)


def _chunk(aws: "Aws", request: ChunkRequest, context: Context) -> None:
    """The part under the lease. The job is read again: it may have moved on while we waited for the lease."""
    with jobs.failing_job(aws, request.job_id):
        job = _known_job(aws, request.job_id)
        jobs.begin_chunking(aws, job)
        source = _find_source(aws, request)
        deadline, steps = Deadline(context), Steps()
        duration_s = job.segment_duration_s or aws.settings.chunk_segment_duration_sec
        with prepare_split(aws, job, source, duration_s, deadline, steps) as split:
            jobs.record_plan(aws, job, split.total_segments, duration_s, source.etag)
            logger.info("Source planned", event="source_planned", total_segments=split.total_segments)
            split.write_segments(job)
        abort_incomplete_uploads(aws, source.bucket, build_segment_prefix(job.job_id))
        jobs.finish_chunking(aws, job.job_id, steps.report)
    count("JobsChunked")
    count("Segments", split.total_segments)


def _known_job(aws: "Aws", job_id: str) -> Job:
    job = jobs.read_job(aws, job_id)
    if job is None:
        raise NothingToDo(f"there is no job {job_id}")
    return job


def _find_source(aws: "Aws", request: ChunkRequest) -> StoredObject:
    source = describe(aws, request.bucket, request.key)
    if source is None:
        raise BadSource(f"the source does not exist: s3://{request.bucket}/{request.key}")
    if source.size_bytes == 0:
        raise BadSource("the source is empty (0 bytes)")
    return source
