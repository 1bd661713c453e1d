"""Forward key frames of AV1: the open GOPs of that codec.

A sample has a key frame that it does not present (`K`). Frames of that sample and of the next ones refer to it and to
frames before it. A later sample presents it (`S`), which makes it the reference in place of all others (AV1
specification, 7.20 and 7.21). So a decoder can start at `S` if it has decoded `K`:

    source       ... P P P KP  P P P S  P P P ...
    segment 0    ... P P P KP  P P P
    segment 1                       KS  P P P ...

The first sample of segment 1 is a temporal unit that is put together from two byte ranges: the first bytes of one
sample, up to the end of the key frame, and all of the other. It presents one frame, as each temporal unit does. The
specification calls `K` a delayed random access point and `S` its key frame dependent recovery point (7.6.2). Files do
not mark them as sync samples, so they are found by their first bytes, like the samples that `key_frames` verifies.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from media_worker.byte_ranges import ByteRange

from .key_frames import (
    HEAD_BYTES,
    LOOKS_AT_ONCE,
    MAX_ROUNDS,
    OBU_FRAME,
    OBU_FRAME_HEADER,
    SAMPLES_AT_ONCE,
    Bits,
    extent_of,
    is_doubtful,
    obus,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from .fragment_reader import ReadMany
    from .movie import Track

# What is read at the same time, and in total.
MAX_BYTES_AT_ONCE, MAX_BYTES, MAX_READS = 32 << 20, 1 << 30, 1 << 14
_HEADER_BYTES = 16  # the part of a frame header that is parsed
_OBU_SEQUENCE, _OBU_DELIMITER, _OBU_TILES, _OBU_METADATA, _OBU_REDUNDANT = 1, 2, 4, 5, 7
_FRAMES = (OBU_FRAME_HEADER, OBU_FRAME)
_STATIC_METADATA = (b"\1", b"\2")  # content light level and mastering display: of the whole sequence, not of one frame
_KEY, _INTER, _SWITCH = 0, 1, 3
_ALL_SLOTS = 0xFF
_SELECT = 2  # the frame header says it (SELECT_SCREEN_CONTENT_TOOLS, SELECT_INTEGER_MV)


# Headers


@dataclass(frozen=True, slots=True)
class _Frame:
    """What a frame header does to the reference slots. `existing`: it only presents the frame in that slot."""

    existing: int | None = None
    kind: int = _KEY
    is_presented: bool = False
    refreshed: int = 0  # a bit for each slot


@dataclass(frozen=True, slots=True)
class _Sequence:
    """The fields of a sequence header (5.5) that a frame header (5.9.2) depends on, up to `refresh_frame_flags`."""

    screen_content: int
    integer_motion: int
    order_hint_bits: int

    @classmethod
    def parse(cls, payload: bytes) -> _Sequence | None:
        """None for still images, layers, decoder models and frame ids, with which forward key frames are not used."""
        bits = Bits(payload)
        bits.read(4)  # profile, and whether it is a still image
        if bits.read(1):  # a short header for still images
            return None
        if bits.read(1):  # timing_info_present_flag
            bits.read(64)
            if bits.read(1):
                bits.exp_golomb()
            if bits.read(1):  # decoder_model_info_present_flag
                return None
        has_delay = bits.read(1)
        if bits.read(5):  # operating_points_cnt_minus_1
            return None
        bits.read(12)
        if bits.read(5) > 7:  # noqa: PLR2004 seq_level_idx: there is a tier, too
            bits.read(1)
        if has_delay and bits.read(1):
            bits.read(4)
        bits.read(bits.read(4) + 1 + bits.read(4) + 1)  # width and height
        if bits.read(1):  # frame_id_numbers_present_flag
            return None
        return cls._parse_tools(bits)

    @classmethod
    def _parse_tools(cls, bits: Bits) -> _Sequence:
        bits.read(7)  # from use_128x128_superblock to enable_dual_filter
        has_order_hints = bits.read(1)
        bits.read(2 * has_order_hints)
        screen_content = _SELECT if bits.read(1) else bits.read(1)
        integer_motion = _SELECT if not screen_content or bits.read(1) else bits.read(1)
        return cls(screen_content, integer_motion, bits.read(3) + 1 if has_order_hints else 0)

    def frame(self, payload: bytes) -> _Frame:
        """The start of a frame header."""
        bits = Bits(payload)
        if bits.read(1):
            return _Frame(existing=bits.read(3))
        kind, is_presented = bits.read(2), bool(bits.read(1))
        if not is_presented:
            bits.read(1)  # showable_frame
        is_reset = kind == _SWITCH or (kind == _KEY and is_presented)
        is_resilient = is_reset or bits.read(1)
        bits.read(1)  # disable_cdf_update
        has_screen_content = bits.read(1) if self.screen_content == _SELECT else self.screen_content
        bits.read(1 if has_screen_content and self.integer_motion == _SELECT else 0)
        bits.read(0 if kind == _SWITCH else 1)  # frame_size_override_flag
        bits.read(self.order_hint_bits)
        bits.read(3 if kind == _INTER and not is_resilient else 0)  # primary_ref_frame
        return _Frame(None, kind, is_presented, _ALL_SLOTS if is_reset else bits.read(8))


def _starts_with_hidden_key(head: bytes) -> bool:
    """Whether a sample has a sequence header, and then a key frame that it does not present."""
    has_sequence = False
    for kind, at, _ in obus(head):
        has_sequence |= kind == _OBU_SEQUENCE
        if kind in _FRAMES:
            return has_sequence and at < len(head) and head[at] >> 4 == 0
    return False


def key_bytes(sample: bytes) -> int:
    """The size of the first bytes of a sample, up to the end of its first frame. 0: they cannot be used alone.

    That is so if there is metadata about a single frame, as in HDR10+: it is about the frame that the sample presents.
    """
    has_frame, end = False, 0
    for kind, at, stop in obus(sample):
        if kind in _FRAMES and has_frame:
            return end
        if kind == _OBU_METADATA and not has_frame and sample[at : at + 1] not in _STATIC_METADATA:
            return 0
        has_frame |= kind in _FRAMES
        if kind in (*_FRAMES, _OBU_TILES, _OBU_REDUNDANT):
            end = stop
    return 0


def presented_in(samples: Iterable[bytes]) -> int | None:
    """The number of the sample that presents the hidden key frame with which the first one begins.

    None if there is none, or if it is not certain that a decoder can start there.
    """
    key_slots = other_slots = 0
    for number, is_first, frame in _frames(samples):
        if number == 0 and is_first:
            key_slots = 0 if frame.is_presented else frame.refreshed
        elif frame.existing is None:
            key_slots = key_slots & ~frame.refreshed if frame.kind != _KEY else 0
            other_slots |= frame.refreshed
        elif key_slots >> frame.existing & 1:
            return number if is_first else None
        elif not other_slots >> frame.existing & 1:
            return None  # a frame from before the key frame: if it is a key frame, it replaces this one
        if not key_slots:
            return None
    return None


def _frames(samples: Iterable[bytes]) -> Iterator[tuple[int, bool, _Frame]]:
    """Each frame header with the number of its sample, and whether it is the first in it. Ends at what is not known."""
    sequence, header = None, b""
    for number, sample in enumerate(samples):
        is_first = True
        for kind, at, end in obus(sample):
            if number and (kind == _OBU_DELIMITER or (kind == _OBU_SEQUENCE and sample[at:end] != header)):
                return  # behind the key frame, they would begin another temporal unit or another sequence
            if kind == _OBU_SEQUENCE:
                sequence, header = _Sequence.parse(sample[at:end]), sample[at:end]
            if kind in _FRAMES:
                if sequence is None:
                    return
                yield number, is_first, sequence.frame(sample[at : at + _HEADER_BYTES])
                is_first = False


# Finding them in a file


class ForwardKeys:
    """The forward key frames of a track. Samples are only read where one is asked for.

    Of every 64 samples, the largest 8 are looked at, as in `KeyFrames`. From a hidden key frame on, samples are read
    completely up to the one that presents it.
    """

    def __init__(self, track: Track, read_many: ReadMany) -> None:
        """`read_many` reads the file that the track is in."""
        self._table, self._read_many = track.table, read_many
        self._reads = self._bytes = 0
        self._hidden: dict[int, list[int]] = {}  # by block
        self._presented: dict[int, int | None] = {}  # by the sample that hides it
        self._keys: dict[int, ByteRange] = {}

    @classmethod
    def of(cls, track: Track, read_many: ReadMany | None) -> ForwardKeys | None:
        """None if the track cannot have any, or its sync samples say nothing (`is_doubtful`)."""
        is_av1 = all(entry.kind == b"av01" for entry in track.descriptions)
        return cls(track, read_many) if is_av1 and read_many is not None and not is_doubtful(track.table) else None

    def first(self, begin: int, end: int) -> int | None:
        """The first sample from `begin` to `end` (exclusive) that presents a forward key frame."""
        block = begin // SAMPLES_AT_ONCE
        near = [*self._hidden_in(block - 1), *self._hidden_in(block)]
        later = map(self._hidden_in, range(block + 1, -(-end // SAMPLES_AT_ONCE)))
        # The last one that is hidden before `begin` can be presented behind it. All before are presented earlier.
        hidden = chain(near[max(0, bisect_left(near, begin) - 1) :], chain.from_iterable(later))
        return self._presented_among(hidden, begin, end)

    def last(self, begin: int, end: int) -> int | None:
        """The last sample from `begin` to `end` (exclusive) that presents a forward key frame."""
        blocks = range((end - 1) // SAMPLES_AT_ONCE, begin // SAMPLES_AT_ONCE - 2, -1)
        hidden = (each for block in blocks for each in reversed(self._hidden_in(block)) if each < end)
        return self._presented_among(hidden, begin, end)

    def key_of(self, sample: int) -> ByteRange | None:
        """The bytes of the file to put before a sample that was found, so that a decoder can start there."""
        return self._keys.get(sample)

    def _presented_among(self, hidden: Iterable[int], begin: int, end: int) -> int | None:
        presented = map(self._presented_by, hidden)
        return next((each for each in presented if each is not None and begin <= each < end), None)

    def _hidden_in(self, block: int) -> list[int]:
        """The samples of a block that hide a key frame."""
        is_hopeless = not self._keys and len(self._hidden) >= MAX_ROUNDS
        if block not in self._hidden and block >= 0 and not is_hopeless:
            table = self._table
            samples = range(block * SAMPLES_AT_ONCE, min((block + 1) * SAMPLES_AT_ONCE, table.count))
            by_size = sorted(samples, key=lambda sample: table.sizes.between(sample, sample + 1), reverse=True)
            largest = sorted(by_size[:LOOKS_AT_ONCE])
            heads = self._read([extent_of(table, sample, HEAD_BYTES) for sample in largest])
            pairs = zip(largest, heads, strict=False)
            self._hidden[block] = [sample for sample, head in pairs if _starts_with_hidden_key(head)]
        return self._hidden.get(block, [])

    def _presented_by(self, hidden: int) -> int | None:
        """The sample that presents the key frame hidden in sample `hidden`, or None."""
        if hidden not in self._presented:
            samples = self._samples_from(hidden)
            first = next(samples, b"")
            length, number = key_bytes(first), presented_in(chain([first], samples))
            self._presented[hidden] = found = hidden + number if length and number is not None else None
            if found is not None:
                self._keys[found] = ByteRange(0, extent_of(self._table, hidden, 0)[0], length)
        return self._presented[hidden]

    def _samples_from(self, first: int) -> Iterator[bytes]:
        """The samples from `first` on that may present a key frame hidden in it."""
        samples = range(first, min(first + SAMPLES_AT_ONCE, self._table.count))
        for at in range(0, len(samples), LOOKS_AT_ONCE):
            extents = [extent_of(self._table, sample, MAX_BYTES) for sample in samples[at : at + LOOKS_AT_ONCE]]
            if not (found := self._read(extents)):
                return
            yield from found

    def _read(self, extents: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        """These parts of the file, or nothing beyond the limits."""
        total_bytes = sum(length for _, length in extents)
        self._reads += len(extents)
        self._bytes += total_bytes
        is_too_much = total_bytes > MAX_BYTES_AT_ONCE or self._bytes > MAX_BYTES or self._reads > MAX_READS
        return () if is_too_much else self._read_many(extents)
