"""What a film amounts to, in few numbers: to compare a file that was written with the plan it was written by."""

from __future__ import annotations

from dataclasses import dataclass, fields
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .movie import Movie
    from .writer import NewMovie


@dataclass(frozen=True, slots=True)
class TrackSummary:
    """One track: what it is, and how much of it there is."""

    handler: str
    codecs: tuple[str, ...]
    samples: int
    sync_samples: int
    media_bytes: int
    duration_s: Fraction
    shown_s: Fraction


@dataclass(frozen=True, slots=True)
class MovieSummary:
    """One file, as planned or as found."""

    size_bytes: int
    tracks: tuple[TrackSummary, ...]


def summary_of(movie: Movie | NewMovie, size_bytes: int) -> MovieSummary:
    """Of a file that was read, or of one that is about to be written."""
    tracks = []
    for track in movie.tracks:
        table = track.table
        shown = sum(edit.duration for edit in track.edits if not edit.is_empty)
        duration_s = Fraction(table.media_duration, track.timescale)
        handler = bytes(track.box.need(b"mdia", b"hdlr").payload[8:12])
        summary = TrackSummary(
            handler=handler.decode("latin-1"),
            codecs=tuple(entry.kind.decode("latin-1") for entry in track.descriptions),
            samples=table.count,
            sync_samples=table.count if table.sync is None else len(table.sync),
            media_bytes=table.sizes.between(0, table.count),
            duration_s=duration_s,
            shown_s=Fraction(shown, movie.timescale) if track.edits else duration_s,
        )
        tracks.append(summary)
    return MovieSummary(size_bytes, tuple(tracks))


def differences(planned: MovieSummary, found: MovieSummary) -> tuple[str, ...]:
    """Everything that is not as planned, in words; empty when the file is what it should be."""
    said = []
    if planned.size_bytes != found.size_bytes:
        said.append(f"{found.size_bytes} bytes instead of {planned.size_bytes}")
    if len(planned.tracks) != len(found.tracks):
        return (*said, f"{len(found.tracks)} tracks instead of {len(planned.tracks)}")
    for number, (want, got) in enumerate(zip(planned.tracks, found.tracks, strict=True), start=1):
        said.extend(f"track {number}: {reason}" for reason in _track_differences(want, got))
    return tuple(said)


def _track_differences(planned: TrackSummary, found: TrackSummary) -> Sequence[str]:
    values = ((field.name, getattr(planned, field.name), getattr(found, field.name)) for field in fields(planned))
    return [f"{name} {got} instead of {want}" for name, want, got in values if want != got]
