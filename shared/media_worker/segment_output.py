"""A processed segment: comparing it with the plan before it is uploaded, and the upload."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from boto3.s3.transfer import TransferConfig

from media_worker.errors import AttemptFailed
from media_worker.mp4 import BrokenFile, Presented, Unsupported, own_part, presented_video, read_movie
from media_worker.telemetry import logger
from media_worker.verification import describe_context

if TYPE_CHECKING:
    from collections.abc import Mapping

    from media_worker.aws import Aws
    from media_worker.jobs import FrameCheck

_MIB = 1024 * 1024
_UPLOAD = TransferConfig(multipart_threshold=16 * _MIB, multipart_chunksize=16 * _MIB, max_concurrency=8)
_CONTAINERS = (
    *(b"\x1a\x45\xdf\xa3", b"\x47", b"RIFF", b"FLV", b"OggS"),  # Matroska, MPEG-TS, AVI, FLV, Ogg
    *(b"\x06\x0e\x2b\x34", b"\x30\x26\xb2\x75", b"\x00\x00\x01\xba"),  # MXF, ASF, MPEG-PS
)
_MP4_BOXES = frozenset({b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide"})
# Edit lists and track headers are often written in milliseconds.
_ROUNDING_S = Fraction(2, 1000)


@dataclass(frozen=True, slots=True)
class ExpectedOutput:
    """What the segment's metadata says. None: not known."""

    frames: int | None
    duration_s: Fraction | None
    fps: Fraction | None
    # Frames that the segment presents, and the output must not: those of its neighbours.
    context: int = 0


def check_output(path: Path, expected: ExpectedOutput, frame_check: "FrameCheck") -> None:
    """Check that a command wrote a processed segment that the join will accept.

    It must present the planned frames or a whole multiple of them. Whether the multiple is the same in all segments is
    checked at the join.

    Raises:
        AttemptFailed: says what was found and what was expected.
    """
    if not path.is_file() or path.stat().st_size == 0:
        raise AttemptFailed("the command wrote no output")
    if frame_check == "any" or expected.frames is None:
        return
    try:
        with path.open("rb") as file:

            def read(offset: int, length: int) -> bytes:
                file.seek(offset)
                return file.read(length)

            found = presented_video(own_part(read_movie(read, path.stat().st_size)))
    except BrokenFile as error:
        raise AttemptFailed(f"the output is not a readable video: {error}") from error
    except Unsupported as error:
        if not _is_container(path):
            raise AttemptFailed(f"the output is not a video: {error}") from error
        # The join remuxes it, and counts its frames then.
        logger.warning("Frames of the output not counted", event="output_not_checked", reason=str(error))
        return
    if problem := _other_frames(found, expected):
        raise AttemptFailed(f"the output has {problem}")
    if expected.duration_s is None or expected.fps is None:
        return
    if abs(found.duration_s - expected.duration_s) > 1 / expected.fps + _ROUNDING_S:
        raise AttemptFailed(
            f"the output lasts {float(found.duration_s):.3f} s, {float(expected.duration_s):.3f} s expected"
        )


def _other_frames(found: Presented, expected: ExpectedOutput) -> str | None:
    """What to say of an output with other frames than expected, or None."""
    assert expected.frames is not None
    if expected.context:
        frame_s = found.longest_frame_s if expected.fps is None else 1 / expected.fps
        is_longer = expected.duration_s is not None and found.duration_s > expected.duration_s + frame_s + _ROUNDING_S
        if problem := describe_context(found.frames, expected.frames, expected.context, is_longer=is_longer):
            return problem
    if not found.frames or found.frames % expected.frames:
        return f"{found.frames:,} frames, {expected.frames:,} expected"
    return None


def _is_container(path: Path) -> bool:
    """Whether a file begins like a media container that the join can remux."""
    with path.open("rb") as file:
        head = file.read(8)
    return head.startswith(_CONTAINERS) or head[4:8] in _MP4_BOXES


def upload_output(aws: "Aws", path: Path, key: str, metadata: "Mapping[str, str]", tag: tuple[str, str] | None) -> None:
    """Upload a processed segment, in parallel parts, with the tag by which the bucket's lifecycle rule removes it."""
    extra = {"ContentType": "video/mp4", "Metadata": dict(metadata)}
    if tag:
        extra["Tagging"] = urlencode([tag])
    aws.s3.upload_file(str(path), aws.settings.output_bucket_name, key, ExtraArgs=extra, Config=_UPLOAD)
