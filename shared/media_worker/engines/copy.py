"""The copy engine: S3 copies the media, and none of it passes through the function.

It reads an MP4's index, writes a new one for each segment or for the final, and lets S3 copy the media bytes behind
it. It needs no /tmp, has no size limit, and is exact to the sample.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

from media_worker.byte_ranges import Content, plan_parts
from media_worker.deadline import Deadline
from media_worker.final import announcing
from media_worker.keys import build_segment_key
from media_worker.mp4 import Layout, Movie, Unsupported, lay_out, plan_join, plan_split, read_movie
from media_worker.s3 import Source, StoredObject, Target, read_range, write_once
from media_worker.telemetry import Steps, logger, submit

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from media_worker.jobs import Job

# Segments that are written at the same time.
SEGMENTS_AT_ONCE = 4
# An index takes a few requests; those of many segments are read at once.
_READS_AT_ONCE = 16
# A segment takes a handful of requests, of which the largest copies half a gigabyte.
_SECONDS_FOR_A_SEGMENT = 60.0


@dataclass(frozen=True, slots=True)
class Split:
    """The segments of a source, ready to be written."""

    aws: "Aws"
    source: StoredObject
    # Of each segment.
    contents: tuple[Sequence[Content], ...]
    deadline: Deadline
    steps: Steps

    @property
    def total_segments(self) -> int:
        """How many segments there will be."""
        return len(self.contents)

    def write_segments(self, job: "Job") -> None:
        """Write a header for each segment and let S3 copy the media behind it. Existing segments are kept."""
        with self.steps.step("split", self.source.size_bytes), ThreadPoolExecutor(SEGMENTS_AT_ONCE) as pool:
            writes = [submit(pool, self._write, job, index) for index in range(self.total_segments)]
            try:
                for write in writes:
                    write.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _write(self, job: "Job", index: int) -> None:
        self.deadline.require(_SECONDS_FOR_A_SEGMENT, f"write segment {index}")
        write_segment(self.aws, job, self.source, (index, self.total_segments), self.contents[index], self.source)


def write_segment(
    aws: "Aws",
    job: "Job",
    source: StoredObject,
    number: tuple[int, int],
    contents: Sequence[Content],
    media: Source,
) -> None:
    """Write segment `number` (index, total) of a source unless it exists; its byte ranges are of `media`."""
    key = build_segment_key(job.job_id, *number, job.mode)
    target = Target(source.bucket, key, source.etag)
    # Only a retry can find the segment of an earlier attempt.
    written = write_once(aws, target, contents, [media], look_first=job.source_etag == source.etag)
    if written:
        logger.info("Segment written", event="segment_written", key=key)
    else:
        logger.info("Segment exists already", event="segment_present", key=key)


def prepare_split(
    aws: "Aws", source: StoredObject, segment_duration_s: Fraction, deadline: Deadline, steps: Steps
) -> Split:
    """Read a source's index and lay out every segment, before anything is written.

    Raises:
        Unsupported: this engine cannot split the file.
        BrokenFile: the file contradicts itself.
        TooManyParts: a segment would need more parts than S3 allows.
    """
    with steps.step("plan"):
        movie = read_movie(partial(read_range, aws, source), source.size_bytes)
        if not any(track.is_video and track.table.count for track in movie.tracks):
            raise Unsupported("there is no video track")
        plan = plan_split(movie, segment_duration_s)
        contents = tuple(_contents(lay_out(movie, plan, index)) for index in range(plan.total_segments))
    return Split(aws, source, contents, deadline, steps)


def make_final(aws: "Aws", segments: Sequence[StoredObject], target: Target, deadline: Deadline, steps: Steps) -> None:
    """Read the segments' indexes, build one of them, and let S3 copy each segment's media behind it.

    Raises:
        Unsupported: this engine cannot join a segment.
        BrokenFile: a segment contradicts itself.
        TracksDiffer: a segment does not fit the others; names it.
        TooManyParts: the final would need more parts than S3 allows.
    """
    with steps.step("check"):
        layout = plan_join(_read_movies(aws, segments))
        contents = _contents(layout)
    deadline.require(_SECONDS_FOR_A_SEGMENT, "write the final")
    with steps.step("join", layout.size_bytes):
        write_once(aws, announcing(target, layout.summary), contents, segments)


def _read_movies(aws: "Aws", segments: Sequence[StoredObject]) -> list[Movie]:
    def read(segment: StoredObject) -> Movie:
        return read_movie(partial(read_range, aws, segment), segment.size_bytes)

    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        return list(pool.map(read, segments))


def _contents(layout: Layout) -> list[Content]:
    """Header and media, checked against S3's limits before anything is written."""
    contents: list[Content] = [layout.header, *layout.ranges]
    plan_parts(contents)
    return contents
