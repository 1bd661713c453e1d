"""Whether a sample is a key frame, by its first bytes: a frame at which a decoder can start.

Only for codecs that predict frames from others. All others (ProRes, DNxHD, MJPEG, DV, raw video) have key frames only.

    H.264            IDR, or an intra frame with a recovery point that is exact at once   ITU-T H.264, 7.3 and D.1.8
    HEVC, VVC        IRAP: IDR, CRA, BLA                                                  H.265 and H.266, 7.4.2.2
    AV1              a key frame that is presented at once (else see `forward_keys`)      AV1 specification, 5.9.2
    VP8, VP9         key frame                                                            RFC 6386, 9.1; VP9, 6.2
    MPEG-2, MPEG-4   intra frame                                                          ITU-T H.262, ISO 14496-2
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from .boxes import Box
    from .fragment_reader import ReadMany
    from .movie import Track
    from .samples import SampleTable

# Parameter sets and messages come before the frame. With HDR metadata and captions they take a few hundred bytes.
HEAD_BYTES = 4096


def predicts(entry: Box) -> bool:
    """Whether the codec of a sample entry is one that this module knows."""
    return entry.kind in _CODECS and _codec_of(entry) is not None


def is_key_frame(entry: Box, head: bytes, *, is_marked: bool = False) -> bool:
    """Whether the sample that starts with `head` is a key frame. False if that cannot be determined.

    `is_marked`: the file marks the sample as a sync sample, so an H.264 intra frame needs no recovery point.
    """
    codec = _codec_of(entry)
    return codec is not None and codec(_Sample(entry, head, is_marked=is_marked))


def is_leading_decodable(entry: Box, sync_head: bytes, head: bytes) -> bool:
    """Whether a leading sample that starts with `head` can be decoded if decoding starts at its sync sample.

    HEVC and VVC say so of each leading sample (RADL or RASL), and MPEG-2 of the GOP. In the others, leading samples
    refer to frames before the sync sample; an IDR of H.264 has none.
    """
    codec = _codec_of(entry)
    if codec is _is_mpeg2_key:
        found = _MPEG2_GOP.search(sync_head)
        return found is not None and bool(found[1][0] & _CLOSED_GOP)
    sample = _Sample(entry, head, is_marked=True)
    if codec is _is_hevc_key:
        return _hevc_kind(sample) not in _HEVC_RASL
    return codec is _is_vvc_key and _vvc_kind(sample) != _VVC_RASL


@dataclass(frozen=True, slots=True)
class _Sample:
    """The start of a sample, and the sample entry that describes it."""

    entry: Box
    head: bytes
    is_marked: bool

    def config(self, kind: bytes) -> bytes:
        """The payload of a box of the sample entry, or nothing."""
        payload = bytes(self.entry.payload)
        at = payload.find(kind, _VISUAL_ENTRY_BYTES)
        return payload[at + 4 :] if at >= 0 else b""

    def nal_units(self, length_size: int) -> Iterator[bytes]:
        """The NAL units. The last one may be incomplete."""
        at = 0
        while at + length_size < len(self.head):
            length = int.from_bytes(self.head[at : at + length_size], "big")
            at += length_size
            yield self.head[at : at + length]
            at += length


_VISUAL_ENTRY_BYTES = 78  # the fields of a visual sample entry before its boxes (8.5.2, 12.1.3)


class Bits:
    """Reads bits. Behind the end, all bits are 0."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def read(self, count: int) -> int:
        """The next `count` bits as a number."""
        self._left -= count
        if self._left < 0:
            return 0
        return (self._value >> self._left) & ((1 << count) - 1)

    def exp_golomb(self) -> int | None:
        """The next number in Exp-Golomb code (H.264, 9.1), or None at the end."""
        zeros = 0
        while self._left > 0 and not self.read(1):
            zeros += 1
        return (1 << zeros) - 1 + self.read(zeros) if self._left > 0 else None


# H.264

_SLICE, _PARTITION, _IDR, _SEI = 1, 2, 5, 6
_RECOVERY_POINT = 6
_INTRA_SLICES = (2, 4, 7, 9)  # I and SI; above 4: all slices of the frame are of this type


def _is_h264_key(sample: _Sample) -> bool:
    recovery: int | None = None
    config = sample.config(b"avcC")
    for unit in sample.nal_units((config[4] & 3) + 1 if len(config) > 4 else 4):  # noqa: PLR2004
        kind = unit[0] & 0x1F if unit else 0
        if kind == _SEI:
            found = _recovery_frames(unit)
            recovery = found if recovery is None else recovery
        if kind in (_SLICE, _PARTITION):
            has_recovery_point = recovery == 0 or (recovery is None and sample.is_marked)
            return has_recovery_point and _slice_type(unit) in _INTRA_SLICES
        if kind == _IDR:
            return True
    return False


def _slice_type(unit: bytes) -> int | None:
    bits = Bits(_without_emulation(unit[1:32]))
    bits.exp_golomb()  # first_mb_in_slice
    return bits.exp_golomb()


