"""Fragmented files: sample tables spread over `moof` boxes (ISO/IEC 14496-12, 8.8).

They are gathered into the tables that a file without fragments has; the media stays where it is. Each fragment costs
one read, of about the size of the last `moof`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .boxes import Box, parse_boxes, unpack, version_and_flags
from .errors import BrokenFile, Unsupported
from .gathering import Gathered, Run
from .source import TopBox, Window
from .stbl import integers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_FRAGMENTS = 100_000
MAX_MOOF_BYTES = 64 << 20
MIN_PEEK_BYTES, MAX_PEEK_BYTES = 1 << 10, 1 << 16
_U32, _U64, _I32 = struct.Struct(">I"), struct.Struct(">Q"), struct.Struct(">i")
_TREX = struct.Struct(">4xIIIII")

# tfhd flags (8.8.7)
BASE_DATA_OFFSET, DESCRIPTION, DURATION, SIZE, FLAGS = 0x1, 0x2, 0x8, 0x10, 0x20
BASE_IS_MOOF = 0x20000
# trun flags (8.8.8)
DATA_OFFSET, FIRST_FLAGS, EACH_DURATION, EACH_SIZE, EACH_FLAGS, EACH_OFFSET = 0x1, 0x4, 0x100, 0x200, 0x400, 0x800


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a sample is like unless its run says otherwise: `trex`, and on top of it `tfhd`."""

    description: int
    duration: int
    size: int
    flags: int


def has_fragments(moov: Box) -> bool:
    """Whether the `moov` announces fragments."""
    return moov.find(b"mvex") is not None


def parse_defaults(moov: Box) -> dict[int, Defaults]:
    """For each track its `trex`."""
    found = {}
    for trex in moov.need(b"mvex").find_all(b"trex"):
        track_id, *values = unpack(_TREX, trex)
        found[track_id] = Defaults(*values)
    return found


def read_fragments(
    window: Window, offset: int, defaults: dict[int, Defaults], on_moof: Callable[[bytes], None]
) -> dict[int, Gathered]:
    """The samples of all fragments behind `offset`, for each track number."""
    tracks = {track_id: Gathered() for track_id in defaults}
    for moof, payload in _moofs(window, offset):
        on_moof(payload)
        data_at = moof.offset  # where the media of the next run lies unless it says so
        for traf in Box(b"moof", children=parse_boxes(memoryview(payload), b"moof")).find_all(b"traf"):
            data_at = _add_traf(tracks, defaults, traf, moof.offset, data_at)
    return tracks


def _moofs(window: Window, offset: int) -> Iterator[tuple[TopBox, bytes]]:
    """Every `moof` with its payload."""
    peek_bytes, count = MAX_PEEK_BYTES, 0
    while (header := window.header_at(offset, peek_bytes)) is not None:
        size_bytes = window.size_bytes - offset if header.size_bytes is None else header.size_bytes
        if header.kind == b"moof":
            if size_bytes > MAX_MOOF_BYTES or offset + size_bytes > window.size_bytes or count > MAX_FRAGMENTS:
                raise BrokenFile("a fragment that is cut short, or far too many")
            box = TopBox(header.kind, offset, header.header_bytes, size_bytes)
            yield box, window.bytes_at(box.payload_offset, box.payload_bytes)
            peek_bytes = min(max(2 * size_bytes, MIN_PEEK_BYTES), MAX_PEEK_BYTES)
            count += 1
        offset += size_bytes
        if window.jumps > 2 * MAX_FRAGMENTS:
            raise Unsupported("too many pieces in the file")


def _add_traf(tracks: dict[int, Gathered], defaults: dict[int, Defaults], traf: Box, moof_at: int, data_at: int) -> int:
    """The samples of one track in one fragment. Answers where its media ends."""
    for kind in (b"senc", b"saiz", b"saio"):
        if traf.find(kind):
            raise Unsupported("auxiliary information beside the samples (encryption)")
    tfhd = traf.need(b"tfhd")
    (track_id,) = unpack(_U32, tfhd, 4)
    if track_id not in tracks:
        raise BrokenFile(f"a fragment of track {track_id}, which is not there")
    base, default = _parse_tfhd(tfhd, defaults[track_id], moof_at, data_at)
    gathered = tracks[track_id]
    if (tfdt := traf.find(b"tfdt")) is not None:
        gathered.continue_at(unpack(_U64 if version_and_flags(tfdt)[0] else _U32, tfdt, 4)[0])
    data_at = base
    for trun in traf.find_all(b"trun"):
        run, offset = _parse_trun(trun, default)
        data_at = data_at if offset is None else base + offset
        if data_at < 0:
            raise BrokenFile("a fragment with media in front of the file")
        gathered.add(run, data_at, default.description)
        data_at += run.size_bytes
    return data_at


def _parse_tfhd(tfhd: Box, default: Defaults, moof_at: int, data_at: int) -> tuple[int, Defaults]:
    """Where offsets count from, and the defaults of this fragment."""
    _, flags = version_and_flags(tfhd)
    base = moof_at if flags & BASE_IS_MOOF else data_at
    at = 8
    if flags & BASE_DATA_OFFSET:
        (base,) = unpack(_U64, tfhd, at)
        at += 8
    values = [default.description, default.duration, default.size, default.flags]
    for number, flag in enumerate((DESCRIPTION, DURATION, SIZE, FLAGS)):
        if flags & flag:
            (values[number],) = unpack(_U32, tfhd, at)
            at += 4
    return base, Defaults(*values)


def _parse_trun(trun: Box, default: Defaults) -> tuple[Run, int | None]:
    """The samples of one run, and its data offset."""
    _version, flags = version_and_flags(trun)
    (count,) = unpack(_U32, trun, 4)
    at, offset, first_flags = 8, None, None
    if flags & DATA_OFFSET:
        (offset,) = unpack(_I32, trun, at)
        at += 4
    if flags & FIRST_FLAGS:
        (first_flags,) = unpack(_U32, trun, at)
        at += 4
    present = [flag for flag in (EACH_DURATION, EACH_SIZE, EACH_FLAGS, EACH_OFFSET) if flags & flag]
    columns = {
        # Composition offsets are signed in version 1, and written so in version 0 as well.
        flag: integers("i" if flag == EACH_OFFSET else "I", trun, at, count * len(present))[number :: len(present)]
        for number, flag in enumerate(present)
    }
    run = Run(
        count=count,
        durations=columns.get(EACH_DURATION, default.duration),
        sizes=columns.get(EACH_SIZE, default.size),
        flags=columns.get(EACH_FLAGS, default.flags),
        first_flags=first_flags,
        offsets=columns.get(EACH_OFFSET, 0),
    )
    return run, offset
