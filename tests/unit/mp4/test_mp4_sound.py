"""Uncompressed sound: QuickTime's tables often give 1 byte for each sample, whatever it is."""

from __future__ import annotations

import struct
from array import array

import pytest
from media_worker.mp4.boxes import Box
from media_worker.mp4.errors import Unsupported
from media_worker.mp4.places import Chunks, Sizes
from media_worker.mp4.runs import Runs
from media_worker.mp4.sound import with_true_sizes
from media_worker.mp4.tables import SampleTable


def pcm(size_bytes: int = 1, duration: int = 1) -> SampleTable:
    chunks = Chunks.of(array("Q", [0]), array("I", [100]), Runs.constant(1, 1))
    return SampleTable(Runs.constant(100, duration), None, Sizes.same(100, size_bytes), None, chunks)


def entry(kind: bytes, version: int = 0, channels: int = 2, bits: int = 16, more: bytes = b"") -> Box:
    head = bytes(6) + struct.pack(">HHHIHHI", 1, version, 0, 0, channels, bits, 0) + struct.pack(">I", 48000 << 16)
    return Box(kind, head + more)


VERSION_1 = struct.pack(">IIII", 1, 3, 6, 2)
VERSION_2 = struct.pack(">IdIIIIII", 72, 48000.0, 2, 0x7F000000, 24, 12, 6, 1)


@pytest.mark.parametrize(
    ("description", "size_bytes"),
    [
        (entry(b"twos"), 4),
        (entry(b"sowt", channels=1), 2),
        (entry(b"in24"), 6),
        (entry(b"ulaw", channels=1), 1),
        (entry(b"qdmx", version=1, more=VERSION_1), 6),
        (entry(b"lpcm", version=2, more=VERSION_2), 6),
        (entry(b"ipcm"), 1),  # ISO: the table is right
    ],
)
def test_the_sample_entry_knows_the_size(description: Box, size_bytes: int) -> None:
    """Channels times bits; newer entries say it themselves."""
    assert with_true_sizes(pcm(), description).sizes.constant == size_bytes


def test_compressed_packets_keep_their_size() -> None:
    """AC-3 has packets of one size as well, but each lasts longer than a tick."""
    table = pcm(1792, duration=1536)
    assert with_true_sizes(table, entry(b"ac-3")) is table


def test_sound_whose_samples_share_packets_is_left_to_another_engine() -> None:
    """IMA and MACE: no byte position can be read off the tables."""
    with pytest.raises(Unsupported, match="share packets"):
        with_true_sizes(pcm(), entry(b"ima4", version=1, more=struct.pack(">IIII", 64, 34, 68, 2)))
