"""Encrypted files are refused as encrypted, wherever the file says so."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from media_worker.mp4 import Encrypted, Unsupported
from media_worker.mp4.boxes import Box, full_box, parse_boxes

from tests.unit.mp4.fragmented_movies import make_fragmented
from tests.unit.mp4.movies import TrackSpec, audio_entry, load, make_movie, video_entry

VIDEO = TrackSpec([40] * 30, sync=range(0, 30, 3))
AUDIO = TrackSpec([1024] * 50, b"soun", 48000)
STBL = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
SENC = Box(b"senc", full_box(0) + struct.pack(">I", 0))
PIFF = Box(b"uuid", bytes.fromhex("a2394f525a9b4f14a2446c427c648df4") + bytes(8))
SEIG = Box(b"sgpd", full_box(1) + b"seig" + struct.pack(">II", 20, 1) + b"\0\0\1\x08" + bytes(16))
SEIG_MEMBERS = Box(b"csgp", full_box(0) + b"seig" + bytes(8))
SAIO = Box(b"saio", full_box(0) + struct.pack(">II", 1, 100))
OTHER_SAIO = Box(b"saio", full_box(0, 1) + b"mine" + struct.pack(">III", 0, 1, 100))


def insert(boxes: tuple[Box, ...], path: tuple[bytes, ...], box: Box) -> tuple[Box, ...]:
    """`boxes` with one more child at the end of the first box at `path`."""
    if not path:
        return (*boxes, box)
    number = next(number for number, each in enumerate(boxes) if each.kind == path[0])
    changed = replace(boxes[number], children=insert(boxes[number].children or (), path[1:], box))
    return (*boxes[:number], changed, *boxes[number + 1 :])


def with_box(data: bytes, path: tuple[bytes, ...], box: Box) -> bytes:
    return b"".join(each.to_bytes() for each in insert(parse_boxes(memoryview(data), b"file"), path, box))


@pytest.mark.parametrize("kind", [b"encv", b"drmi"])
def test_an_encrypted_sample_entry_is_refused(kind: bytes) -> None:
    """The codec's own entry is inside it."""
    with pytest.raises(Encrypted, match=f"encrypted .*{kind.decode()} in track 1"):
        load(make_movie([replace(VIDEO, entry=video_entry(kind))]))


@pytest.mark.parametrize("kind", [b"enca", b"drms"])
def test_encrypted_audio_is_refused(kind: bytes) -> None:
    """The video of such a file is clear, but the file cannot be played."""
    with pytest.raises(Encrypted, match=kind.decode()):
        load(make_movie([VIDEO, replace(AUDIO, entry=audio_entry(kind))]))


@pytest.mark.parametrize("box", [SENC, PIFF, SEIG, SEIG_MEMBERS, SAIO])
@pytest.mark.parametrize("path", [STBL, (b"moof", b"traf")])
def test_a_clear_sample_entry_proves_nothing(box: Box, path: tuple[bytes, ...]) -> None:
    """The sample entry is avc1, but other boxes of the track or of a fragment describe encryption."""
    clear = make_fragmented([VIDEO], 2) if path[0] == b"moof" else make_movie([VIDEO])
    load(with_box(clear, path, Box(b"free", bytes(8))))
    with pytest.raises(Encrypted):
        load(with_box(clear, path, box))


def test_an_encrypted_file_with_a_defect_is_still_refused_as_encrypted() -> None:
    """Otherwise ffmpeg would be asked to split it."""
    broken = make_movie([replace(VIDEO, entry=video_entry(b"encv"))])[:-20]
    with pytest.raises(Encrypted):
        load(broken)
    with pytest.raises(Encrypted):
        load(make_movie([VIDEO, replace(AUDIO, entry=audio_entry(b"enca"))]).replace(b"stsz", b"free"))


def test_auxiliary_information_of_another_kind_is_not_encryption() -> None:
    """Its offsets would become wrong, so the file is unsupported."""
    with pytest.raises(Unsupported, match="auxiliary"):
        load(with_box(make_movie([VIDEO]), STBL, OTHER_SAIO))
