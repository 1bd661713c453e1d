"""Joining segments that were made anew: each brings its own encoder delay, padding and clock.

The video decides. Its segments follow each other without a gap, every picture kept; the other tracks are placed
relative to the video of their own segment, so that no error adds up, whatever their own lengths are:

    video   |---- 0 ----|---- 1 ----|---- 2 ----|
    sound   |.---- 0 ----|.--- 1 ---|.---- 2 ----.     delay and padding (dots) dropped at the inner edges
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

from .descriptions import merge
from .edits import EMPTY, Edit, exact_movie_timescale
from .errors import TracksDiffer
from .laying import Piece, lay_in_order, lay_sound
from .match import Row, match_tracks
from .pieces import Joint, JointTrack
from .runs import Runs
from .split import main_track_number
from .windows import Window, window_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .movie import Movie
    from .tables import SampleTable

MAX_TIMESCALE = 1 << 31


@dataclass(frozen=True, slots=True)
class _Track:
    """One track of the film: its matched parts, and what each of them shows (None: nothing)."""

    row: Row
    windows: tuple[Window | None, ...]
    timescale: int


def splice(movies: Sequence[Movie]) -> Joint:
    """The segments end to end. Raises `TracksDiffer` for one that does not fit."""
    rows = match_tracks(movies)
    tracks = [_windows(row, movies) for row in rows]
    main = tracks[_main_row(movies, rows)]
    origins_s = _origins(main)
    timescale = exact_movie_timescale([main.timescale, *(track.timescale for track in tracks)])
    return Joint(movies[0].box, timescale, tuple(_joint_track(track, origins_s, timescale) for track in tracks))


def _main_row(movies: Sequence[Movie], rows: Sequence[Row]) -> int:
    for movie in movies:
        track = movie.tracks[main_track_number(movie)]
        if track.is_video:
            return next(number for number, row in enumerate(rows) if any(part is track for part in row))
    return next(number for number, row in enumerate(rows) if any(part and part.table.count for part in row))


def _windows(row: Row, movies: Sequence[Movie]) -> _Track:
    found = [
        window_of(track, movie.timescale, index, is_last=index == len(movies) - 1)
        if track is not None and track.table.count
        else None
        for index, (track, movie) in enumerate(zip(row, movies, strict=True))
    ]
    timescale = 1
    for index, window in enumerate(found):
        timescale = math.lcm(timescale, window.timescale if window else 1)
        if timescale > MAX_TIMESCALE:
            raise TracksDiffer(index, f"its clock of {window.timescale if window else 0} Hz has no measure with theirs")
    if not any(found):
        timescale = next(track.timescale for track in row if track is not None)
    return _Track(row, tuple(window and window.scaled_to(timescale) for window in found), timescale)


def _origins(main: _Track) -> list[Fraction]:
    """When each segment begins, in seconds, so that its video follows the last one's without a gap."""
    origins: list[Fraction] = []
    end: Fraction | None = None
    for index, window in enumerate(main.windows):
        if window is None:
            raise TracksDiffer(index, "it has no pictures")
        begin = window.film_start if end is None else end
        origins.append((begin - window.film_start) / main.timescale)
        end = begin + window.length
    return origins


def _joint_track(track: _Track, origins_s: Sequence[Fraction], movie_timescale: int) -> JointTrack:
    parts = [part for part in track.row if part is not None]
    first = next((part for part in parts if part.table.count), parts[0])
    descriptions, numbers = merge([part.descriptions for part in parts])
    renumbering = iter(numbers)
    pieces: list[Piece | None] = []
    for part, window, origin_s in zip(track.row, track.windows, origins_s, strict=True):
        new_numbers = next(renumbering) if part is not None else []
        pieces.append(None if window is None else _piece(window, origin_s, new_numbers))
    laid = lay_sound(pieces) if _is_droppable(first.handler, pieces) else lay_in_order(pieces)
    edits = _edits(laid.film_start, laid.media_start, laid.length, track.timescale, movie_timescale)
    return JointTrack(first.box, track.timescale, descriptions, edits if any(pieces) else (), laid.tables)


def _is_droppable(handler: bytes, pieces: Sequence[Piece | None]) -> bool:
    """Sound whose packets can be left out one by one: no order but time, and each decodes without the others."""
    tables = [piece.table for piece in pieces if piece is not None]
    return handler == b"soun" and all(table.offsets is None and table.sync is None for table in tables)


def _piece(window: Window, origin_s: Fraction, numbers: Sequence[int]) -> Piece:
    film_start = math.floor(origin_s * window.timescale + window.film_start + Fraction(1, 2))
    return Piece(_renumbered(window.table, numbers), window.media_start, film_start, window.length)


def _renumbered(table: SampleTable, numbers: Sequence[int]) -> SampleTable:
    old = table.chunks.descriptions
    descriptions = Runs.of(old.counts, (numbers[number - 1] for number in old.values))
    return replace(table, chunks=replace(table.chunks, descriptions=descriptions))


def _edits(film_start: int, media_start: int, length: int, timescale: int, movie_timescale: int) -> tuple[Edit, ...]:
    def to_movie(ticks: int) -> int:
        return (ticks * movie_timescale + timescale // 2) // timescale

    delay = to_movie(film_start)
    shown = Edit(to_movie(film_start + length) - delay, media_start)
    return (Edit(delay, EMPTY), shown) if delay else (shown,)
