"""Segments as workers find them: each is written once, whichever engine made it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from media_worker.keys import build_segment_key
from media_worker.storage import StoredObject, Target, describe, is_made_of
from media_worker.telemetry import logger

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from media_worker.jobs import Job

# Segments that are written at the same time.
AT_ONCE = 4


def write_segment(
    aws: "Aws", job: "Job", source: StoredObject, place: tuple[int, int], write: Callable[[Target], bool]
) -> None:
    """Write the segment `place` (index, total) unless it is there. `write` says whether it wrote."""
    key = build_segment_key(job.job_id, *place, job.mode)
    written = not _is_there(aws, job, source, key) and write(Target(source.bucket, key, source.etag))
    logger.info("segment written" if written else "segment was there", key=key)


def _is_there(aws: "Aws", job: "Job", source: StoredObject, key: str) -> bool:
    """Whether an earlier try wrote this segment; asked only when there was an earlier try."""
    if job.source_etag != source.etag:
        return False
    there = describe(aws, source.bucket, key)
    return there is not None and is_made_of(there, source.etag)
