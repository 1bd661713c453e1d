"""Verify the final: it carries a digest of what was planned, and is read back before the job is completed."""

import hashlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from media_worker.errors import BadFinal
from media_worker.mp4 import MovieSummary, Mp4Error, read_movie, summary_of
from media_worker.s3 import StoredObject, Target, read_range
from media_worker.telemetry import logger

if TYPE_CHECKING:
    from media_worker.aws import Aws

# Metadata of a final: a digest of its planned tracks, sample counts, bytes and durations.
_SUMMARY = "summary"


def announcing(target: Target, planned: MovieSummary) -> Target:
    """A target whose object carries the digest of what was planned, so that any later attempt can verify it."""
    return replace(target, metadata={**target.metadata, _SUMMARY: _digest(planned)})


def check_final(aws: "Aws", final: StoredObject) -> None:
    """Read a final's index back and compare it with what was planned.

    Raises:
        BadFinal: it differs from the plan.
    """
    try:
        found = summary_of(read_movie(partial(read_range, aws, final), final.size_bytes), final.size_bytes)
    except Mp4Error as error:
        raise BadFinal(f"the final cannot be read back: {error}") from error
    logger.info("Final read back", event="final_read_back", found=str(found))
    if final.metadata.get(_SUMMARY) != _digest(found):
        raise BadFinal(f"the final differs from the plan: found {found}")


def _digest(summary: MovieSummary) -> str:
    return hashlib.sha256(repr(summary).encode()).hexdigest()
