"""What a source holds: the codecs of its tracks and its duration, read from its index in S3."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from media_worker.errors import MediaWorkerError
from media_worker.mp4 import Mp4Error, presented_video, read_movie
from media_worker.s3 import StoredObject, read_range
from media_worker.verification import describe_tracks

if TYPE_CHECKING:
    from media_worker.aws import Aws


@dataclass(frozen=True, slots=True)
class SourceTracks:
    """The tracks of a source, such as `vide/avc1`."""

    tracks: tuple[str, ...]
    duration_s: float
    frames: int


def read_tracks(aws: "Aws", source: StoredObject) -> SourceTracks | None:
    """The tracks of a source, or None when it is not an MP4 whose index can be read."""
    try:
        movie = read_movie(partial(read_range, aws, source), source.size_bytes)
        video = presented_video(movie)
    except (Mp4Error, MediaWorkerError):
        return None
    return SourceTracks(describe_tracks(movie), float(video.duration_s), video.frames)
