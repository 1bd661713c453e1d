"""Watching a job from outside: its row, its segments, its completions."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from media_worker.aws import Aws
from media_worker.completions import read_completions
from media_worker.jobs import Job, JobStatus, read_job

from local.errors import JobFailed, UsageError

# The local cloud is asked often; AWS takes money for every question.
LOCAL_PAUSE_S = 0.2
AWS_PAUSE_S = 2.0

_MADE = {JobStatus.CHUNKING_COMPLETE, JobStatus.REASSEMBLING, JobStatus.COMPLETED}
_JOINED_FROM = {JobStatus.REASSEMBLING, JobStatus.COMPLETED}


@dataclass(frozen=True, slots=True)
class Sighting:
    """How far a job was when we looked."""

    job: Job
    segments: int = 0
    processed: int = 0


def watch(aws: Aws, job_id: str, report: Callable[[Sighting], None], pause_s: float) -> Job:
    """Look at a job until it is completed.

    Raises:
        JobFailed: it failed or was deleted.
        UsageError: there is no such job.
    """
    while True:
        sighting = look(aws, job_id)
        report(sighting)
        job = sighting.job
        if job.status is JobStatus.COMPLETED:
            return job
        if job.status is JobStatus.FAILED:
            raise JobFailed(job.error or f"job {job_id} failed and does not say why")
        if job.status is JobStatus.DELETED:
            raise JobFailed(f"job {job_id} was deleted")
        time.sleep(pause_s)


def look(aws: Aws, job_id: str) -> Sighting:
    """How far a job is.

    Raises:
        UsageError: there is no such job.
    """
    job = read_job(aws, job_id)
    if job is None:
        raise UsageError(f"there is no job {job_id!r}")
    if job.total_segments is None:
        return Sighting(job)
    if job.status in _JOINED_FROM:
        return Sighting(job, job.total_segments, job.total_segments)
    segments = job.total_segments if job.status in _MADE else _count_segments(aws, job_id)
    return Sighting(job, segments, len(read_completions(aws, job_id)))


def _count_segments(aws: Aws, job_id: str) -> int:
    pages = aws.s3.get_paginator("list_objects_v2").paginate(
        Bucket=aws.settings.input_bucket_name, Prefix=f"segments/{job_id}/"
    )
    return sum(page["KeyCount"] for page in pages)
