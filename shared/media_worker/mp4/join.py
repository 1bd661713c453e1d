"""Joining segments: their headers in, one header and the byte ranges to copy out.

Untouched segments carry a note of where they were cut from (`origin`); when all of them do and none was changed, the
result is the source's own index again. Else the pieces are laid end to end by their own times (`splice`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

from .errors import numbers_that_fit
from .origin import is_origin_box
from .ranges import RangeMap, ranges_of
from .restore import restore
from .splice import splice
from .summary import MovieSummary, summary_of
from .tables import concat_tables
from .writer import NewMovie, NewTrack, build_header

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .movie import Movie
    from .pieces import JointTrack

# Bytes between samples (a moov at the end, padding, dropped packets) that are copied along rather than cut out:
# every further range is a further request.
DEFAULT_MAX_GAP_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class SegmentRange:
    """`length` bytes from `offset` of one segment."""

    segment_index: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class FinalLayout:
    """The joined film, ready to be put together: `header`, then these ranges, in this order."""

    header: bytes
    ranges: tuple[SegmentRange, ...]
    is_restored: bool  # the source's own timeline, sample for sample
    summary: MovieSummary  # what a reader has to find in the finished file

    @property
    def media_bytes(self) -> int:
        """Bytes behind the header."""
        return sum(each.length for each in self.ranges)

    @property
    def size_bytes(self) -> int:
        """Bytes of the finished film."""
        return len(self.header) + self.media_bytes


@numbers_that_fit()
def plan_join(movies: Sequence[Movie], max_gap_bytes: int = DEFAULT_MAX_GAP_BYTES) -> FinalLayout:
    """One film of all segments, in this order. Raises `TracksDiffer` for a segment that does not fit."""
    if not movies:
        raise ValueError("nothing to join")
    restored = restore(movies)
    joint = restored or splice(movies)
    maps = [ranges_of((track.tables[index] for track in joint.tracks), max_gap_bytes) for index in range(len(movies))]
    bases = list(accumulate((each.total_bytes for each in maps), initial=0))
    tracks = tuple(_placed(track, maps, bases) for track in joint.tracks)
    box = joint.box.with_children(tuple(child for child in joint.box.children or () if not is_origin_box(child)))
    film = NewMovie(movies[0].ftyp, box, joint.timescale, tracks)
    header = build_header(film, bases[-1])
    ranges = tuple(
        SegmentRange(index, each.offset, each.length) for index, part in enumerate(maps) for each in part.ranges
    )
    summary = summary_of(film, len(header) + bases[-1])
    return FinalLayout(header, ranges, restored is not None, summary)


def _placed(track: JointTrack, maps: Sequence[RangeMap], bases: Sequence[int]) -> NewTrack:
    """All pieces of a track as one, at their places in the final file."""
    placed = [
        replace(table, chunks=places.moved(table.chunks, base))
        for table, places, base in zip(track.tables, maps, bases, strict=False)
    ]
    return NewTrack(track.box, track.timescale, track.descriptions, track.edits, concat_tables(placed))
