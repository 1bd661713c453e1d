"""The reader finds the index with few reads, and reads little more than the index."""

from __future__ import annotations

import struct

import pytest
from media_worker.mp4 import BrokenFile, Encrypted, Unsupported, read_movie
from media_worker.mp4.boxes import Box
from media_worker.mp4.reader import PEEK_BYTES

from tests.unit.mp4.movies import FTYP, TrackSpec, load, make_movie, samples_of

MOVIE = make_movie([TrackSpec([40] * 200, sync=range(0, 200, 10))])
HEADER_END = MOVIE.index(b"mdat") - 4
MOOV = MOVIE[MOVIE.index(b"moov") - 4 : HEADER_END]
GB = 1 << 30


class Sparse:
    """A huge file that is zero except for a few extents. Records what is read."""

    def __init__(self, size_bytes: int, extents: dict[int, bytes]) -> None:
        self.size_bytes, self.extents, self.reads = size_bytes, extents, [(0, 0)][:0]

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        data = bytearray(min(length, self.size_bytes - offset))
        for at, extent in self.extents.items():
            for index, byte in enumerate(extent):
                if 0 <= at + index - offset < len(data):
                    data[at + index - offset] = byte
        return bytes(data)

    @property
    def bytes_read(self) -> int:
        return sum(length for _, length in self.reads)


def test_an_index_in_front_takes_one_read() -> None:
    """A small moov is in the first read."""
    file = Sparse(GB, {0: MOVIE[:HEADER_END] + struct.pack(">I4s", 0, b"mdat")})
    assert read_movie(file.read, GB).tracks[0].table.count == 200
    assert len(file.reads) == 1


def test_an_index_behind_a_huge_mdat_takes_two_reads() -> None:
    """The media is not read, whatever its size."""
    mdat_bytes = 50 * GB
    ftyp = Box(b"ftyp", FTYP).to_bytes()
    extents = {0: ftyp + struct.pack(">I4sQ", 1, b"mdat", mdat_bytes), len(ftyp) + mdat_bytes: MOOV}
    file = Sparse(len(ftyp) + mdat_bytes + len(MOOV), extents)
    assert read_movie(file.read, file.size_bytes).tracks[0].table.count == 200
    assert len(file.reads) == 2
    assert file.bytes_read < len(MOOV) + (1 << 17)


def test_an_index_at_the_end_that_is_larger_than_a_peek_takes_two_reads() -> None:
    """The rest of the file is read at once: a second request to S3 takes longer than a few hundred kilobytes."""
    moov = Box(b"moov", MOOV[8:] + Box(b"free", bytes(3 * PEEK_BYTES)).to_bytes()).to_bytes()
    ftyp = Box(b"ftyp", FTYP).to_bytes()
    extents = {0: ftyp + struct.pack(">I4sQ", 1, b"mdat", GB), len(ftyp) + GB: moov}
    file = Sparse(len(ftyp) + GB + len(moov), extents)
    assert read_movie(file.read, file.size_bytes).tracks[0].table.count == 200
    assert len(file.reads) == 2


def test_many_boxes_before_the_index_cost_less_than_a_megabyte() -> None:
    """After a dozen reads, only box headers are read."""
    extents = {number * 200_000: struct.pack(">I4s", 200_000, b"free") for number in range(100)}
    file = Sparse(100 * 200_000 + len(MOOV), extents | {100 * 200_000: MOOV})
    assert read_movie(file.read, file.size_bytes).tracks[0].table.count == 200
    assert file.bytes_read < len(MOOV) + (1 << 20)


@pytest.mark.parametrize(
    ("data", "error", "reason"),
    [
        (b"", BrokenFile, "no moov"),
        (b"\x1aE\xdf\xa3" + bytes(100), Unsupported, "not an MP4"),
        (Box(b"ftyp", FTYP).to_bytes(), BrokenFile, "no moov"),
        (MOVIE[: HEADER_END - 10], BrokenFile, "beyond the end"),
        (make_movie([TrackSpec([40] * 3, sizes=[9, 0, 9])]), Unsupported, "a frame of 0 bytes"),
        (MOVIE[:-1], Unsupported, "cut short"),
        (MOVIE.replace(b"avc1", b"encv"), Encrypted, "encrypted"),
        (MOVIE.replace(struct.pack(">4sI", b"url ", 1), struct.pack(">4sI", b"url ", 0)), Unsupported, "another file"),
    ],
)
def test_rejected_files_have_a_reason(data: bytes, error: type[Exception], reason: str) -> None:
    """The error class tells an unsupported file from a broken one."""
    with pytest.raises(error, match=reason):
        load(data)


def test_unknown_boxes_are_kept() -> None:
    """User data is kept byte for byte."""
    udta = load(MOVIE).box.find(b"udta")
    assert udta is not None
    assert bytes(udta.payload) == b"keep me"
    assert len(samples_of(MOVIE, load(MOVIE).tracks[0])) == 200
