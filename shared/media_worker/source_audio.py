"""Where a final's audio and other tracks come from: the processed segments, or the source, sample for sample.

Workers that process frames often return video only. `tracks` on the job row, or the setting TRACKS, decides:

    auto       the source if no processed segment has audio and the source has, else the segments, none of which may
               lack audio that it had when it was split. With context frames always the source, if it has audio: audio
               that a worker passed on from a segment begins with the context
    source     the source; audio in the processed segments is ignored
    segments   the segments, also if that means silence
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal, TypeAlias

from media_worker.engines.copy import open_object
from media_worker.errors import BadSegment, BadSource
from media_worker.keys import build_segment_key
from media_worker.mp4 import Movie, Mp4Error, SourceTracks, Track, has_audio
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
# A worker's encoder may write nothing for less. A segment also has 0.2 s of its neighbours' audio, and may lose it.
_NOTICEABLE_S = Fraction(1, 2)
# A packet that lasts longer, and longer than most, precedes a pause. Opus packets have at most 120 ms.
_LONGEST_PACKET_S = Fraction(1, 4)


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
    """A processed segment may lack audio, or have less of it than video, only if it did when it was split.

    The audio of a source may start late, pause and end early. With `frame_check: any`, a worker may change the
    duration, and only whole tracks are missed.

    Raises:
        BadSegment: names the segment, what it has and what it had.
    """
    processed = [_audio_lengths_s(movie) for movie in segments]
    kept = max(map(len, processed), default=0)  # as many tracks as the workers return
    is_same_speed = job.frame_check == "auto"
    video_s = [planned.duration_s for planned in plan.segments] if is_same_speed else [Fraction(0)] * len(segments)
    for index, split in _as_split(aws, job, plan, _suspicious(processed, kept, video_s)):
        if isinstance(split, str):
            if len(processed[index]) < kept:
                raise BadSegment(
                    f"segment {index} has {_count(processed[index])}, others have {kept}, and it cannot be compared: "
                    f"{split}: set `tracks` to `segments` if it had no more when it was split"
                )
            continue
        is_added = len(processed[index]) > len(split) and min(map(len, processed)) < kept
        losses = _losses(split, processed[index], kept)
        if is_added or any(not has for _, has in losses):
            change = f"has {_count(processed[index])}, but had {_count(split)}"
        elif losses and is_same_speed:
            change = "has an audio track of {1:.1f} s that had {0:.1f} s".format(*map(float, losses[0]))
        else:
            continue
        raise BadSegment(
            f"segment {index} {change} when it was split: process it again, return no audio for any segment, or set "
            "`tracks` to `source` or `segments`"
        )


def _suspicious(processed: Sequence[Sequence[Fraction]], kept: int, video_s: Sequence[Fraction]) -> list[int]:
    """The segments with fewer audio tracks than others, or less audio than video, which lasts `video_s` in each.

    If there are fewer in some, one segment with all of them is suspicious, too: its worker may have added one.
    """
    fewer = {index for index, lengths_s in enumerate(processed) if len(lengths_s) < kept}
    with_all = [index for index, lengths_s in enumerate(processed) if len(lengths_s) == kept][: 1 if fewer else 0]
    shorter = {
        index
        for index, (lengths_s, duration_s) in enumerate(zip(processed, video_s, strict=True))
        if min(lengths_s, default=duration_s) < duration_s - _NOTICEABLE_S
    }
    return sorted({*fewer, *with_all, *shorter})


def _as_split(aws: "Aws", job: "Job", plan: Plan, indexes: Sequence[int]) -> list[tuple[int, list[Fraction] | str]]:
    """The lengths of the audio tracks that segments had when they were split, or what happened to these segments."""

    def lengths_s(index: int) -> list[Fraction] | str:
        found = _find_segment(aws, job, plan, index)
        return found if isinstance(found, str) else _audio_lengths_s(open_object(aws, found).movie)

    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        opened = [submit(pool, lengths_s, index) for index in indexes]
        return [(index, each.result()) for index, each in zip(indexes, opened, strict=True)]


def _losses(split: Sequence[Fraction], processed: Sequence[Fraction], kept: int) -> list[tuple[Fraction, Fraction]]:
    """Of the `kept` audio tracks of a segment, the lengths of those that became noticeably shorter: before and after.

    The lengths are in ascending order. If workers keep only some tracks, nobody knows which: these are compared with
    the shortest ones.
    """
    had_s = [Fraction(0)] * (kept - len(split)) + list(split[:kept])
    has_s = [Fraction(0)] * (kept - len(processed)) + list(processed)
    return [(had, has) for had, has in zip(had_s, has_s, strict=True) if had - has > _NOTICEABLE_S]


def _count(lengths_s: Sequence[Fraction]) -> str:
    return {0: "no audio track", 1: "1 audio track"}.get(len(lengths_s), f"{len(lengths_s)} audio tracks")


def _audio_lengths_s(movie: Movie) -> list[Fraction]:
    """The seconds of audio in each audio track that has any, in ascending order. Pauses do not count.

    In a file, the last packet before a pause lasts until its end.
    """
    tracks = (track for track in movie.tracks if track.handler == b"soun" and track.table.count)
    return sorted(map(_seconds_of_packets, tracks))


def _seconds_of_packets(track: Track) -> Fraction:
    packets: Counter[int] = Counter()
    for count, duration in zip(track.table.durations.counts, track.table.durations.values, strict=True):
        packets[duration] += count
    usual = max(packets, key=packets.__getitem__)
    longest = max(usual, int(_LONGEST_PACKET_S * track.timescale))
    return Fraction(sum(count * min(duration, longest) for duration, count in packets.items()), track.timescale)


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
