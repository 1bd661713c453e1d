"""Sample descriptions: are two of them the same, and can both be in one track? (ISO/IEC 14496-12, 8.5.2)

An encoder that ran once for each segment writes the same codec configuration every time, but its own bit rates.
"""

from __future__ import annotations

from collections.abc import Sequence

from .boxes import Box, parse_boxes
from .errors import BrokenFile

VIDEO_ENTRY_BYTES = 78  # VisualSampleEntry up to its boxes (12.1.3)
SOUND_ENTRY_BYTES = {0: 28, 1: 44, 2: 64}  # AudioSampleEntry, and QuickTime's longer versions of it
_ES_TAG, _DECODER_CONFIG_TAG = 3, 4


def normalised(handler: bytes, entry: Box) -> bytes:
    """The entry without what may differ between two runs of one encoder: bit rates."""
    start = _boxes_at(handler, entry)
    if start is None:
        return entry.kind + bytes(entry.payload)
    try:
        children = parse_boxes(memoryview(entry.payload)[start:], entry.kind)
    except BrokenFile:
        return entry.kind + bytes(entry.payload)
    kept = b"".join(_without_rates(child).to_bytes() for child in children if child.kind != b"btrt")
    return entry.kind + bytes(entry.payload[:start]) + kept


def _boxes_at(handler: bytes, entry: Box) -> int | None:
    """Where the boxes inside a sample entry begin; None for the kinds that are compared whole."""
    if handler == b"vide":
        return VIDEO_ENTRY_BYTES
    if handler == b"soun" and len(entry.payload) >= SOUND_ENTRY_BYTES[0]:
        return SOUND_ENTRY_BYTES.get(int.from_bytes(entry.payload[8:10], "big"))
    return None


def _without_rates(box: Box) -> Box:
    """An `esds` with buffer size and bit rates (11 bytes) set to 0 (ISO/IEC 14496-1, 7.2.6.6)."""
    if box.kind != b"esds":
        return box
    payload = bytearray(box.payload)
    at = _skip_tag(payload, 4, _ES_TAG)
    at = None if at is None else _skip_tag(payload, at + 3, _DECODER_CONFIG_TAG)
    if at is None or at + 13 > len(payload):
        return box
    payload[at + 2 : at + 13] = bytes(11)
    return Box(box.kind, bytes(payload))


def _skip_tag(payload: bytearray, at: int, tag: int) -> int | None:
    """Behind a descriptor's tag and length (up to four bytes with a continuation bit); None if it is another one."""
    if at >= len(payload) or payload[at] != tag:
        return None
    for index in range(at + 1, min(at + 5, len(payload))):
        if not payload[index] & 0x80:
            return index + 1
    return None


def why_incompatible(handler: bytes, first: Box, other: Box) -> str | None:
    """Why two descriptions cannot share a track, in words; None when they can."""
    if first.kind != other.kind:
        return f"it is {_text(other.kind)}, theirs {_text(first.kind)}"
    if handler == b"vide" and first.payload[24:28] != other.payload[24:28]:
        return f"its pictures are {_size(other)}, theirs {_size(first)}"
    if handler == b"soun" and _sound(first) != _sound(other):
        return "its sound has {} channels at {} Hz, theirs {} at {} Hz".format(*_sound(other), *_sound(first))
    return None


def _text(kind: bytes) -> str:
    return kind.decode("latin-1")


def _size(entry: Box) -> str:
    width, height = (int.from_bytes(entry.payload[at : at + 2], "big") for at in (24, 26))
    return f"{width}x{height}"


def _sound(entry: Box) -> tuple[int, int]:
    return int.from_bytes(entry.payload[16:18], "big"), int.from_bytes(entry.payload[24:26], "big")


def merge(handler: bytes, lists: Sequence[tuple[Box, ...]]) -> tuple[tuple[Box, ...], list[list[int]]]:
    """All different descriptions, and for each list the new number (from 1) of each of its entries."""
    merged: dict[bytes, int] = {}
    kept: list[Box] = []
    numbers: list[list[int]] = []
    for entries in lists:
        numbers.append([])
        for entry in entries:
            key = normalised(handler, entry)
            if key not in merged:
                kept.append(entry)
                merged[key] = len(kept)
            numbers[-1].append(merged[key])
    return tuple(kept), numbers
