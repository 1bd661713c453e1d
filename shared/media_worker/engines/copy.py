"""The copy engine: reads the index of an MP4 by ranged requests. S3 copies its media; none of it passes through here.

It needs no /tmp, has no size limit, and is exact to the sample.
"""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from media_worker.mp4 import Movie, Read, ReadMany, read_movie
from media_worker.plan import PlanEngine
from media_worker.s3 import Source, StoredObject, read_range, read_ranges

if TYPE_CHECKING:
    from media_worker.aws import Aws


@dataclass(frozen=True, slots=True)
class Media:
    """A media file whose index has been read: an object, or a local MP4 that ffmpeg made of one."""

    movie: Movie
    source: Source
    engine: PlanEngine
    # Bytes of the file, by offset and length.
    read: "Read"
    # What the user should know: tracks that were left out, for example.
    notices: tuple[str, ...] = ()
    # Several parts of the file at the same time. None: one after the other.
    read_many: "ReadMany | None" = None


def open_object(aws: "Aws", stored: StoredObject) -> Media:
    """Read an object's index.

    Raises:
        Unsupported: the index cannot be read; ffmpeg may be able to.
        BrokenFile: the file contradicts itself.
    """
    read = partial(read_range, aws, stored)
    read_many = partial(read_ranges, aws, stored)
    return Media(read_movie(read, stored.size_bytes, read_many), stored, "copy", read, read_many=read_many)
