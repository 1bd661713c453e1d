"""The fragments of a file are found with few rounds of reads, and an index never changes which ones."""

from __future__ import annotations

import itertools
import struct
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from media_worker.mp4 import BrokenFile, Movie, Unsupported, lay_out, plan_split, read_movie
from media_worker.mp4 import fragment_reader as under_test
from media_worker.mp4.boxes import Box, full_box
from media_worker.mp4.fragment_reader import CutOff, Moof, Request, read_moofs

from tests.unit.mp4.fragmented_movies import make_fragmented
from tests.unit.mp4.movies import TrackSpec, assemble, load, samples_of

if TYPE_CHECKING:
    from collections.abc import Sequence

FRAGMENTS = 100
SPEC = TrackSpec([40] * FRAGMENTS, sizes=[150_000 + 77 * number for number in range(FRAGMENTS)])
FILE = make_fragmented([SPEC], FRAGMENTS)
SMALL = make_fragmented([TrackSpec([40] * 60)], 20)


class Reader:
    """Reads a file and counts requests, rounds and bytes."""

    def __init__(self, data: bytes) -> None:
        self.data, self.requests, self.rounds, self.bytes = data, 0, 0, 0

    def read(self, offset: int, length: int) -> bytes:
        return self.read_many([(offset, length)])[0]

    def read_many(self, requests: Sequence[Request]) -> list[bytes]:
        self.requests, self.rounds = self.requests + len(requests), self.rounds + 1
        self.bytes += sum(length for _, length in requests)
        return [self.data[offset : offset + length] for offset, length in requests]

    def movie(self) -> Movie:
        return read_movie(self.read, len(self.data), self.read_many)


def moof_offsets(data: bytes) -> list[int]:
    """By following the boxes one after the other."""
    offsets, at = [], 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        offsets += [at] if kind == b"moof" else []
        at += size
    return offsets


def mfra(offsets: Sequence[int], *, wide: bool = True) -> bytes:
    entry = struct.Struct(">QQBBB" if wide else ">IIBBB")
    rows = b"".join(entry.pack(0, offset, 1, 1, 1) for offset in offsets)
    tfra = Box(b"tfra", full_box(1 if wide else 0) + struct.pack(">III", 1, 0, len(offsets)) + rows)
    mfro_bytes = 16
    size = 8 + tfra.size_bytes + mfro_bytes
    mfro = Box(b"mfro", full_box(0) + struct.pack(">I", size))
    return Box(b"mfra", tfra.to_bytes() + mfro.to_bytes()).to_bytes()


def with_sidx(data: bytes, *, version: int = 0) -> bytes:
    offsets = [*moof_offsets(data), len(data)]
    sizes = [end - start for start, end in itertools.pairwise(offsets)]
    rows = b"".join(struct.pack(">III", size, 40, 0x90000000) for size in sizes)
    times = struct.pack(">QQ" if version else ">II", 0, 0)
    payload = full_box(version) + struct.pack(">II", 1, 1000) + times + struct.pack(">HH", 0, len(sizes)) + rows
    return data[: offsets[0]] + Box(b"sidx", payload).to_bytes() + data[offsets[0] :]


INDEXED = {
    "mfra": FILE + mfra(moof_offsets(FILE)),
    "mfra of 32 bits": FILE + mfra(moof_offsets(FILE), wide=False),
    "mfra of every third": FILE + mfra(moof_offsets(FILE)[::3]),
    "sidx": with_sidx(FILE),
    "sidx of 64 bits": with_sidx(FILE, version=1),
    "no index": FILE,
}


@pytest.mark.parametrize("data", INDEXED.values(), ids=INDEXED)
def test_fragments_are_read_at_the_same_time(data: bytes) -> None:
    """With an index or without one, about one request for each fragment, and only a fraction of the media."""
    reader = Reader(data)
    movie = reader.movie()
    assert [sample.data for sample in samples_of(data, movie.tracks[0])] == [
        sample.data for sample in samples_of(FILE, load(FILE).tracks[0])
    ]
    assert reader.requests < 1.3 * FRAGMENTS
    assert reader.rounds < 40
    assert reader.bytes < len(data) // 10


def test_an_index_makes_rounds_and_not_requests_cheaper() -> None:
    """The requests of a round are carried out at the same time, so rounds are what takes time."""
    reader = Reader(INDEXED["sidx"])
    reader.movie()
    assert reader.rounds < 20


def test_small_fragments_are_read_together() -> None:
    """A request for each fragment of some kilobytes takes longer than reading their media too."""
    data = make_fragmented([TrackSpec([40] * 600, sizes=[5000] * 600)], 600)
    reader = Reader(data)
    assert reader.movie().tracks[0].table.count == 600
    assert reader.requests < 20
    assert reader.bytes < len(data) * 1.2


