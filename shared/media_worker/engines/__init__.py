"""Which engine does the work: `copy` where it supports the file, else `ffmpeg`, with the reason in the log."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from typing import TYPE_CHECKING

from media_worker.byte_ranges import TooManyParts
from media_worker.deadline import Deadline
from media_worker.engines import copy, segmenting
from media_worker.errors import BadSegment, BadSource
from media_worker.mp4 import Mp4Error
from media_worker.s3 import StoredObject, Target
from media_worker.telemetry import Steps, count, logger

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from media_worker.jobs import Job
    from media_worker.settings import Engine

type Split = copy.Split | segmenting.Split


def prepare_split(
    aws: "Aws", job: "Job", source: StoredObject, segment_duration_s: Fraction, deadline: Deadline, steps: Steps
) -> AbstractContextManager[Split]:
    """A source with its plan, by the first engine that supports it; the context ends when the segments are written."""
    engine = _wanted(aws, job)
    if engine != "ffmpeg":
        try:
            split = copy.prepare_split(aws, source, segment_duration_s, deadline, steps)
        except (Mp4Error, TooManyParts) as error:
            if engine == "copy":
                raise BadSource(f"the copy engine cannot split the source: {error}") from error
            _fall_back(error)
        else:
            _use("copy")
            return nullcontext(split)
    _use("ffmpeg")
    return segmenting.prepare_split(aws, source, segment_duration_s, deadline, steps)


def make_final(
    aws: "Aws", job: "Job", segments: Sequence[StoredObject], target: Target, deadline: Deadline, steps: Steps
) -> None:
    """Join processed segments into the final, by the first engine that supports them."""
    engine = _wanted(aws, job)
    if engine != "ffmpeg":
        try:
            copy.make_final(aws, segments, target, deadline, steps)
        except (Mp4Error, TooManyParts) as error:
            if engine == "copy":
                raise BadSegment(f"the copy engine cannot join the segments: {error}") from error
            _fall_back(error)
        else:
            _use("copy")
            return
    _use("ffmpeg")
    segmenting.make_final(aws, segments, target, deadline, steps)


def _wanted(aws: "Aws", job: "Job") -> "Engine":
    return job.engine or aws.settings.engine


def _fall_back(error: Exception) -> None:
    count("EngineFallbacks")
    logger.info("Copy engine cannot do this", event="engine_fallback", failure=type(error).__name__, reason=str(error))


def _use(engine: str) -> None:
    if engine == "copy":
        count("CopyEngineUsed")
    logger.info("Engine chosen", event="engine_chosen", engine=engine)
