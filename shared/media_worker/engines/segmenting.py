"""The ffmpeg engine: the media comes to /tmp, ffmpeg copies its packets, the result goes back to S3.

It takes whatever ffmpeg can read and an MP4 can hold.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from media_worker.byte_ranges import ByteRange
from media_worker.deadline import Deadline
from media_worker.engines.commands import Media, concat_list, join_command, split_command
from media_worker.engines.copy import SEGMENTS_AT_ONCE, write_segment
from media_worker.engines.cuts import Plan, Span, measure_span, offset_of_next, plan_cuts
from media_worker.engines.ffmpeg import Ffmpeg, Process
from media_worker.errors import BadFinal, BadSegment, BadSource, FfmpegFailed, PermanentError
from media_worker.final import announcing
from media_worker.mp4.reader import read_movie
from media_worker.mp4.summary import MovieSummary, summary_of
from media_worker.s3 import StoredObject, Target, download, downloads, write_once
from media_worker.telemetry import Steps, logger, submit
from media_worker.workdir import require_room, work_directory

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from media_worker.jobs import Job


# Finished segments that may wait for their upload, beside the last one, which waits for the next; beyond that ffmpeg
# is held still, so that /tmp never holds the media twice.
_WINDOW = SEGMENTS_AT_ONCE
_SOURCE = "source"
_FINAL = "final.mp4"


@dataclass(frozen=True, slots=True)
class Split:
    """A source on /tmp with its plan, ready to be carried out."""

    aws: "Aws"
    source: StoredObject
    ffmpeg: Ffmpeg
    media: Media
    plan: Plan
    steps: Steps

    @property
    def total_segments(self) -> int:
        """How many segments there will be."""
        return self.plan.total_segments

    def write_segments(self, job: "Job") -> None:
        """Cut, and upload each segment while ffmpeg goes on with the next. What an earlier try wrote is kept."""
        command = split_command(self.ffmpeg.path, _SOURCE, self.media, self.plan)
        with (
            self.steps.step("split", self.source.size_bytes),
            self.ffmpeg.running(command) as process,
            _pool() as pool,
        ):
            pending: set[Future[None]] = set()
            for index in self._finished(process):
                pending.add(submit(pool, self._upload, job, index))
                if len(pending) >= _WINDOW:
                    with process.paused():
                        pending = _await_one(pending)
            while pending:
                pending = _await_one(pending)

    def _finished(self, process: Process) -> Iterator[int]:
        """The segments that are whole. ffmpeg also names the one in which it failed: the last waits for its end."""
        count = 0
        for count, name in enumerate(process.lines(), start=1):
            if name != _segment_name(count - 1) or count > self.plan.total_segments:
                raise PermanentError(f"ffmpeg wrote {name}, which is not in a plan of {self.plan.total_segments}")
            if count > 1:
                yield count - 2
        try:
            process.finish()
        except FfmpegFailed as error:
            raise BadSource(f"the source cannot be cut: {error.reason}") from error
        if count < self.plan.total_segments:
            raise PermanentError(f"ffmpeg wrote {count} segments, the plan has {self.plan.total_segments}")
        yield count - 1

    def _upload(self, job: "Job", index: int) -> None:
        """Put one segment where workers find it, and forget the file."""
        path = self.ffmpeg.directory / _segment_name(index)
        whole = [ByteRange(0, 0, path.stat().st_size)]
        write_segment(self.aws, job, self.source, (index, self.plan.total_segments), whole, path)
        path.unlink()


@contextmanager
def prepare_split(
    aws: "Aws", source: StoredObject, segment_duration_s: Fraction, deadline: Deadline, steps: Steps
) -> Iterator[Split]:
    """Fetch a source and find where to cut it.

    Raises:
        BadSource: this is no video, or a damaged one.
        NoRoom: it does not fit on /tmp.
    """
    with work_directory() as directory:
        require_room(directory, source.size_bytes, f"a source of {source.size_bytes / 1e6:,.0f} MB")
        with steps.step("download", source.size_bytes), downloads(aws) as manager:
            download(manager, source, directory / _SOURCE, deadline)
        ffmpeg = Ffmpeg(aws.settings.ffmpeg_path, directory, deadline)
        with steps.step("plan"):
            media, plan = _plan(ffmpeg, segment_duration_s)
        waiting = source.size_bytes * min(_WINDOW + 2, plan.total_segments) // plan.total_segments
        require_room(directory, waiting, f"what waits for its upload, of {plan.total_segments} segments,")
        yield Split(aws, source, ffmpeg, media, plan, steps)


def _plan(ffmpeg: Ffmpeg, segment_duration_s: Fraction) -> tuple[Media, Plan]:
    try:
        media = ffmpeg.probe(_SOURCE)
        for track in media.left_out:
            if track.kind == "audio":
                raise BadSource(f"{track} cannot be held by an MP4; convert it before the upload")
            logger.warning("Track left out: an MP4 cannot hold it", event="track_left_out", track=str(track))
        if not any(track.kind == "video" for track in media.kept):
            raise BadSource(f"the source has no video track: {'; '.join(map(str, media.tracks)) or 'no track at all'}")
        return media, plan_cuts(ffmpeg.frames(_SOURCE), segment_duration_s)
    except FfmpegFailed as error:
        raise BadSource(f"the source is not a video that can be cut: {error.reason}") from error


def make_final(aws: "Aws", segments: Sequence[StoredObject], target: Target, deadline: Deadline, steps: Steps) -> None:
    """Fetch the processed segments, check that they fit together, join them, and upload the final.

    Raises:
        BadSegment: a segment is no media file or differs from the others; names it.
        NoRoom: the segments and the final do not fit on /tmp.
    """
    size_bytes = sum(segment.size_bytes for segment in segments)
    names = [_segment_name(index) for index in range(len(segments))]
    with work_directory() as directory:
        require_room(directory, 2 * size_bytes, f"joining {len(segments)} segments of {size_bytes / 1e6:,.0f} MB")
        ffmpeg = Ffmpeg(aws.settings.ffmpeg_path, directory, deadline)
        with steps.step("download", size_bytes):
            found = _fetch_all(aws, segments, names, ffmpeg)
        with steps.step("check"):
            media = _common_media([media for media, _ in found])
        spans = [span for _, span in found]
        with steps.step("join", size_bytes):
            _join(ffmpeg, names, media, spans)
        final = directory / _FINAL
        with steps.step("upload", final.stat().st_size):
            write_once(
                aws, announcing(target, _summary(final, spans)), [ByteRange(0, 0, final.stat().st_size)], [final]
            )


def _join(ffmpeg: Ffmpeg, names: Sequence[str], media: Media, spans: Sequence[Span]) -> None:
    durations_s = [offset_of_next(span, following) for span, following in pairwise(spans)]
    (ffmpeg.directory / "list.txt").write_text(concat_list(names, durations_s))
    try:
        ffmpeg.run(join_command(ffmpeg.path, "list.txt", media, _FINAL))
    except FfmpegFailed as error:
        raise BadSegment(f"the segments cannot be joined: {error.reason}") from error
    logger.info(
        "Segments joined", event="segments_joined", segments=len(names), frames=sum(span.frame_count for span in spans)
    )


def _summary(final: Path, spans: Sequence[Span]) -> MovieSummary:
    """What the file that ffmpeg wrote holds: every picture of every segment, or it is not delivered."""
    size_bytes = final.stat().st_size
    with final.open("rb") as file:

        def read(offset: int, length: int) -> bytes:
            file.seek(offset)
            content: bytes = file.read(length)
            return content

        summary = summary_of(read_movie(read, size_bytes), size_bytes)
    frames = sum(span.frame_count for span in spans)
    if frames not in {track.samples for track in summary.tracks if track.handler == "vide"}:
        raise BadFinal(f"the segments have {frames} pictures together, the final holds {summary}")
    return summary


def _fetch_all(
    aws: "Aws", segments: Sequence[StoredObject], names: Sequence[str], ffmpeg: Ffmpeg
) -> list[tuple[Media, Span]]:
    """Download the segments, and look at each while the next ones come."""

    def fetch(index: int) -> tuple[Media, Span]:
        download(manager, segments[index], ffmpeg.directory / names[index], ffmpeg.deadline)
        return _probe(ffmpeg, index, names[index]), _span(ffmpeg, index, names[index])

    with downloads(aws) as manager, _pool() as pool:
        return [each.result() for each in [submit(pool, fetch, index) for index in range(len(segments))]]


def _common_media(found: Sequence[Media]) -> Media:
    """The track layout that all segments share.

    Raises:
        BadSegment: names the segments that differ from most, and how the first of them does.
    """
    usual = Counter(media.kept for media in found).most_common(1)[0][0]
    odd = [index for index, media in enumerate(found) if media.kept != usual]
    if odd:
        others = f" (and {len(odd) - 1} more segments)" if len(odd) > 1 else ""
        raise BadSegment(
            f"segment {odd[0]} differs{others}: it has {_tracks(found[odd[0]].kept)}, most have {_tracks(usual)}"
        )
    return found[0]


def _probe(ffmpeg: Ffmpeg, index: int, name: str) -> Media:
    try:
        media = ffmpeg.probe(name)
    except FfmpegFailed as error:
        raise BadSegment(f"segment {index} is not a media file: {error.reason}") from error
    if not any(track.kind == "video" for track in media.kept):
        raise BadSegment(f"segment {index} has no video track: {_tracks(media.tracks)}")
    return media


def _span(ffmpeg: Ffmpeg, index: int, name: str) -> Span:
    try:
        span = measure_span(ffmpeg.frames(name))
    except FfmpegFailed as error:
        raise BadSegment(f"segment {index} is damaged: {error.reason}") from error
    except BadSource as error:
        raise BadSegment(f"segment {index} cannot be joined: {error}") from error
    if span is None:
        raise BadSegment(f"segment {index} holds no video frame")
    return span


def _segment_name(index: int) -> str:
    return f"{index:05d}.mp4"


def _tracks(tracks: Sequence[object]) -> str:
    return "; ".join(map(str, tracks)) or "no track"


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for transfers; after an error those that have not begun are not begun."""
    pool = ThreadPoolExecutor(_WINDOW)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _await_one(pending: set[Future[None]]) -> set[Future[None]]:
    """Wait until an upload has ended, and raise what went wrong with it."""
    done, still = wait(pending, return_when=FIRST_COMPLETED)
    for upload in done:
        upload.result()
    return still