def test_a_short_file_is_read_without_its_index() -> None:
    """Fetching the index would take more reads than it saves."""
    data = make_fragmented([TrackSpec([40] * 10, sizes=[100_000] * 10)], 10)
    reader = Reader(data + mfra(moof_offsets(data)))
    reader.movie()
    assert reader.requests <= 12


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that make even the smallest file use an index or a search."""
    limits = {
        "READ_AHEAD_BYTES": 1, "SMALL_FRAGMENT_BYTES": 0, "FRAGMENTS_BEFORE_INDEX": 1, "MIN_PEEK_BYTES": 16,
        "FRAGMENTS_WORTH_AN_INDEX": 1, "FRAGMENTS_WORTH_A_SCAN": 2, "FRAGMENTS_OF_A_SEARCH": 1, "SCAN_BLOCK_BYTES": 64,
    }  # fmt: skip
    for name, value in limits.items():
        monkeypatch.setattr(under_test, name, value)


def offsets_read(data: bytes) -> list[int]:
    start = moof_offsets(SMALL)[0]
    return [moof.offset for moof in read_moofs(Reader(data).read_many, len(data), start, b"")]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, len(SMALL) + 100), max_size=30), st.sets(st.sampled_from(moof_offsets(SMALL))))
@pytest.mark.usefixtures("eager")
def test_a_wrong_index_does_not_change_the_result(wrong: list[int], right: set[int]) -> None:
    """Offsets that are no fragment are passed over, and missing ones are found."""
    assert offsets_read(SMALL + mfra(sorted([*wrong, *right]))) == moof_offsets(SMALL)


@pytest.mark.usefixtures("eager")
def test_fragments_inside_the_media_are_not_read() -> None:
    """The media may contain a fragmented file of its own, which a search finds."""
    at = moof_offsets(SMALL)[3]
    hidden = SMALL[at : moof_offsets(SMALL)[7]]
    mdat = Box(b"mdat", hidden).to_bytes()
    moved = [offset if offset < at else offset + len(mdat) for offset in moof_offsets(SMALL)]
    assert offsets_read(SMALL[:at] + mdat + SMALL[at:]) == moved


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("damage", [b"mfro", b"tfra"])
def test_a_damaged_index_is_ignored(damage: bytes) -> None:
    """It is not needed."""
    assert offsets_read((SMALL + mfra(moof_offsets(SMALL))).replace(damage, b"junk")) == moof_offsets(SMALL)


@pytest.mark.usefixtures("eager")
def test_a_broken_box_between_fragments_is_an_error() -> None:
    """What follows it cannot be found, and is more than the incomplete end of a recording."""
    at = moof_offsets(SMALL)[12]
    with pytest.raises(BrokenFile, match="less than its header"):
        offsets_read(SMALL[:at] + struct.pack(">I4s", 3, b"moof") + SMALL[at:])


def test_a_file_that_ends_in_a_moof_is_cut_off() -> None:
    """The reader says where."""
    offsets = moof_offsets(SMALL)
    data = SMALL[: offsets[-1] + 20]
    found = list(read_moofs(Reader(data).read_many, len(data), offsets[0], b""))
    assert found[-1] == CutOff(offsets[-1])
    assert all(isinstance(each, Moof) for each in found[:-1])


def test_a_recording_that_was_cut_off_loses_its_last_fragment() -> None:
    """Wherever the end is, all complete fragments are kept, and a notice says what was dropped."""
    offsets = [*moof_offsets(SMALL), len(SMALL)]
    complete = [sample.data for sample in samples_of(SMALL, load(SMALL).tracks[0])]
    for end in range(offsets[10], offsets[13] + 1):
        kept = sum(offset <= end for offset in offsets) - 1
        movie = load(SMALL[:end])
        assert [sample.data for sample in samples_of(SMALL, movie.tracks[0])] == complete[: 3 * kept]
        assert len(movie.notices) == (end not in offsets)
    assert load(SMALL).notices == ()


def test_the_notice_says_what_was_dropped() -> None:
    """Its position and size, and why."""
    end = moof_offsets(SMALL)[15] + 50
    (notice,) = load(SMALL[:end]).notices
    assert "cut off" in notice
    assert f"50 bytes from offset {end - 50}" in notice


def test_a_recording_that_was_cut_off_can_be_split() -> None:
    """The segments contain what is complete."""
    data = SMALL[: moof_offsets(SMALL)[15] + 50]
    movie = load(data)
    plan = plan_split(movie, Fraction(1))
    assert plan.total_segments == 2
    segments = [assemble(lay_out(movie, plan, index), data) for index in range(2)]
    assert sum(load(segment).tracks[0].table.count for segment in segments) == 45


def test_media_beyond_the_end_in_the_middle_is_an_error() -> None:
    """Only the last fragment of a recording can be incomplete."""
    data = bytearray(SMALL)
    at = data.index(b"trun", moof_offsets(SMALL)[4]) + 12
    data[at : at + 4] = struct.pack(">i", len(SMALL))
    with pytest.raises(BrokenFile, match="beyond the end"):
        load(bytes(data))


def test_a_recording_without_a_complete_fragment_has_no_samples() -> None:
    """Nothing is left to split."""
    with pytest.raises(Unsupported, match="no samples"):
        load(SMALL[: moof_offsets(SMALL)[0] + 50])
