"""A compressed index is read like any other."""

from __future__ import annotations

import struct
import zlib
from dataclasses import replace

import pytest
from media_worker.mp4 import BrokenFile, Unsupported
from media_worker.mp4.boxes import Box
from media_worker.mp4.reader import MAX_DECOMPRESSED_MOOV_BYTES

from tests.unit.mp4.movies import TrackSpec, load, make_movie, samples_of

MOVIE = make_movie([TrackSpec([40] * 20), TrackSpec([1024] * 30, handler=b"soun", timescale=48000)])


def compressed(
    movie: bytes, method: bytes = b"zlib", size_bytes: int | None = None, packed: bytes | None = None
) -> bytes:
    """The movie with a compressed index at its end. Its chunk offsets stay, so the old index becomes a `free` box."""
    at = movie.index(b"moov") - 4
    moov = movie[at : at + int.from_bytes(movie[at : at + 4], "big")]
    data = struct.pack(">I", len(moov) if size_bytes is None else size_bytes)
    cmvd = Box(b"cmvd", data + (zlib.compress(moov) if packed is None else packed))
    cmov = Box(b"cmov", Box(b"dcom", method).to_bytes() + cmvd.to_bytes())
    freed = moov[:4] + b"free" + moov[8:]
    return movie.replace(moov, freed) + Box(b"moov", cmov.to_bytes()).to_bytes()


def test_a_compressed_index_is_decompressed() -> None:
    """Same tracks, same samples."""
    data = compressed(MOVIE)
    expected, found = load(MOVIE), load(data)
    assert found == replace(expected, fingerprint=found.fingerprint)
    for track in found.tracks:
        assert samples_of(data, track) == samples_of(MOVIE, track)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (compressed(MOVIE, method=b"brot"), Unsupported),
        (compressed(MOVIE, size_bytes=MAX_DECOMPRESSED_MOOV_BYTES + 1), Unsupported),
        (compressed(MOVIE, size_bytes=100), BrokenFile),
        (compressed(MOVIE, size_bytes=100_000), BrokenFile),
        (compressed(MOVIE, packed=b"not deflated"), BrokenFile),
        (compressed(MOVIE, packed=zlib.compress(bytes(1 << 24)), size_bytes=1 << 24), BrokenFile),
    ],
)
def test_a_bad_compressed_index_is_refused(data: bytes, error: type[Exception]) -> None:
    """Also one that would fill the memory."""
    with pytest.raises(error, match="compressed"):
        load(data)
