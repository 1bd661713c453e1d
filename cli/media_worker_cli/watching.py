"""Watching a job: its status, and how many segments are written and processed."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from media_worker.attempts import read_attempts
from media_worker.aws import Aws
from media_worker.completions import current_completions
from media_worker.description import Segment, describe_segments, remaining_s
from media_worker.jobs import Job, JobStatus, now_s, read_job
from media_worker.keys import build_segment_prefix

from media_worker_cli.errors import JobFailed, UsageError

# How often a job is read. On AWS each read costs money.
LOCAL_INTERVAL_S = 0.2
AWS_INTERVAL_S = 2.0

_SEGMENTS_WRITTEN = {JobStatus.CHUNKING_COMPLETE, JobStatus.REASSEMBLING, JobStatus.COMPLETED}
_SEGMENTS_PROCESSED = {JobStatus.REASSEMBLING, JobStatus.COMPLETED}


@dataclass(frozen=True, slots=True)
class JobProgress:
    """A job, how many of its segments are written and processed, and those that workers have at the moment."""

    job: Job
    written: int = 0
    processed: int = 0
    running: tuple[Segment, ...] = ()
    # Seconds until the last segment is processed, if that can be told.
    remaining_s: int | None = None


def watch(aws: Aws, job_id: str, report: Callable[[JobProgress], None], interval_s: float) -> Job:
    """Read a job's progress every `interval_s` until it is completed, and report it each time.

    Raises:
        JobFailed: the job failed or was deleted.
        UsageError: there is no such job.
    """
    while True:
        progress = read_progress(aws, job_id)
        report(progress)
        job = progress.job
        if job.status is JobStatus.COMPLETED:
            return job
        if job.status is JobStatus.FAILED:
            raise JobFailed(job.error or f"job {job_id} failed; its row holds no reason")
        if job.status is JobStatus.DELETED:
            raise JobFailed(f"job {job_id} was deleted")
        time.sleep(interval_s)


def read_progress(aws: Aws, job_id: str) -> JobProgress:
    """The present progress of a job.

    Raises:
        UsageError: there is no such job.
    """
    job = read_job(aws, job_id)
    if job is None:
        raise UsageError(f"there is no job {job_id!r}")
    if job.total_segments is None:
        return JobProgress(job)
    if job.status in _SEGMENTS_PROCESSED:
        return JobProgress(job, job.total_segments, job.total_segments)
    written = job.total_segments if job.status in _SEGMENTS_WRITTEN else _count_segments(aws, job_id)
    now, completions = now_s(), current_completions(aws, job)
    attempts = read_attempts(aws, job_id)
    segments = describe_segments(job, None, completions, attempts, frozenset(), now) if attempts else ()
    running = tuple(segment for segment in segments if segment.state == "running")
    return JobProgress(job, written, len(completions), running, remaining_s(job, completions, running, now))


def _count_segments(aws: Aws, job_id: str) -> int:
    pages = aws.s3.get_paginator("list_objects_v2").paginate(
        Bucket=aws.settings.input_bucket_name, Prefix=build_segment_prefix(job_id)
    )
    return sum(found["Key"].endswith(".mp4") for page in pages for found in page.get("Contents", []))
