"""The provenance of a segment: which part of which source it is.

The index of a segment does not contain the edit lists and durations of the source. They are stored as JSON in a `uuid`
box (4.2), which players skip. A worker that writes a new file drops the box. A worker that keeps the box but changes
the samples is detected by the digest. In both cases the segments are joined by their own times instead.

The format is persisted and has a version. Segments written by older versions of this code must stay readable. Version 1
had no `version`, `repeated_samples` and `is_marked`, and another digest. Version 3 has `context_before`,
`context_after` and `trailing_samples`; version 4 has `key_bytes`. A segment is written as the lowest version that has
all that it needs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from .boxes import Box
from .edit_list import Edit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .movie import Track

VERSION = 2
CONTEXT_VERSION = 3
KEY_VERSION = 4
PROVENANCE_UUID = bytes.fromhex("6d656469612d776f726b65722d637574")  # "media-worker-cut"
MAX_PROVENANCE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class TrackProvenance:
    """What the join needs to restore one track.

    The first `repeated_samples` of the segment are also at the end of the segment before. `first_sample` is the number,
    in the source, of the first sample that follows them. The last `trailing_samples` are also in the segment after.
    The first `key_bytes` of the first sample are a key frame of an earlier sample (`forward_keys`).
    """

    first_sample: int
    offset_shift: int  # was added to the composition offsets of this segment, except of repeated samples
    edits: tuple[Edit, ...]  # of the source
    repeated_samples: int = 0
    is_marked: bool = False  # whether the first sample is a sync sample in the segment only
    trailing_samples: int = 0
    key_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Provenance:
    """Which part of which source a segment is. The field names are the JSON's."""

    source: str  # fingerprint of the source's index
    segment_index: int
    total_segments: int
    movie_timescale: int
    tracks: tuple[TrackProvenance, ...]
    digest: str  # of the tracks of this segment
    version: int = VERSION
    # Presented frames of the video that belong to the segments before and after this one.
    context_before: int = 0
    context_after: int = 0


def build_provenance(provenance: Provenance) -> Box:
    """The provenance as a box."""
    document = asdict(provenance)
    if provenance.version < CONTEXT_VERSION:
        del document["context_before"], document["context_after"]
        for track in document["tracks"]:
            del track["trailing_samples"]
    if provenance.version < KEY_VERSION:
        for track in document["tracks"]:
            del track["key_bytes"]
    return Box(b"uuid", PROVENANCE_UUID + json.dumps(document, separators=(",", ":")).encode())


def find_provenance(moov: Box) -> Provenance | None:
    """The provenance in a `moov` box, or None if there is no valid one of a version that this code knows."""
    box = next(filter(_is_provenance, moov.children or ()), None)
    if box is None or len(box.payload) > MAX_PROVENANCE_BYTES:
        return None
    try:
        return _parse(json.loads(bytes(box.payload[16:])))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def without_provenance(moov: Box) -> Box:
    """A `moov` box without provenance."""
    return moov.with_children(tuple(child for child in moov.children or () if not _is_provenance(child)))


def _is_provenance(box: Box) -> bool:
    return box.kind == b"uuid" and bytes(box.payload[:16]) == PROVENANCE_UUID


def _parse(document: dict[str, object]) -> Provenance:
    tracks = document["tracks"]
    if not isinstance(tracks, list):
        raise TypeError("tracks")
    return Provenance(
        source=str(document["source"]),
        segment_index=_integer(document["segment_index"]),
        total_segments=_integer(document["total_segments"]),
        movie_timescale=_integer(document["movie_timescale"], at_least=1),
        tracks=tuple(_parse_track(track) for track in tracks),
        digest=str(document["digest"]),
        version=_integer(document.get("version", 1), at_least=1, at_most=KEY_VERSION),
        context_before=_integer(document.get("context_before", 0)),
        context_after=_integer(document.get("context_after", 0)),
    )


def _parse_track(document: dict[str, object]) -> TrackProvenance:
    edits = document["edits"]
    if not isinstance(edits, list):
        raise TypeError("edits")
    return TrackProvenance(
        first_sample=_integer(document["first_sample"]),
        offset_shift=_integer(document["offset_shift"], at_least=-(1 << 31)),
        edits=tuple(
            Edit(_integer(edit["duration"]), _integer(edit["media_time"], at_least=-1), _integer(edit["rate"]))
            for edit in edits
        ),
        repeated_samples=_integer(document.get("repeated_samples", 0)),
        is_marked=document.get("is_marked", False) is True,
        trailing_samples=_integer(document.get("trailing_samples", 0)),
        key_bytes=_integer(document.get("key_bytes", 0)),
    )


def _integer(value: object, at_least: int = 0, at_most: int = (1 << 62) - 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value <= at_most:
        raise ValueError(value)
    return value


def digest_of(tracks: Iterable[Track], version: int = VERSION) -> str:
    """A digest of the times and sizes of these tracks. Chunk offsets do not count: a worker may move samples."""
    digest = hashlib.blake2b(digest_size=16)
    for track in tracks:
        table = track.table
        digest.update(_track_header(track, version))
        for runs in (table.durations, table.offsets):
            merged = runs.merged() if runs is not None else None
            digest.update(b"-" if merged is None else merged.counts.tobytes() + merged.values.tobytes())
        for numbers in (table.sizes.table, table.sync):
            digest.update(b"-" if numbers is None else numbers.tobytes())
    return digest.hexdigest()


def _track_header(track: Track, version: int) -> bytes:
    edits = [(edit.duration, edit.media_time, edit.rate) for edit in track.edits]
    numbers = (track.timescale, edits, track.table.count, track.table.sizes.constant)
    if version > 1:
        return json.dumps(numbers, separators=(",", ":")).encode()
    # Version 1 was the `repr` of a tuple of the class `Edit`.
    timescale, _, count, constant = numbers
    names = [f"Edit(duration={duration}, media_time={time}, rate={rate})" for duration, time, rate in edits]
    listed = f"({', '.join(names)}{',' if len(names) == 1 else ''})"
    return f"({timescale}, {listed}, {count}, {constant})".encode()
