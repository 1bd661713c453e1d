"""Where a final's audio and other tracks come from: the processed segments, or the source, sample for sample.

Workers that process frames often return video only. `tracks` on the job row, or the setting TRACKS, decides:

    auto       the source if no processed segment has audio and the source has, else the segments, none of which may
               lack audio that the source has. With context frames always the source, if it has audio: audio that a
               worker passed on from a segment begins with the context
    source     the source; audio in the processed segments is ignored
    segments   the segments, also if that means silence
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, TypeAlias

from media_worker.engines.copy import open_object
from media_worker.errors import BadSegment, BadSource
from media_worker.keys import build_segment_key
from media_worker.mp4 import Movie, Mp4Error, SourceTracks, has_audio
from media_worker.plan import Plan, PlannedSource
from media_worker.s3 import PLAN, StoredObject, describe
from media_worker.telemetry import logger, submit

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from media_worker.jobs import Job
    from media_worker.settings import Tracks

# What was used in the end.
TracksUsed: TypeAlias = Literal["source", "segments"]

_READS_AT_ONCE = 16
# A worker's encoder may write nothing for less. It is the pre-roll, too.
_NOTICEABLE_S = Fraction(1, 2)


@dataclass(frozen=True, slots=True)
class OpenedSource:
    """The source's tracks, and the objects that have their samples."""

    tracks: SourceTracks
    objects: tuple[StoredObject, ...]


def wanted_tracks(aws: "Aws", job: "Job") -> "Tracks":
    """What the job asks for, or the stack's setting."""
    return job.tracks or aws.settings.tracks


def open_source_tracks(aws: "Aws", job: "Job", plan: Plan | None, segments: Sequence[Movie]) -> OpenedSource | None:
    """The source, if the final's tracks other than the video come from it; None if they come from the segments.

    Raises:
        BadSource: the source was removed or replaced since it was split.
        BadSegment: `auto`, and a processed segment lacks audio that it had when it was split; names it.
    """
    wanted = wanted_tracks(aws, job)
    opened = _open(aws, job, plan) if plan and _may_be_used(wanted, plan, segments) else None
    if wanted == "source" and plan is None:
        raise BadSource("tracks is `source`, but the job has no plan: other software has split the source")
    if wanted == "auto" and opened and not opened.tracks.has_audio:
        opened = None
    if wanted == "auto" and plan and not opened:
        _require_audio(aws, job, plan, segments)
    used: TracksUsed = "source" if opened else "segments"
    logger.info("Tracks chosen", event="tracks_chosen", tracks=used, wanted=wanted)
    return opened


def _may_be_used(wanted: "Tracks", plan: Plan, segments: Sequence[Movie]) -> bool:
    if wanted == "auto":
        return plan.has_audio is not False and (plan.context_frames > 0 or not any(map(has_audio, segments)))
    return wanted == "source"


def _open(aws: "Aws", job: "Job", plan: Plan) -> OpenedSource:
    with _as_bad_source():
        return _open_segments(aws, job, plan) if plan.engine == "remux" else _open_source(aws, plan)


def _open_source(aws: "Aws", plan: Plan) -> OpenedSource:
    found = describe(aws, aws.settings.input_bucket_name, plan.source.key)
    where = f"s3://{aws.settings.input_bucket_name}/{plan.source.key}"
    if found is None:
        raise BadSource(f"the audio comes from the source, and {where} was removed after it was split")
    if PlannedSource(found.key, found.etag, found.size_bytes) != plan.source:
        raise BadSource(f"the audio comes from the source, and {where} was replaced after it was split")
    return OpenedSource(SourceTracks.of_source(open_object(aws, found).movie), (found,))


def _require_audio(aws: "Aws", job: "Job", plan: Plan, segments: Sequence[Movie]) -> None:
    """Segments at the start and the end may lack audio if the source does: it starts late, or ends early.

    The join refuses a segment without audio between others that have it.
    """
    filled = [index for index, movie in enumerate(segments) if has_audio(movie)]
    neighbours = {filled[0] - 1, filled[-1] + 1} & set(range(len(segments))) if filled else set()
    for index in sorted(neighbours):
        found = _find_segment(aws, job, plan, index)
        if isinstance(found, StoredObject) and _seconds_of_audio(open_object(aws, found).movie) > _NOTICEABLE_S:
            raise BadSegment(
                f"segment {index} has no audio, but had some when it was split, and segment {filled[0]} has audio: "
                "process it again, return no audio for any segment, or set `tracks` to `source` or `segments`"
            )


def _seconds_of_audio(movie: Movie) -> Fraction:
    lengths = (Fraction(each.table.media_duration, each.timescale) for each in movie.tracks if each.handler == b"soun")
    return max(lengths, default=Fraction(0))


def _find_segment(aws: "Aws", job: "Job", plan: Plan, index: int) -> StoredObject | str:
    """A segment as it was split, or what happened to it."""
    key = build_segment_key(job.job_id, index, len(plan.segments), job.mode)
    found = describe(aws, aws.settings.input_bucket_name, key)
    if found is not None and found.metadata.get(PLAN) == job.plan:
        return found
    what = "was removed" if found is None else "is of another plan"
    return f"segment {index} {what}: s3://{aws.settings.input_bucket_name}/{key}"


def _open_segments(aws: "Aws", job: "Job", plan: Plan) -> OpenedSource:
    """The segments as they were split: of a source that had to be remuxed, no other object can be read by ranges."""

    def find(index: int) -> tuple[StoredObject, Movie]:
        found = _find_segment(aws, job, plan, index)
        if isinstance(found, str):
            raise BadSource(f"the audio comes from the segments as they were split, and {found}")
        return found, open_object(aws, found).movie

    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        opened = [each.result() for each in [submit(pool, find, index) for index in range(len(plan.segments))]]
    return OpenedSource(SourceTracks.of_segments([movie for _, movie in opened]), tuple(found for found, _ in opened))


@contextmanager
def _as_bad_source() -> Iterator[None]:
    try:
        yield
    except Mp4Error as error:
        raise BadSource(f"the audio cannot be read from the source: {error}") from error
