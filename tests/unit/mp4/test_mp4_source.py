"""Finding the index: few reads, and hardly a byte more than the index."""

from __future__ import annotations

import struct

import pytest
from media_worker.mp4 import BrokenFile, Unsupported, read_movie
from media_worker.mp4.boxes import Box

from tests.unit.mp4.films import FTYP, TrackSpec, load, make_film, samples_of

FILM = make_film([TrackSpec([40] * 200, sync=range(0, 200, 10))])
HEADER_END = FILM.index(b"mdat") - 4
MOOV = FILM[FILM.index(b"moov") - 4 : HEADER_END]
GB = 1 << 30


class Sparse:
    """A huge file of which only a few pieces hold anything; counts what is read."""

    def __init__(self, size_bytes: int, pieces: dict[int, bytes]) -> None:
        self.size_bytes, self.pieces, self.reads = size_bytes, pieces, [(0, 0)][:0]

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        data = bytearray(min(length, self.size_bytes - offset))
        for at, piece in self.pieces.items():
            for index, byte in enumerate(piece):
                if 0 <= at + index - offset < len(data):
                    data[at + index - offset] = byte
        return bytes(data)

    @property
    def bytes_read(self) -> int:
        return sum(length for _, length in self.reads)


def test_an_index_in_front_takes_one_read() -> None:
    """A small moov comes with the first piece."""
    file = Sparse(GB, {0: FILM[:HEADER_END] + struct.pack(">I4s", 0, b"mdat")})
    assert read_movie(file.read, GB).tracks[0].table.count == 200
    assert len(file.reads) == 1


def test_an_index_behind_a_huge_mdat_takes_two_reads() -> None:
    """The media is jumped over, whatever its size."""
    mdat_bytes = 50 * GB
    ftyp = Box(b"ftyp", FTYP).to_bytes()
    pieces = {0: ftyp + struct.pack(">I4sQ", 1, b"mdat", mdat_bytes), len(ftyp) + mdat_bytes: MOOV}
    file = Sparse(len(ftyp) + mdat_bytes + len(MOOV), pieces)
    assert read_movie(file.read, file.size_bytes).tracks[0].table.count == 200
    assert len(file.reads) == 2
    assert file.bytes_read < len(MOOV) + (1 << 17)


def test_many_boxes_in_the_way_cost_less_than_a_megabyte() -> None:
    """After a dozen jumps only headers are fetched."""
    pieces = {number * 200_000: struct.pack(">I4s", 200_000, b"free") for number in range(100)}
    file = Sparse(100 * 200_000 + len(MOOV), pieces | {100 * 200_000: MOOV})
    assert read_movie(file.read, file.size_bytes).tracks[0].table.count == 200
    assert file.bytes_read < len(MOOV) + (1 << 20)


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (b"", BrokenFile, "no moov"),
        (b"\x1aE\xdf\xa3" + bytes(100), Unsupported, "not an MP4"),
        (Box(b"ftyp", FTYP).to_bytes(), BrokenFile, "no moov"),
        (FILM[: HEADER_END - 10], BrokenFile, "beyond the end"),
        (FILM[:-1], Unsupported, "cut short"),
        (FILM.replace(b"avc1", b"encv"), Unsupported, "encrypted"),
        (FILM.replace(b"udta", b"cmov"), Unsupported, "compressed"),
        (FILM.replace(struct.pack(">4sI", b"url ", 1), struct.pack(">4sI", b"url ", 0)), Unsupported, "another file"),
    ],
)
def test_what_cannot_be_done_is_said(data: bytes, error: type[Exception], said: str) -> None:
    """A file for another engine is told from a broken one, with the reason."""
    with pytest.raises(error, match=said):
        load(data)


def test_all_boxes_it_does_not_know_are_kept() -> None:
    """User data comes out as it went in."""
    udta = load(FILM).box.find(b"udta")
    assert udta is not None
    assert bytes(udta.payload) == b"keep me"
    assert len(samples_of(FILM, load(FILM).tracks[0])) == 200
