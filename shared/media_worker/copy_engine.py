"""The copy engine: no media passes through the function. It reads an MP4's index, writes a new one for each segment
or for the final, and lets S3 copy the media bytes behind it.

It needs no /tmp, knows no size limit, and is exact to the sample. What it does not take, it says (`Unsupported`).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

from media_worker.composition import compose_once, read_range
from media_worker.deadline import Deadline
from media_worker.final import announcing
from media_worker.mp4 import Layout, Movie, Unsupported, lay_out, plan_join, plan_split, read_movie
from media_worker.parts import Literal, Part, Range, plan_parts
from media_worker.segments import AT_ONCE, write_segment
from media_worker.storage import StoredObject, Target
from media_worker.telemetry import Steps, submit

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from media_worker.jobs import Job

# An index is a few requests; those of many segments are read at once.
_READS_AT_ONCE = 16
# A segment is a handful of requests, of which the largest copies half a gigabyte.
_SECONDS_FOR_A_SEGMENT = 60.0


@dataclass(frozen=True, slots=True)
class Split:
    """The segments of a source, ready to be carried out."""

    aws: "Aws"
    source: StoredObject
    # Of each segment.
    parts: tuple[Sequence[Part], ...]
    deadline: Deadline
    steps: Steps

    @property
    def total_segments(self) -> int:
        """How many segments there will be."""
        return len(self.parts)

    def write_segments(self, job: "Job") -> None:
        """Write a header for each segment and let S3 copy the media behind it. What an earlier try wrote is kept."""
        with self.steps.step("split", self.source.size_bytes), ThreadPoolExecutor(AT_ONCE) as pool:
            writes = [submit(pool, self._write, job, index) for index in range(self.total_segments)]
            try:
                for write in writes:
                    write.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _write(self, job: "Job", index: int) -> None:
        self.deadline.require(_SECONDS_FOR_A_SEGMENT, f"write segment {index}")
        write_segment(self.aws, job, self.source, (index, self.total_segments), partial(self._compose, index))

    def _compose(self, index: int, target: Target) -> bool:
        return compose_once(self.aws, [self.source], self.parts[index], target)


def prepare_split(
    aws: "Aws", source: StoredObject, segment_duration_s: Fraction, deadline: Deadline, steps: Steps
) -> Split:
    """Read a source's index and lay out every segment, so that nothing is written of a file that is not for us.

    Raises:
        Unsupported: this file is not for this engine.
        BrokenFile: the file contradicts itself.
    """
    with steps.step("plan"):
        movie = read_movie(partial(read_range, aws, source), source.size_bytes)
        if not any(track.is_video and track.table.count for track in movie.tracks):
            raise Unsupported("there is no video track")
        plan = plan_split(movie, segment_duration_s)
        parts = tuple(_parts(lay_out(movie, plan, index)) for index in range(plan.total_segments))
    return Split(aws, source, parts, deadline, steps)


def make_final(aws: "Aws", segments: Sequence[StoredObject], target: Target, deadline: Deadline, steps: Steps) -> None:
    """Read the segments' indexes, make one of them, and let S3 copy each segment's media behind it.

    Raises:
        Unsupported: a segment is not for this engine.
        BrokenFile: a segment contradicts itself.
        TracksDiffer: a segment does not fit the others; names it.
    """
    with steps.step("check"):
        layout = plan_join(_read_movies(aws, segments))
        parts = _parts(layout)
    deadline.require(_SECONDS_FOR_A_SEGMENT, "write the final")
    with steps.step("join", layout.size_bytes):
        compose_once(aws, segments, parts, announcing(target, layout.summary))


def _read_movies(aws: "Aws", segments: Sequence[StoredObject]) -> list[Movie]:
    def read(segment: StoredObject) -> Movie:
        return read_movie(partial(read_range, aws, segment), segment.size_bytes)

    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        return list(pool.map(read, segments))


def _parts(layout: Layout) -> list[Part]:
    media = (Range(each.source, each.offset, each.length) for each in layout.ranges)
    return plan_parts([Literal(layout.header), *media])
