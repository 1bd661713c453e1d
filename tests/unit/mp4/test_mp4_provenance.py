"""The provenance of a segment is only used if it is valid and the segment is unchanged."""

from __future__ import annotations

import json
from array import array
from dataclasses import replace
from fractions import Fraction

import pytest
from media_worker.mp4 import Track, lay_out, plan_join, plan_split
from media_worker.mp4.boxes import Box
from media_worker.mp4.edit_list import EMPTY, Edit
from media_worker.mp4.provenance import (
    PROVENANCE_UUID,
    Provenance,
    TrackProvenance,
    build_provenance,
    digest_of,
    find_provenance,
)
from media_worker.mp4.samples import Chunks, Runs, SampleTable, Sizes

from tests.unit.mp4.movies import TrackSpec, assemble, load, make_movie

PROVENANCE = Provenance("abc", 1, 3, 600, (TrackProvenance(7, -3, (Edit(5, EMPTY), Edit(9, 0)), 1),), "def")
SOURCE = make_movie([TrackSpec([40] * 30, sync=range(0, 30, 5))])


def segments() -> list[bytes]:
    movie = load(SOURCE)
    plan = plan_split(movie, Fraction(2, 5))
    return [assemble(lay_out(movie, plan, index), SOURCE) for index in range(plan.total_segments)]


def is_restored(parts: list[bytes]) -> bool:
    return plan_join([load(part) for part in parts]).is_restored


def test_provenance_survives_writing_and_reading() -> None:
    """`find(build(provenance)) == provenance`."""
    assert find_provenance(Box(b"moov", children=(build_provenance(PROVENANCE),))) == PROVENANCE


def test_each_version_survives_writing_and_reading() -> None:
    """Later versions have more fields."""
    track = replace(PROVENANCE.tracks[0], trailing_samples=2)
    context = replace(PROVENANCE, tracks=(track,), version=3, context_before=1, context_after=2)
    key = replace(context, tracks=(replace(track, key_bytes=5),), version=4)
    for provenance in (context, key):
        assert find_provenance(Box(b"moov", children=(build_provenance(provenance),))) == provenance


VERSION_1 = (
    b'media-worker-cut{"source":"abc","segment_index":1,"total_segments":3,"movie_timescale":600,'
    b'"tracks":[{"first_sample":7,"offset_shift":-3,"edits":[{"duration":5,"media_time":-1,"rate":65536},'
    b'{"duration":9,"media_time":0,"rate":65536}]}],"digest":"def"}'
)


def test_the_format_is_persisted() -> None:
    """Segments written by other versions of this code must be restored: box, JSON and digest do not change."""
    assert build_provenance(PROVENANCE).payload == (
        b'media-worker-cut{"source":"abc","segment_index":1,"total_segments":3,"movie_timescale":600,'
        b'"tracks":[{"first_sample":7,"offset_shift":-3,"edits":[{"duration":5,"media_time":-1,"rate":65536},'
        b'{"duration":9,"media_time":0,"rate":65536}],"repeated_samples":1,"is_marked":false}],'
        b'"digest":"def","version":2}'
    )


def test_segments_of_version_1_can_be_read() -> None:
    """They have no overlaps."""
    track = TrackProvenance(7, -3, (Edit(5, EMPTY), Edit(9, 0)))
    expected = Provenance("abc", 1, 3, 600, (track,), "def", version=1)
    assert find_provenance(Box(b"moov", children=(Box(b"uuid", VERSION_1),))) == expected


def test_a_later_version_is_ignored() -> None:
    """Such segments are concatenated by their own times."""
    later = replace(PROVENANCE, version=5)
    assert find_provenance(Box(b"moov", children=(build_provenance(later),))) is None


@pytest.mark.parametrize(
    ("version", "digest"), [(1, "58437f0048d581d20994ba70f7b15dd9"), (2, "b164ece0996c92e72f571ba5c25c78ff")]
)
def test_digests_are_persisted(version: int, digest: str) -> None:
    """The same tracks have the same digest in every version of this code."""
    video = SampleTable(
        Runs.of([2, 1], [40, 20]),
        Runs.constant(3, 7),
        Sizes.of(array("I", [3, 1, 2])),
        array("Q", [0, 2]),
        Chunks.none(),
    )
    pcm = SampleTable(Runs.constant(5, 1), None, Sizes.same(5, 4), None, Chunks.none())
    trak = Box(b"trak", children=())
    tracks = [Track(trak, 1000, (), (Edit(5, EMPTY), Edit(9, 0)), video), Track(trak, 90, (), (), pcm)]
    assert digest_of(tracks, version) == digest


@pytest.mark.parametrize(
    "change",
    [
        {"tracks": 5},
        {"tracks": [{"first_sample": 0, "offset_shift": 0, "edits": 1}]},
        {"tracks": [5]},
        {"segment_index": -1},
        {"segment_index": True},
        {"movie_timescale": 0},
        {"total_segments": 1 << 70},
        {"digest": None, "source": None, "tracks": None},
    ],
)
def test_invalid_values_are_ignored(change: dict[str, object]) -> None:
    """Segments are written by others, so nothing in them is trusted."""
    document = json.loads(bytes(build_provenance(PROVENANCE).payload[16:])) | change
    moov = Box(b"moov", children=(Box(b"uuid", PROVENANCE_UUID + json.dumps(document).encode()),))
    assert find_provenance(moov) is None


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b" " * (2 << 20)])
def test_other_content_is_ignored(text: bytes) -> None:
    """The box may contain something else than JSON, or too much of it."""
    assert find_provenance(Box(b"moov", children=(Box(b"uuid", PROVENANCE_UUID + text),))) is None


def test_all_segments_of_a_source_restore_it() -> None:
    """All segments, in their order, join to the source's own tracks."""
    parts = segments()
    assert len(parts) == 3
    assert is_restored(parts)


def test_a_changed_segment_is_detected() -> None:
    """The provenance is still there, but the duration of a sample does not match its digest."""
    parts = segments()
    at = parts[1].index(b"stts") + 4 + 8 + 4
    parts[1] = parts[1][:at] + b"\0\0\0\x29" + parts[1][at + 4 :]
    assert not is_restored(parts)


def test_incomplete_or_reordered_segments_are_not_restored() -> None:
    """They are concatenated by their own times."""
    parts = segments()
    assert not is_restored([parts[0], parts[2], parts[1]])
    assert not is_restored(parts[:2])
    assert not is_restored([parts[0], parts[1], parts[1]])
