"""Sample descriptions: which are the same, and which can share a track (ISO/IEC 14496-12, 8.5.2).

An encoder that ran once for each segment writes the same codec configuration every time, but its own bit rates.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .boxes import Box

_BIT_RATES = re.compile(rb"\0\0\0\x14btrt.{12}", re.DOTALL)
_ES_TAG, _DECODER_CONFIG_TAG = 3, 4


def normalised(entry: Box) -> bytes:
    """The entry without what may differ between two runs of one encoder: bit rates. Only to compare with."""
    return entry.kind + _without_esds_rates(_BIT_RATES.sub(b"", bytes(entry.payload)))


def _without_esds_rates(payload: bytes) -> bytes:
    """An `esds` with buffer size and bit rates (11 bytes) set to 0 (ISO/IEC 14496-1, 7.2.6.6)."""
    found = payload.find(b"esds\0\0\0\0")
    if found < 0:
        return payload
    changed = bytearray(payload)
    at = _skip_tag(changed, found + 8, _ES_TAG)
    at = None if at is None else _skip_tag(changed, at + 3, _DECODER_CONFIG_TAG)
    if at is None or at + 13 > len(changed):
        return payload
    changed[at + 2 : at + 13] = bytes(11)
    return bytes(changed)


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


def merge(lists: Sequence[tuple[Box, ...]]) -> tuple[tuple[Box, ...], list[list[int]]]:
    """All different descriptions, and for each list the new number (from 1) of each of its entries."""
    merged: dict[bytes, int] = {}
    kept: list[Box] = []
    numbers: list[list[int]] = []
    for entries in lists:
        numbers.append([])
        for entry in entries:
            key = normalised(entry)
            if key not in merged:
                kept.append(entry)
                merged[key] = len(kept)
            numbers[-1].append(merged[key])
    return tuple(kept), numbers
