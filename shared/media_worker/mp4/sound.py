"""How large a sample of uncompressed sound is: QuickTime's `stsz` often says 1 (QuickTime File Format, "Sound Media").

The true size follows from the sample entry. Old compressed sound (IMA, MACE, version 1 entries) goes further: its
tables count uncompressed samples that share packets, so no byte position can be read off them.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING

from .boxes import Box, unpack
from .errors import Unsupported
from .places import Sizes

if TYPE_CHECKING:
    from .tables import SampleTable

_ENTRY = struct.Struct(">8xH6xHH")  # version, channels, bits for each sample
_VERSION_1 = struct.Struct(">28xIIII")  # samples per packet, bytes per packet, bytes per frame, bytes per sample
_VERSION_2 = struct.Struct(">40xI4xIIII")  # channels, bits per channel, flags, bytes and samples per packet
LPCM_VERSION = 2
PCM_BITS = {
    b"twos": 0, b"sowt": 0, b"raw ": 0, b"NONE": 0, b"in24": 24, b"in32": 32, b"fl32": 32, b"fl64": 64,
    b"ulaw": 8, b"alaw": 8,
}  # fmt: skip


def with_true_sizes(table: SampleTable, entry: Box) -> SampleTable:
    """The table of a PCM track with the sizes that its samples really have."""
    if not table.is_pcm or not table.count:
        return table
    true_bytes = _bytes_per_sample(entry)
    if true_bytes is None or true_bytes == table.sizes.constant:
        return table
    return replace(table, sizes=Sizes.same(table.count, true_bytes))


def _bytes_per_sample(entry: Box) -> int | None:
    """What the entry says about one sample of all channels; None when it is no QuickTime PCM."""
    version, channels, bits = unpack(_ENTRY, entry)
    if entry.kind in PCM_BITS:
        return channels * ((PCM_BITS[entry.kind] or bits) // 8) or None
    if version == 1:
        samples, _, frame_bytes, _ = unpack(_VERSION_1, entry)
        if samples > 1:
            raise Unsupported("QuickTime sound whose samples share packets")
        return frame_bytes or None
    if version == LPCM_VERSION and entry.kind == b"lpcm":
        return unpack(_VERSION_2, entry)[3] or None
    return None
