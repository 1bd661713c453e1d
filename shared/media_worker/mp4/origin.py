"""The note that a segment carries about where it was cut from.

Sample tables say how long every sample lasts, but not what the film around them looked like: edit lists and durations
of the whole are gone. The note keeps them, in a `uuid` box (4.2) that every player skips. A worker that writes a
new file loses it, and one that keeps it but changes the samples is found out by the digest: then the segment is
joined by its own times alone.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from .boxes import Box
from .edits import Edit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .tables import SampleTable

ORIGIN_UUID = bytes.fromhex("6d656469612d776f726b65722d637574")  # "media-worker-cut"
MAX_NOTE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class TrackOrigin:
    """What the join has to put back for one track."""

    first_sample: int
    offset_shift: int  # added to the composition offsets of this segment
    edits: tuple[Edit, ...]  # of the source


@dataclass(frozen=True, slots=True)
class Origin:
    """Which part of which source a segment is."""

    source: str
    segment_index: int
    total_segments: int
    movie_timescale: int
    tracks: tuple[TrackOrigin, ...]
    digest: str


def origin_box(origin: Origin) -> Box:
    """The note as a box."""
    return Box(b"uuid", ORIGIN_UUID + json.dumps(asdict(origin), separators=(",", ":")).encode())


def is_origin_box(box: Box) -> bool:
    """Whether it is such a note."""
    return box.kind == b"uuid" and bytes(box.payload[:16]) == ORIGIN_UUID


def find_origin(moov: Box) -> Origin | None:
    """The note in a moov; None when there is none, or when it is not ours after all."""
    box = next(filter(is_origin_box, moov.children or ()), None)
    if box is None or len(box.payload) > MAX_NOTE_BYTES:
        return None
    try:
        return _parse(json.loads(bytes(box.payload[16:])))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _parse(note: dict[str, object]) -> Origin:
    tracks = note["tracks"]
    if not isinstance(tracks, list):
        raise TypeError("tracks")
    return Origin(
        source=str(note["source"]),
        segment_index=_integer(note["segment_index"]),
        total_segments=_integer(note["total_segments"]),
        movie_timescale=_integer(note["movie_timescale"], at_least=1),
        tracks=tuple(_parse_track(track) for track in tracks),
        digest=str(note["digest"]),
    )


def _parse_track(note: dict[str, object]) -> TrackOrigin:
    edits = note["edits"]
    if not isinstance(edits, list):
        raise TypeError("edits")
    return TrackOrigin(
        first_sample=_integer(note["first_sample"]),
        offset_shift=_integer(note["offset_shift"], at_least=-(1 << 31)),
        edits=tuple(
            Edit(_integer(edit["duration"]), _integer(edit["media_time"], at_least=-1), _integer(edit["rate"]))
            for edit in edits
        ),
    )


def _integer(value: object, at_least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value < 1 << 62:
        raise ValueError(value)
    return value


def digest_of(tracks: Iterable[tuple[int, tuple[Edit, ...], SampleTable]]) -> str:
    """A digest of all times and sizes (not places) of these tracks: (timescale, edit list, samples) each."""
    digest = hashlib.blake2b(digest_size=16)
    for timescale, edits, table in tracks:
        digest.update(repr((timescale, edits, table.count, table.sizes.constant)).encode())
        for runs in (table.durations, table.offsets):
            merged = runs.merged() if runs is not None else None
            digest.update(b"-" if merged is None else merged.counts.tobytes() + merged.values.tobytes())
        for numbers in (table.sizes.table, table.sync):
            digest.update(b"-" if numbers is None else numbers.tobytes())
    return digest.hexdigest()
