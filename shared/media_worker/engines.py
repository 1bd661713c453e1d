"""Which engine does the work: `copy` where the file is one that it takes, else `ffmpeg`, with the reason in the log."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from typing import TYPE_CHECKING

from media_worker import copy_engine, ffmpeg_engine
from media_worker.deadline import Deadline
from media_worker.errors import BadSegment, BadSource
from media_worker.mp4.errors import Mp4Error
from media_worker.storage import StoredObject, Target
from media_worker.telemetry import Steps, count, logger

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from media_worker.jobs import Job
    from media_worker.settings import Engine

type Split = copy_engine.Split | ffmpeg_engine.Split


def prepare_split(
    aws: "Aws", job: "Job", source: StoredObject, segment_duration_s: Fraction, deadline: Deadline, steps: Steps
) -> AbstractContextManager[Split]:
    """A source with its plan, by the engine that takes it; the context ends when the segments are written."""
    engine = _wanted(aws, job)
    if engine != "ffmpeg":
        try:
            split = copy_engine.prepare_split(aws, source, segment_duration_s, deadline, steps)
        except Mp4Error as error:
            if engine == "copy":
                raise BadSource(f"the copy engine cannot cut the source: {error}") from error
            _fall_back(error)
        else:
            _use("copy")
            return nullcontext(split)
    _use("ffmpeg")
    return ffmpeg_engine.prepare_split(aws, source, segment_duration_s, deadline, steps)


def make_final(
    aws: "Aws", job: "Job", segments: Sequence[StoredObject], target: Target, deadline: Deadline, steps: Steps
) -> None:
    """Join processed segments into the final, by the engine that takes them."""
    engine = _wanted(aws, job)
    if engine != "ffmpeg":
        try:
            copy_engine.make_final(aws, segments, target, deadline, steps)
        except Mp4Error as error:
            if engine == "copy":
                raise BadSegment(f"the copy engine cannot join the segments: {error}") from error
            _fall_back(error)
        else:
            _use("copy")
            return
    _use("ffmpeg")
    ffmpeg_engine.make_final(aws, segments, target, deadline, steps)


def _wanted(aws: "Aws", job: "Job") -> "Engine":
    return job.engine or aws.settings.engine


def _fall_back(error: Mp4Error) -> None:
    count("EngineFallbacks")
    logger.info("the copy engine does not take this", failure=type(error).__name__, reason=str(error))


def _use(engine: str) -> None:
    if engine == "copy":  # the others are ffmpeg's
        count("CopyEngineUsed")
    logger.info("engine chosen", engine=engine)
