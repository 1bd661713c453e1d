"""The video of `media-worker check`: made without an encoder, so that the check needs no ffmpeg.

Every frame is an H.264 IDR frame of I_PCM macroblocks (ITU-T H.264, 7.3.5): the samples are in the stream as they
are, uncompressed. So the size of a frame is known, and a segment can be made large enough that S3 copies a part of it.
"""

import struct
from dataclasses import dataclass

from media_worker.mp4.boxes import Box

FPS = 24
_MACROBLOCK = 16
_TIMESCALE = FPS
_UNITY_MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
# mb_type I_PCM, then zeros up to the next byte.
_I_PCM = b"\x0d\x00"


@dataclass(frozen=True, slots=True)
class Clip:
    """An MP4 and the concatenated samples of its only track, which a final must contain unchanged."""

    content: bytes
    samples: bytes
    frames: int


def make_clip(width: int, height: int, frames: int) -> Clip:
    """A clip at 24 frames per second in which every frame is a sync sample and differs from the others.

    Width and height in pixels are multiples of 16. A frame takes about 1.5 bytes per pixel.
    """
    columns, rows = width // _MACROBLOCK, height // _MACROBLOCK
    samples = [_length_prefixed(_frame(columns * rows, number)) for number in range(frames)]
    data = b"".join(samples)
    head = Box(b"ftyp", b"isom\0\0\2\0isomiso2avc1mp41").to_bytes()
    offset = len(head) + len(_movie(width, height, samples, 0)) + 8
    content = head + _movie(width, height, samples, offset) + Box(b"mdat", data).to_bytes()
    return Clip(content, data, frames)


class _Bits:
    """Writes the fields of a parameter set or slice header."""

    def __init__(self) -> None:
        self.text = ""

    def fixed(self, value: int, width: int) -> "_Bits":
        """u(n)."""
        self.text += f"{value:0{width}b}"
        return self

    def golomb(self, *values: int) -> "_Bits":
        """ue(v) for each value; 0 is also se(v) of 0."""
        for value in values:
            digits = f"{value + 1:b}"
            self.text += "0" * (len(digits) - 1) + digits
        return self

    def padded(self) -> bytes:
        """The bits, filled up with zeros to whole bytes."""
        text = self.text + "0" * (-len(self.text) % 8)
        return int(text, 2).to_bytes(len(text) // 8)


def _sps(columns: int, rows: int) -> bytes:
    bits = _Bits().golomb(0, 0, 2, 0)  # id, log2_max_frame_num - 4, pic_order_cnt_type, max_num_ref_frames
    bits.fixed(0, 1).golomb(columns - 1, rows - 1)
    bits.fixed(0b1100, 4)  # frame_mbs_only, direct_8x8_inference, no cropping, no VUI
    # Baseline profile, level 5.1; the stop bit at the end.
    return b"\x67\x42\xc0\x33" + bits.fixed(1, 1).padded()


def _pps() -> bytes:
    bits = _Bits().golomb(0, 0).fixed(0, 2).golomb(0, 0, 0).fixed(0, 3).golomb(0, 0, 0)
    return b"\x68" + bits.fixed(0b100, 3).fixed(1, 1).padded()  # deblocking is controlled by the slice header


def _frame(macroblocks: int, number: int) -> bytes:
    """An IDR slice. No value is small enough to need an emulation prevention byte (7.4.1)."""
    bits = _Bits().golomb(0, 7, 0).fixed(0, 4)  # first_mb_in_slice, slice_type I, parameter set, frame_num
    bits.golomb(number % 2)  # idr_pic_id: differs between neighbours
    bits.fixed(0, 2).golomb(0, 1)  # dec_ref_pic_marking, slice_qp_delta, no deblocking
    bits.golomb(25)  # the first macroblock's mb_type: I_PCM
    blocks = [_macroblock(position, number) for position in range(macroblocks)]
    return b"\x65" + bits.padded() + _I_PCM.join(blocks) + b"\x80"


def _macroblock(position: int, number: int) -> bytes:
    return bytes([16 + (position + 7 * number) % 200]) * 256 + bytes([96 + number % 64]) * 64 + b"\x80" * 64


def _length_prefixed(unit: bytes) -> bytes:
    return struct.pack(">I", len(unit)) + unit


def _movie(width: int, height: int, samples: list[bytes], offset: int) -> bytes:
    """The `moov` box. `offset` is that of the first sample in the file."""
    duration = len(samples)
    mvhd = struct.pack(">5IIH10x", 0, 0, 0, _TIMESCALE, duration, 0x10000, 0x0100)
    mvhd += _UNITY_MATRIX + bytes(24) + struct.pack(">I", 2)
    tkhd = struct.pack(">6I", 3, 0, 0, 1, 0, duration) + bytes(16) + _UNITY_MATRIX
    tkhd += struct.pack(">2I", width << 16, height << 16)
    mdhd = struct.pack(">5I2H", 0, 0, 0, _TIMESCALE, duration, 0x55C4, 0)
    hdlr = struct.pack(">2I4s12x", 0, 0, b"vide") + b"video\0"
    minf = (
        Box(b"vmhd", struct.pack(">I8x", 1)),
        Box(b"dinf", children=(Box(b"dref", struct.pack(">2I", 0, 1) + Box(b"url ", b"\0\0\0\1").to_bytes()),)),
        Box(b"stbl", children=_sample_table(width, height, samples, offset)),
    )
    mdia = (Box(b"mdhd", mdhd), Box(b"hdlr", hdlr), Box(b"minf", children=minf))
    trak = Box(b"trak", children=(Box(b"tkhd", tkhd), Box(b"mdia", children=mdia)))
    return Box(b"moov", children=(Box(b"mvhd", mvhd), trak)).to_bytes()


def _sample_table(width: int, height: int, samples: list[bytes], offset: int) -> tuple[Box, ...]:
    count = len(samples)
    sizes = struct.pack(f">3I{count}I", 0, 0, count, *map(len, samples))
    return (
        Box(b"stsd", struct.pack(">2I", 0, 1) + _sample_entry(width, height)),
        Box(b"stts", struct.pack(">4I", 0, 1, count, 1)),
        Box(b"stsc", struct.pack(">5I", 0, 1, 1, count, 1)),
        Box(b"stsz", sizes),
        Box(b"stco", struct.pack(">3I", 0, 1, offset)),
    )


def _sample_entry(width: int, height: int) -> bytes:
    sps, pps = _sps(width // _MACROBLOCK, height // _MACROBLOCK), _pps()
    configuration = b"\1" + sps[1:4] + b"\xff\xe1" + struct.pack(">H", len(sps)) + sps
    configuration += b"\1" + struct.pack(">H", len(pps)) + pps
    entry = bytes(6) + struct.pack(">H16x2H", 1, width, height) + struct.pack(">3IH", 0x480000, 0x480000, 0, 1)
    entry += bytes(32) + struct.pack(">Hh", 24, -1) + Box(b"avcC", configuration).to_bytes()
    return Box(b"avc1", entry).to_bytes()
