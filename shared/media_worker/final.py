"""The final checks itself: it carries what it has to hold, and is read back before the job is completed."""

import hashlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from media_worker.composition import read_range
from media_worker.errors import BadFinal
from media_worker.mp4.errors import Mp4Error
from media_worker.mp4.reader import read_movie
from media_worker.mp4.summary import MovieSummary, summary_of
from media_worker.storage import StoredObject, Target
from media_worker.telemetry import logger

if TYPE_CHECKING:
    from media_worker.aws import Aws

# Metadata of a final: a digest of its tracks, sample counts, bytes and durations, as they were planned.
_SUMMARY = "summary"


def announcing(target: Target, planned: MovieSummary) -> Target:
    """A target whose object says what it has to hold. It is there whatever dies after the write."""
    return replace(target, metadata={**target.metadata, _SUMMARY: _digest(planned)})


def check_final(aws: "Aws", final: StoredObject) -> None:
    """Read a final's index back and compare it with what was planned.

    Raises:
        BadFinal: it holds something else.
    """
    try:
        found = summary_of(read_movie(partial(read_range, aws, final), final.size_bytes), final.size_bytes)
    except Mp4Error as error:
        raise BadFinal(f"the final cannot be read back: {error}") from error
    logger.info("final read back", found=str(found))
    if final.metadata.get(_SUMMARY) != _digest(found):
        raise BadFinal(f"the final does not hold what was planned, but {found}")


def _digest(summary: MovieSummary) -> str:
    return hashlib.sha256(repr(summary).encode()).hexdigest()
