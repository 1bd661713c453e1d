"""Engines: where the bytes of a source or of a processed segment come from.

`copy` reads the object's own index, and S3 copies its media. `remux` has ffmpeg copy the packets into an MP4 on /tmp,
for files whose index cannot be read. Planning, splitting and joining are the same for both.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from media_worker.deadline import Deadline
from media_worker.engines import remux
from media_worker.engines.copy import Media, open_object
from media_worker.errors import BadSegment, BadSource
from media_worker.mp4 import Encrypted, Mp4Error, from_first_decodable, one_by_one
from media_worker.s3 import StoredObject
from media_worker.telemetry import Steps, count, logger, submit

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from media_worker.settings import Engine

_READS_AT_ONCE = 16


@contextmanager
def open_source(
    aws: "Aws", source: StoredObject, engine: "Engine", deadline: Deadline, steps: Steps
) -> Iterator[Media]:
    """Read a source's index; with the remux engine, after ffmpeg has made an MP4 of it. `auto`: whichever can.

    Its movie presents no frames at its start that cannot be decoded.

    Raises:
        BadSource: this is not a video that can be split.
        NoRoom: the remuxed source does not fit on /tmp.
    """
    with ExitStack() as stack:
        media = None
        if engine != "ffmpeg":
            try:
                with steps.step("read"):
                    media = open_object(aws, source)
            except Encrypted as error:
                raise BadSource(f"{error}: decrypt it before the upload") from error
            except Mp4Error as error:
                if engine == "copy":
                    raise BadSource(f"the copy engine cannot split the source: {error}") from error
                _log_fallback(error, source)
        if media is None:
            media = stack.enter_context(remux.open_source(aws, source, deadline, steps))
        _log_choice(media)
        yield replace(media, movie=from_first_decodable(media.movie, media.read_many or one_by_one(media.read)))


@contextmanager
def open_segments(
    aws: "Aws", segments: Sequence[StoredObject], engine: "Engine", deadline: Deadline, steps: Steps
) -> Iterator[list[Media]]:
    """Read the indexes of processed segments; those that cannot be read are remuxed by ffmpeg.

    Raises:
        BadSegment: a segment is not a video; names it.
        NoRoom: the remuxed segments do not fit on /tmp.
    """
    with ExitStack() as stack:
        with steps.step("check"):
            found = [None] * len(segments) if engine == "ffmpeg" else _open_objects(aws, segments, engine)
            unread = [index for index, media in enumerate(found) if media is None]
            remuxed = stack.enter_context(remux.open_segments(aws, segments, unread, deadline)) if unread else {}
            count("CopyEngineUsed", 0 if unread else 1)
        yield [media or remuxed[index] for index, media in enumerate(found)]


def _open_objects(aws: "Aws", segments: Sequence[StoredObject], engine: "Engine") -> list[Media | None]:
    def open_one(index: int) -> Media | None:
        try:
            return open_object(aws, segments[index])
        except Encrypted as error:
            raise BadSegment(f"segment {index} cannot be joined: {error}") from error
        except Mp4Error as error:
            if engine == "copy":
                raise BadSegment(f"the copy engine cannot join segment {index}: {error}") from error
            _log_fallback(error, segments[index])
            return None

    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        return [each.result() for each in [submit(pool, open_one, index) for index in range(len(segments))]]


def _log_fallback(error: Mp4Error, stored: StoredObject) -> None:
    count("EngineFallbacks")
    failure = type(error).__name__
    logger.info("Remuxing", event="engine_fallback", key=stored.key, failure=failure, reason=str(error))


def _log_choice(media: Media) -> None:
    if media.engine == "copy":
        count("CopyEngineUsed")
    logger.info("Engine chosen", event="engine_chosen", engine=media.engine)
