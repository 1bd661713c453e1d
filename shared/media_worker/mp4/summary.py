"""What a movie contains, in a few numbers: used to compare a file that was written with its plan."""

from __future__ import annotations

from dataclasses import dataclass, fields
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .movie import Movie, Track


@dataclass(frozen=True, slots=True)
class TrackSummary:
    """One track."""

    handler: str
    codecs: tuple[str, ...]
    samples: int
    sync_samples: int
    media_bytes: int
    duration_s: Fraction
    presented_s: Fraction


@dataclass(frozen=True, slots=True)
class MovieSummary:
    """One file, as planned or as found."""

    size_bytes: int
    tracks: tuple[TrackSummary, ...]


def summary_of(movie: Movie, size_bytes: int) -> MovieSummary:
    """The summary of a file that was read, or that is to be written."""
    return MovieSummary(size_bytes, tuple(_track_summary(track, movie.timescale) for track in movie.tracks))


def _track_summary(track: Track, movie_timescale: int) -> TrackSummary:
    table = track.table
    duration_s = Fraction(table.media_duration, track.timescale)
    presented = sum(edit.duration for edit in track.edits if not edit.is_empty)
    return TrackSummary(
        handler=track.handler.decode("latin-1"),
        codecs=tuple(kind.decode("latin-1") for kind in track.codecs),
        samples=table.count,
        sync_samples=table.count if table.sync is None else len(table.sync),
        media_bytes=table.sizes.between(0, table.count),
        duration_s=duration_s,
        presented_s=Fraction(presented, movie_timescale) if track.edits else duration_s,
    )


def differences(planned: MovieSummary, found: MovieSummary) -> tuple[str, ...]:
    """Each difference as a sentence, or nothing if the file is as planned."""
    reasons = []
    if planned.size_bytes != found.size_bytes:
        reasons.append(f"size_bytes is {found.size_bytes}, expected {planned.size_bytes}")
    if len(planned.tracks) != len(found.tracks):
        return (*reasons, f"{len(found.tracks)} tracks, expected {len(planned.tracks)}")
    for number, (want, got) in enumerate(zip(planned.tracks, found.tracks, strict=True), start=1):
        reasons.extend(f"track {number}: {reason}" for reason in _track_differences(want, got))
    return tuple(reasons)


def _track_differences(planned: TrackSummary, found: TrackSummary) -> Sequence[str]:
    values = ((field.name, getattr(planned, field.name), getattr(found, field.name)) for field in fields(planned))
    return [f"{name} is {got}, expected {want}" for name, want, got in values if want != got]
