"""The three header boxes whose numbers change: `mvhd`, `tkhd` and `mdhd` (ISO/IEC 14496-12, 8.2.2, 8.3.2, 8.4.2)."""

from __future__ import annotations

import struct

from .boxes import Box, full_box, parse_boxes, unpack, version_and_flags
from .errors import BrokenFile

_U32 = struct.Struct(">I")


def movie_timescale(mvhd: Box) -> int:
    """Ticks in a second of the film."""
    return _timescale(mvhd)


def media_timescale(mdhd: Box) -> int:
    """Ticks in a second of a track."""
    return _timescale(mdhd)


def track_id(tkhd: Box) -> int:
    """The third number, after two times of 4 bytes (8 in version 1)."""
    version, _ = version_and_flags(tkhd)
    return unpack(_U32, tkhd, 20 if version else 12)[0]


def is_enabled(tkhd: Box) -> bool:
    """Whether the track is meant to be played."""
    return bool(version_and_flags(tkhd)[1] & 1)


def references(trak: Box, kind: bytes) -> tuple[int, ...]:
    """The tracks that this one refers to in that way (`tref`, 8.3.3)."""
    tref = trak.find(b"tref")
    if tref is None:
        return ()
    lists = (box.payload for box in parse_boxes(memoryview(tref.payload), b"tref") if box.kind == kind)
    return tuple(number for each in lists for (number,) in _U32.iter_unpack(each[: len(each) // 4 * 4]))


def _timescale(box: Box) -> int:
    version, _ = version_and_flags(box)
    (timescale,) = unpack(_U32, box, 20 if version else 12)
    if not timescale:
        raise BrokenFile(f"a timescale of 0 in {box.kind.decode('latin-1')}")
    return timescale


def with_times(box: Box, duration: int, timescale: int | None = None) -> Box:
    """The header with another duration (and timescale); version 1 as soon as 32 bits do not hold the duration.

    All three boxes are laid out alike: creation, modification, one number (timescale or track id; `tkhd` has a
    reserved word after it), duration, and then what is kept as it is.
    """
    version, flags = version_and_flags(box)
    wide = 8 if version else 4
    middle = 8 if box.kind == b"tkhd" else 4
    if len(box.payload) < 4 + 3 * wide + middle:
        raise BrokenFile(f"box {box.kind.decode('latin-1')} is too short")
    payload = bytes(box.payload)
    created, modified = (int.from_bytes(payload[at : at + wide], "big") for at in (4, 4 + wide))
    number = payload[4 + 2 * wide : 4 + 2 * wide + middle] if timescale is None else _U32.pack(timescale)
    rest = payload[4 + 3 * wide + middle :]
    new_version = 1 if version or duration >= (1 << 32) - 1 else 0
    times, length = (">QQ", ">Q") if new_version else (">II", ">I")
    head = full_box(new_version, flags) + struct.pack(times, created, modified)
    return Box(box.kind, head + number + struct.pack(length, duration) + rest)
