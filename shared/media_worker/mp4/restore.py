"""Joining segments that nobody changed: the source's tables again, with its own edit lists."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from .origin import Origin, digest_of, find_origin
from .pieces import Joint, JointTrack

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .movie import Movie, Track
    from .tables import SampleTable


def restore(movies: Sequence[Movie]) -> Joint | None:
    """The film that all these segments were cut from; None unless every sample of it is there, unchanged."""
    origins = [find_origin(movie.box) for movie in movies]
    known = [origin for origin in origins if origin is not None]
    if len(known) < len(movies) or not _is_one_film(movies, known):
        return None
    tracks = [_restored_track(movies, known, number) for number in range(len(movies[0].tracks))]
    return Joint(movies[0].box, known[0].movie_timescale, tuple(tracks))


def _is_one_film(movies: Sequence[Movie], origins: Sequence[Origin]) -> bool:
    first = origins[0]
    for index, (movie, origin) in enumerate(zip(movies, origins, strict=True)):
        is_next = (origin.source, origin.total_segments, origin.segment_index) == (first.source, len(movies), index)
        if not is_next or not _is_unchanged(movie, origin) or len(movie.tracks) != len(first.tracks):
            return False
    return all(_follows_on(movies, origins, number) for number in range(len(first.tracks)))


def _is_unchanged(movie: Movie, origin: Origin) -> bool:
    return origin.digest == digest_of((track.timescale, track.edits, track.table) for track in movie.tracks)


def _follows_on(movies: Sequence[Movie], origins: Sequence[Origin], number: int) -> bool:
    """The pieces of one track are the same kind of thing, and each begins where the one before it ended."""
    sample = 0
    first = movies[0].tracks[number]
    for movie, origin in zip(movies, origins, strict=True):
        track = movie.tracks[number]
        same = (track.track_id, track.descriptions) == (first.track_id, first.descriptions)
        if not same or len(origin.tracks) != len(movie.tracks) or origin.tracks[number].first_sample != sample:
            return False
        sample += track.table.count
    return True


def _restored_track(movies: Sequence[Movie], origins: Sequence[Origin], number: int) -> JointTrack:
    first = movies[0].tracks[number]
    tables = tuple(
        _unshifted(movie.tracks[number], origin.tracks[number].offset_shift)
        for movie, origin in zip(movies, origins, strict=True)
    )
    return JointTrack(first.box, first.timescale, first.descriptions, origins[0].tracks[number].edits, tables)


def _unshifted(track: Track, shift: int) -> SampleTable:
    if not shift or track.table.offsets is None:
        return track.table
    return replace(track.table, offsets=track.table.offsets.shifted(-shift))