def _recovery_frames(sei: bytes) -> int | None:
    """`recovery_frame_cnt` of the recovery point message in a SEI unit, or None if there is no such message."""
    data = _without_emulation(sei[1:])
    at = 0
    while at + 2 < len(data):
        kind, at = _sei_number(data, at)
        size, at = _sei_number(data, at)
        if kind == _RECOVERY_POINT:
            return Bits(data[at : at + size]).exp_golomb()
        at += size
    return None


def _sei_number(data: bytes, at: int) -> tuple[int, int]:
    """A number that is stored as a sum of bytes, of which all but the last are 255."""
    total = 0
    while at < len(data) and data[at] == 0xFF:  # noqa: PLR2004
        total += 0xFF
        at += 1
    return total + (data[at] if at < len(data) else 0), at + 1


def _without_emulation(data: bytes) -> bytes:
    return data.replace(b"\0\0\3", b"\0\0")


# HEVC and VVC

_HEVC_VCL_END, _HEVC_IRAP, _HEVC_RASL = 32, range(16, 24), (8, 9)
_VVC_VCL_END, _VVC_KEYS, _VVC_RASL = 12, (7, 8, 9), 3  # 10 is GDR: exact only after some frames


def _is_hevc_key(sample: _Sample) -> bool:
    return _hevc_kind(sample) in _HEVC_IRAP


def _hevc_kind(sample: _Sample) -> int | None:
    """The type of the first NAL unit with a part of the frame."""
    config = sample.config(b"hvcC")
    units = sample.nal_units((config[21] & 3) + 1 if len(config) > 21 else 4)  # noqa: PLR2004
    kinds = ((unit[0] >> 1) & 0x3F for unit in units if unit)
    return next((kind for kind in kinds if kind < _HEVC_VCL_END), None)


def _is_vvc_key(sample: _Sample) -> bool:
    return _vvc_kind(sample) in _VVC_KEYS


def _vvc_kind(sample: _Sample) -> int | None:
    """The same for VVC."""
    config = sample.config(b"vvcC")
    units = sample.nal_units(((config[4] >> 1) & 3) + 1 if len(config) > 4 else 4)  # noqa: PLR2004
    kinds = (unit[1] >> 3 for unit in units if len(unit) > 1)
    return next((kind for kind in kinds if kind < _VVC_VCL_END), None)


# AV1, VP8 and VP9

OBU_FRAME_HEADER, OBU_FRAME = 3, 6


def _is_av1_key(sample: _Sample) -> bool:
    """The first frame header must be of a key frame (type 0) that is new and presented."""
    for kind, at, _ in obus(sample.head):
        if kind in (OBU_FRAME_HEADER, OBU_FRAME):
            bits = Bits(sample.head[at : at + 1])
            return (bits.read(1), bits.read(2), bits.read(1)) == (0, 0, 1)
    return False


