"""Which track of each segment belongs to which track of the film, and whether they fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .descriptions import why_incompatible
from .errors import TracksDiffer
from .movie import Movie, Track

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .boxes import Box

# A writer leaves out tracks without samples; subtitles, timecodes and other sparse tracks may well have none.
NEVER_MISSING = frozenset({b"vide", b"soun"})
_MATRIX = slice(-44, -8)  # of tkhd, in either version: transformation matrix, then width and height

type Row = tuple[Track | None, ...]  # one track of the film: its part in each segment


def match_tracks(movies: Sequence[Movie]) -> tuple[Row, ...]:
    """For each track of the film its parts. The segment with most tracks sets the pattern."""
    pattern = max(movies, key=lambda movie: len(movie.tracks)).tracks
    columns = [_column(pattern, movie, index) for index, movie in enumerate(movies)]
    rows = tuple(zip(*columns, strict=True))
    for row in rows:
        _check_missing(row)
        _check_alike(row)
    return rows


def _column(pattern: Sequence[Track], movie: Movie, segment_index: int) -> list[Track | None]:
    """The tracks of one segment, in the order of the pattern, with gaps where it has none."""
    waiting = list(movie.tracks)
    if len(waiting) == len(pattern):
        return list(waiting)
    column: list[Track | None] = []
    for wanted in pattern:
        found = next((track for track in waiting if _is_same_kind(wanted, track)), None)
        if found is not None:
            waiting.remove(found)
        column.append(found)
    if waiting:
        raise TracksDiffer(segment_index, f"{waiting[0].name} has no counterpart")
    return column


def _is_same_kind(one: Track, other: Track) -> bool:
    return (one.handler, one.codecs[:1]) == (other.handler, other.codecs[:1])


def _check_missing(row: Row) -> None:
    """Sound may end or begin in the middle of the film, but not come and go: writers leave out an empty track."""
    here = [index for index, track in enumerate(row) if track is not None]
    for index, track in enumerate(row):
        example = row[here[0]]
        if track is not None or example is None or example.handler not in NEVER_MISSING:
            continue
        if example.is_video or here[0] < index < here[-1] or (here[0] > 0 and here[-1] < len(row) - 1):
            raise TracksDiffer(index, f"it has no counterpart of {example.name}")


def _check_alike(row: Row) -> None:
    """All parts are of one kind; parts without samples cannot disagree."""
    filled = [(index, track) for index, track in enumerate(row) if track is not None and track.table.count]
    if not filled:
        return
    _, first = filled[0]
    for index, track in filled[1:]:
        if track.handler != first.handler:
            raise TracksDiffer(index, f"{track.name} stands where the others have {first.name}")
        if _matrix(track) != _matrix(first):
            raise TracksDiffer(index, f"{track.name} is rotated another way")
        for entry in track.descriptions:
            if reason := why_incompatible(first.handler, _first_entry(first), entry):
                raise TracksDiffer(index, f"{track.name}: {reason}")


def _first_entry(track: Track) -> Box:
    return track.descriptions[0]


def _matrix(track: Track) -> bytes:
    return bytes(track.box.need(b"tkhd").payload[_MATRIX])
