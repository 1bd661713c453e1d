"""Key frames are recognized by the first bytes of a sample."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_worker.mp4.boxes import Box
from media_worker.mp4.key_frames import is_key_frame, is_leading_decodable, predicts


def entry(kind: bytes, config: Box | None = None) -> Box:
    return Box(kind, bytes(78) + (config.to_bytes() if config else b""))


AVC = entry(b"avc1", Box(b"avcC", b"\1\x64\0\x1e\xff\xe0\0"))
AVC_SHORT = entry(b"avc1", Box(b"avcC", b"\1\x64\0\x1e\xfd\xe0\0"))
HEVC = entry(b"hvc1", Box(b"hvcC", bytes(21) + b"\x0f\0"))
VVC = entry(b"vvc1", Box(b"vvcC", bytes(4) + b"\xff\0"))
MPEG2 = entry(b"mp4v", Box(b"esds", bytes(4) + b"\x03\x16\0\1\0\x04\x11\x61" + bytes(16)))
MPEG4 = entry(b"mp4v", Box(b"esds", bytes(4) + b"\x03\x80\x80\x80\x16\0\1\0\x04\x80\x80\x80\x11\x20" + bytes(16)))


def nal(*units: bytes, size: str = ">I") -> bytes:
    return b"".join(struct.pack(size, len(unit)) + unit for unit in units)


AUD = b"\x09\x10"
RECOVERY = b"\x06\x06\x01\xc0\x80"  # recovery_frame_cnt 0, exact_match
REFRESH = b"\x06\x06\x01\x24\x80"  # recovery_frame_cnt 3
I_SLICE, P_SLICE = b"\x61\x88\x80\0", b"\x61\xe0\x80\0"  # first_mb 0; slice type 7 (I) and 0 (P)

SAMPLES = {
    "h264 idr": (AVC, nal(AUD, b"\x67abc", b"\x65\x88\x80"), True),
    "h264 idr, lengths of 2 bytes": (AVC_SHORT, nal(AUD, b"\x65\x88\x80", size=">H"), True),
    "h264 recovery point": (AVC, nal(AUD, RECOVERY, I_SLICE), True),
    "h264 intra refresh": (AVC, nal(AUD, REFRESH, P_SLICE), False),
    "h264 intra refresh with an intra frame": (AVC, nal(AUD, REFRESH, I_SLICE), False),
    "h264 intra frame without a recovery point": (AVC, nal(AUD, I_SLICE), False),
    "h264 predicted": (AVC, nal(AUD, P_SLICE), False),
    "hevc idr": (HEVC, nal(b"\x46\1\x50", b"\x26\1\xaf"), True),
    "hevc cra": (HEVC, nal(b"\x2a\1\xaf"), True),
    "hevc bla": (HEVC, nal(b"\x20\1\xaf"), True),
    "hevc rasl": (HEVC, nal(b"\x10\1\xaf"), False),
    "hevc trail": (HEVC, nal(b"\x02\1\xd0"), False),
    "vvc cra": (VVC, nal(b"\0\xa1\0", b"\0\x49\x80"), True),
    "vvc gdr": (VVC, nal(b"\0\x51\x80"), False),
    "vvc trail": (VVC, nal(b"\0\x01\x80"), False),
    "av1 key": (entry(b"av01"), b"\x12\0\x0a\x02ab\x32\x03\x10xx", True),
    "av1 forward key": (entry(b"av01"), b"\x12\0\x32\x03\0xx", False),
    "av1 inter": (entry(b"av01"), b"\x12\0\x32\x03\x30xx", False),
    "av1 displayed again": (entry(b"av01"), b"\x1a\x02\xc0x", False),
    "vp9 key": (entry(b"vp09"), b"\x82\x49\x83\x42", True),
    "vp9 inter": (entry(b"vp09"), b"\x86\0", False),
    "vp8 key": (entry(b"vp08"), b"\x50\x01", True),
    "vp8 inter": (entry(b"vp08"), b"\x51\x01", False),
    "mpeg-2 intra": (MPEG2, b"\0\0\1\xb3abcdefgh\0\0\1\0\0\x0f\xff\xf8", True),
    "mpeg-2 predicted": (MPEG2, b"\0\0\1\0\0\x17\xff\xf8", False),
    "mpeg-4 intra": (MPEG4, b"\0\0\1\xb3\0\x10\0\0\1\xb6\x10", True),
    "mpeg-4 predicted": (MPEG4, b"\0\0\1\xb6\x50", False),
}


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_key_frames_are_recognized(name: str) -> None:
    """Each codec says in its own way that a decoder can start at a frame."""
    description, head, is_key = SAMPLES[name]
    assert predicts(description)
    assert is_key_frame(description, head) is is_key


def test_a_marked_intra_frame_needs_no_recovery_point() -> None:
    """Broadcast H.264 without IDR: the file marks intra frames as sync samples."""
    assert is_key_frame(AVC, nal(AUD, I_SLICE), is_marked=True)
    assert not is_key_frame(AVC, nal(AUD, P_SLICE), is_marked=True)
    assert not is_key_frame(AVC, nal(AUD, REFRESH, I_SLICE), is_marked=True)


_CRA, _MPEG2_I = nal(b"\x2a\1\xaf"), b"\0\0\1\0\0\x0f\xff\xf8"
LEADING = {
    "hevc rasl": (HEVC, _CRA, nal(b"\x10\1\xaf"), False),
    "hevc radl": (HEVC, _CRA, nal(b"\x0c\1\xaf"), True),
    "vvc rasl": (VVC, nal(b"\0\x49\x80"), nal(b"\0\x19\x80"), False),
    "vvc radl": (VVC, nal(b"\0\x49\x80"), nal(b"\0\x11\x80"), True),
    "h264": (AVC, nal(AUD, RECOVERY, I_SLICE), nal(AUD, P_SLICE), False),
    "mpeg-2 open": (MPEG2, b"\0\0\1\xb8\0\x08\0\0" + _MPEG2_I, b"\0\0\1\0\0\x1f\xff\xf8", False),
    "mpeg-2 closed": (MPEG2, b"\0\0\1\xb8\0\x08\0\x40" + _MPEG2_I, b"\0\0\1\0\0\x1f\xff\xf8", True),
    "mpeg-2 without a GOP header": (MPEG2, _MPEG2_I, b"\0\0\1\0\0\x1f\xff\xf8", False),
    "mpeg-4": (MPEG4, b"\0\0\1\xb6\x10", b"\0\0\1\xb6\x90", False),
}


@pytest.mark.parametrize("name", sorted(LEADING))
def test_leading_samples_that_refer_to_frames_before(name: str) -> None:
    """HEVC and VVC say it of each sample, MPEG-2 of the GOP. In the others, all leading samples do."""
    description, sync, leading, is_decodable = LEADING[name]
    assert is_leading_decodable(description, sync, leading) is is_decodable


@pytest.mark.parametrize("kind", [b"apch", b"AVdn", b"mjpa", b"dvcp", b"v210", b"mp4v"])
def test_other_codecs_are_not_verified(kind: bytes) -> None:
    """They do not predict frames, or it is unknown whether they do."""
    assert not predicts(entry(kind))


@given(st.sampled_from([description for description, _, _ in SAMPLES.values()]), st.binary(max_size=200))
def test_any_bytes_have_an_answer(description: Box, head: bytes) -> None:
    """Damaged samples are not key frames, or look like some. Nothing is raised."""
    assert is_key_frame(description, head) in (True, False)