def obus(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The type of each OBU (AV1 specification, 5.3), and where its payload begins and ends. The last one may be cut."""
    at = 0
    while at + 1 < len(data):
        kind, has_extension, has_size = (data[at] >> 3) & 15, data[at] & 4, data[at] & 2
        at += 2 if has_extension else 1
        size, at = _leb128(data, at) if has_size else (len(data) - at, at)
        yield kind, at, at + size
        at += size


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index in range(8):
        byte = data[at + index] if at + index < len(data) else 0
        value |= (byte & 0x7F) << (7 * index)
        if not byte & 0x80:
            return value, at + index + 1
    return value, at + 8


def _is_vp8_key(sample: _Sample) -> bool:
    return bool(sample.head) and not sample.head[0] & 1


def _is_vp9_key(sample: _Sample) -> bool:
    bits = Bits(sample.head[:2])
    marker, profile = bits.read(2), bits.read(1) + 2 * bits.read(1)
    if profile == 3:  # noqa: PLR2004
        bits.read(1)
    return marker == 2 and (bits.read(1), bits.read(1)) == (0, 0)  # noqa: PLR2004


# MPEG-2 and MPEG-4 part 2

_MPEG2_GOP, _CLOSED_GOP = re.compile(rb"\x00\x00\x01\xb8...(.)", re.DOTALL), 0x40  # H.262, 6.2.2.6
_MPEG2_HEADER = re.compile(rb"\x00\x00\x01\x00(..)", re.DOTALL)
_VOP = re.compile(rb"\x00\x00\x01\xb6(.)", re.DOTALL)
_MPEG4_VISUAL = 0x20
_MPEG2_VIDEO = range(0x60, 0x66)


def _is_mpeg2_key(sample: _Sample) -> bool:
    found = _MPEG2_HEADER.search(sample.head)
    return found is not None and (found[1][1] >> 3) & 7 == 1


def _is_mpeg4_key(sample: _Sample) -> bool:
    found = _VOP.search(sample.head)
    return found is not None and found[1][0] >> 6 == 0


def _object_type(entry: Box) -> int:
    """`objectTypeIndication` of the decoder configuration in an `esds` box (ISO/IEC 14496-1, 7.2.6.6), or 0."""
    payload = bytes(entry.payload)
    at = payload.find(b"esds\0\0\0\0", _VISUAL_ENTRY_BYTES)
    # Tag 4 with a length of 1 to 4 bytes, within the first bytes of the descriptor.
    found = re.search(rb"\x04[\x80-\xff]{0,3}[\x00-\x7f](.)", payload[at + 8 : at + 40], re.DOTALL) if at >= 0 else None
    return found[1][0] if found else 0


def _mp4v(entry: Box) -> Callable[[_Sample], bool] | None:
    object_type = _object_type(entry)
    if object_type in _MPEG2_VIDEO:
        return _is_mpeg2_key
    return _is_mpeg4_key if object_type == _MPEG4_VISUAL else None


_MPEG2_CODES = [
    b"mpg2",
    b"mp2v",
    b"m2v1",
    *(name + bytes([c]) for name in (b"hdv", b"xdv") for c in b"123456789abcdef"),
]
_CODECS: dict[bytes, Callable[[_Sample], bool] | None] = {
    **dict.fromkeys((b"avc1", b"avc2", b"avc3", b"avc4"), _is_h264_key),
    **dict.fromkeys((b"hvc1", b"hev1", b"dvh1", b"dvhe"), _is_hevc_key),
    **dict.fromkeys((b"vvc1", b"vvi1"), _is_vvc_key),
    b"av01": _is_av1_key,
    b"vp08": _is_vp8_key,
    b"vp09": _is_vp9_key,
    **dict.fromkeys(_MPEG2_CODES, _is_mpeg2_key),
    b"mp4v": None,  # its esds says which codec it is
}


def _codec_of(entry: Box) -> Callable[[_Sample], bool] | None:
    return _mp4v(entry) if entry.kind == b"mp4v" else _CODECS.get(entry.kind)


# Verifying the samples of a file

# The most samples that are looked at for one file.
MAX_LOOKS = 4096
# Key frames are among the largest samples. Of every 64 samples, the largest 8 are looked at, up to 1024 samples.
SAMPLES_AT_ONCE, LOOKS_AT_ONCE, MAX_ROUNDS = 64, 8, 16


def extent_of(table: SampleTable, sample: int, at_most_bytes: int) -> tuple[int, int]:
    """The offset and the length of the first bytes of a sample."""
    chunk = bisect_right(table.chunks.starts, sample) - 1
    offset = table.chunks.offsets[chunk] + table.sizes.between(table.chunks.starts[chunk], sample)
    return offset, min(at_most_bytes, table.sizes.between(sample, sample + 1))


def read_heads(track: Track, samples: Sequence[int], read_many: ReadMany) -> list[tuple[Box, bytes]]:
    """The sample entry and the first bytes of each of these samples."""
    chunks = track.table.chunks
    numbers = (chunks.descriptions[bisect_right(chunks.starts, sample) - 1] for sample in samples)
    heads = read_many([extent_of(track.table, sample, HEAD_BYTES) for sample in samples]) if samples else ()
    return [(track.descriptions[number - 1], head) for number, head in zip(numbers, heads, strict=True)]


class KeyFrames:
    """Looks at samples of a track to see whether they are key frames. One small read for each sample."""

    def __init__(self, track: Track, read_many: ReadMany) -> None:
        """`read_many` reads the file that the track is in."""
        self._track, self._read_many = track, read_many
        self._is_marked = track.table.sync is not None
        self._looks = 0
        self._known: dict[int, bool] = {}

    def are_key(self, samples: Sequence[int]) -> list[bool]:
        """For each sample, whether it is a key frame. False for samples beyond the limit."""
        new = [sample for sample in dict.fromkeys(samples) if sample not in self._known][: MAX_LOOKS - self._looks]
        self._looks += len(new)
        for sample, (entry, head) in zip(new, read_heads(self._track, new, self._read_many), strict=True):
            self._known[sample] = is_key_frame(entry, head, is_marked=self._is_marked)
        return [self._known.get(sample, False) for sample in samples]

    def first(self, samples: Iterable[int]) -> int | None:
        """A key frame early in `samples`, or None if none is found near their start.

        It is the first of them if that is a key frame. Otherwise it is the first key frame among the largest samples.
        """
        remaining = iter(samples)
        if not (block := list(islice(remaining, SAMPLES_AT_ONCE))):
            return None
        if self.are_key(block[:1])[0]:
            return block[0]
        sizes = self._track.table.sizes
        for _ in range(MAX_ROUNDS):
            by_size = sorted(block, key=lambda sample: sizes.between(sample, sample + 1), reverse=True)
            largest = sorted(by_size[:LOOKS_AT_ONCE])
            for sample, is_key in zip(largest, self.are_key(largest), strict=True):
                if is_key:
                    return sample
            if not (block := list(islice(remaining, SAMPLES_AT_ONCE))):
                return None
        return None


def can_verify(track: Track) -> bool:
    """Whether the first bytes of a sample tell if it is a key frame."""
    return track.is_video and track.table.count > 1 and all(map(predicts, track.descriptions))


def is_doubtful(table: SampleTable) -> bool:
    """Whether a table that marks all samples as sync samples cannot be believed, if the codec predicts frames."""
    return table.sync is None or len(table.sync) == table.count
