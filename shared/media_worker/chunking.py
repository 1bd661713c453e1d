"""Chunking: the story of one source, step by step."""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from media_worker import jobs
from media_worker.completions import trigger_if_complete
from media_worker.deadline import Context, Deadline
from media_worker.engines import prepare_split
from media_worker.errors import BadSource, NothingToDo
from media_worker.giving_up import CHUNKING, give_up
from media_worker.jobs import Job, JobStatus
from media_worker.keys import build_segment_prefix
from media_worker.lease import chunking_lease, run_under_lease
from media_worker.messages import ChunkRequest
from media_worker.storage import StoredObject, describe, remove_incomplete
from media_worker.telemetry import Steps, count, logger

if TYPE_CHECKING:
    from media_worker.aws import Aws


def chunk(aws: "Aws", request: ChunkRequest, context: Context, *, is_last_receive: bool = False) -> None:
    """Cut a job's source into segments, and say so on the job. On the last receive: give the job up instead.

    Raises:
        NothingToDo: the job is unknown, or past chunking.
        PermanentError: the job is `failed` now, with this text as its error.
        RetryableError: nothing is lost; the message has to come back.
    """
    with jobs.failing_job(aws, request.job_id):
        job = _known_job(aws, request.job_id)
    if job.status not in jobs.TRANSITIONS[JobStatus.CHUNKING_IN_PROGRESS]:
        _look_after_trigger(aws, job)
        raise NothingToDo(f"job {job.job_id} is {job.status}: past chunking")
    if is_last_receive:
        give_up(aws, CHUNKING, chunking_lease(aws), job.job_id, context)
        return
    run_under_lease(aws, chunking_lease(aws), job.job_id, context, partial(_chunk, aws, request, context))
    trigger_if_complete(aws, job.job_id)


def _chunk(aws: "Aws", request: ChunkRequest, context: Context) -> Mapping[str, Any]:
    """The part under the lease. The job is read again: it may have moved on while we waited for the lease."""
    with jobs.failing_job(aws, request.job_id):
        job = _known_job(aws, request.job_id)
        jobs.begin_chunking(aws, job)
        return _split(aws, job, _find_source(aws, request), context)


def _known_job(aws: "Aws", job_id: str) -> Job:
    job = jobs.read_job(aws, job_id)
    if job is None:
        raise NothingToDo(f"there is no job {job_id}")
    return job


def _split(aws: "Aws", job: Job, source: StoredObject, context: Context) -> Mapping[str, Any]:
    deadline, steps = Deadline(context), Steps()
    duration_s = job.segment_duration_s or aws.settings.chunk_segment_duration_sec
    with prepare_split(aws, job, source, duration_s, deadline, steps) as split:
        jobs.record_plan(aws, job, split.total_segments, duration_s, source.etag)
        logger.info("planned", total_segments=split.total_segments)
        split.write_segments(job)
    remove_incomplete(aws, source.bucket, build_segment_prefix(job.job_id))
    jobs.finish_chunking(aws, job.job_id, steps.report)
    count("JobsChunked")
    count("Segments", split.total_segments)
    return {"total_segments": split.total_segments}


def _find_source(aws: "Aws", request: ChunkRequest) -> StoredObject:
    source = describe(aws, request.bucket, request.key)
    if source is None:
        raise BadSource(f"the source is not there (any more): s3://{request.bucket}/{request.key}")
    if source.size_bytes == 0:
        raise BadSource("the source is empty (0 bytes)")
    return source


def _look_after_trigger(aws: "Aws", job: Job) -> None:
    """A chunking that died after its last write may have left the reassembly unasked for."""
    if job.status is JobStatus.CHUNKING_COMPLETE:
        trigger_if_complete(aws, job.job_id)
