"""Reading the `moof` boxes of a fragmented file, many at a time.

Only the box in front of a fragment says where it starts, so following them takes one read after another: 4,800 reads
for 4,800 fragments. But the positions of some boxes are often known in advance (`anchors`):

    sidx    the segment index at the start (8.16.3): DASH, CMAF
    mfra    the random access index at the end (8.8.9): ffmpeg, OBS
    scan    neither: `moof` is searched for at regular distances, at most `SCAN_BYTES` in total

Each anchor starts a walk from box to box up to the next anchor, and all walks read at the same time. A walk from the
front decides which anchors are real: it must end exactly on one. So a wrong index or `moof` inside the media costs
reads, but never changes the result.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from .boxes import Box, parse_boxes, read_box_header, version_and_flags
from .errors import BrokenFile, Mp4Error, Unsupported

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

    from .boxes import Buffer

Request: TypeAlias = tuple[int, int]  # offset and length
# read_many(requests): the bytes of each request, in order. The requests may be carried out at the same time.
ReadMany: TypeAlias = Callable[[Sequence[Request]], Sequence[bytes]]

MAX_FRAGMENTS = 100_000
MAX_READS = 2 * MAX_FRAGMENTS
MAX_MOOF_BYTES = 64 << 20
MAX_INDEX_BYTES = 16 << 20
READS_AT_ONCE = 32
# How much is read where a moof is expected: twice the one before it, within these limits.
MIN_PEEK_BYTES, MAX_PEEK_BYTES = 1 << 10, 1 << 16
# Fragments up to this size are read with their media, because that takes less time than a read for each of them.
SMALL_FRAGMENT_BYTES = 1 << 16
READ_AHEAD_BYTES = 1 << 20
# Short files are read without an index: fetching it takes a read or two as well.
FRAGMENTS_BEFORE_INDEX, FRAGMENTS_WORTH_AN_INDEX, FRAGMENTS_WORTH_A_SCAN = 8, 16, 64
FRAGMENTS_OF_A_SEARCH = 16  # so that searches read about a thirtieth of the file
SCAN_BYTES, SCAN_BLOCK_BYTES = 256 << 20, 256 << 10
_MFRO_BYTES = 16
_MOOF_START_BYTES = 16  # header of moof and header of mfhd, its first child


@dataclass(frozen=True, slots=True)
class Moof:
    """A `moof` box: its offset in the file and its payload."""

    offset: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class CutOff:
    """The file ends inside the box at this offset."""

    offset: int


def read_moofs(read_many: ReadMany, size_bytes: int, start: int, buffered: bytes) -> Iterator[Moof | CutOff]:
    """Every `moof` box from the top-level box at `start` on, in order. If the file ends in one, `CutOff` is last.

    `buffered` are the bytes at `start` that were read already.

    Raises:
        BrokenFile: a box is smaller than its header, or a fragment is too large, or there are too many.
        Unsupported: reading the fragments takes too many reads.
    """
    file = _File(read_many, size_bytes)
    head = file.walk(start, (), buffered, max_moofs=FRAGMENTS_BEFORE_INDEX)
    (first,) = file.run([head])
    yield from first.found
    if first.error is not None:
        raise first.error
    if first.end >= size_bytes or first.is_cut_off:
        return
    file.fragment_bytes = max(1, (first.end - start) // max(1, len(first.found)))
    anchors = _spaced([first.end, *_find_anchors(file, first)])
    end, found = first.end, len(first.found)
    walks = (file.walk(anchor, anchors) for anchor in anchors)
    for walked in file.run(walks):
        if walked.start != end:
            continue  # the walk before it passed over this anchor
        yield from walked.found
        if walked.error is not None:
            raise walked.error
        end, found = walked.end, found + len(walked.found)
        if found > MAX_FRAGMENTS:
            raise BrokenFile(f"more than {MAX_FRAGMENTS} fragments")


# Walking from box to box


@dataclass(slots=True)
class _Walked:
    """The result of a walk. `end` is the offset of the first box that it did not read."""

    start: int
    end: int
    found: list[Moof | CutOff] = field(default_factory=list)
    error: Mp4Error | None = None
    indexed: list[int] = field(default_factory=list)  # offsets of subsegments, from sidx
    last_kind: bytes = b""

    @property
    def is_cut_off(self) -> bool:
        return bool(self.found) and isinstance(self.found[-1], CutOff)


_T = TypeVar("_T")
_Walk: TypeAlias = "Generator[Request, bytes, _Walked]"


@dataclass(slots=True)
class _Buffer:
    """The bytes that a walk read last."""

    start: int
    data: bytes

    def at(self, offset: int, length: int) -> bytes | None:
        """These bytes, or None if they are not all here."""
        begin = offset - self.start
        return self.data[begin : begin + length] if 0 <= begin <= len(self.data) - length else None


class _Task(Generic[_T]):
    """A walk under way: `request` is what it reads next, or None if it is finished and `results` has its result."""

    def __init__(self, walk: Generator[Request, bytes, _T]) -> None:
        self._walk = walk
        self.request: Request | None = None
        self.results: list[_T] = []
        self._advance(lambda: next(walk))

    def send(self, answer: bytes) -> None:
        """Continue the walk with the bytes that it asked for."""
        self._advance(lambda: self._walk.send(answer))

    def _advance(self, step: Callable[[], Request]) -> None:
        try:
            self.request = step()
        except StopIteration as stop:
            self.request, self.results = None, [stop.value]


class _File:
    """Runs walks in a file. They yield requests, which are carried out together."""

    def __init__(self, read_many: ReadMany, size_bytes: int) -> None:
        self._read_many, self.size_bytes = read_many, size_bytes
        self._reads = 0
        self._moof_bytes = MAX_PEEK_BYTES  # of the last moof read
        self.fragment_bytes = SMALL_FRAGMENT_BYTES + 1  # on average

    def run(self, walks: Iterable[Generator[Request, bytes, _T]]) -> Iterator[_T]:
        """The results of all walks, in order. Up to `READS_AT_ONCE` of them read at the same time."""
        waiting = iter(walks)
        tasks: deque[_Task[_T]] = deque()
        while True:
            active = [task for task in tasks if task.request is not None]
            for walk in islice(waiting, READS_AT_ONCE - len(active)):
                tasks.append(_Task(walk))
                active += [tasks[-1]] if tasks[-1].request is not None else []
            if not tasks:
                return
            if active:
                answers = self._read([task.request for task in active if task.request is not None])
                for task, answer in zip(active, answers, strict=True):
                    task.send(answer)
            while tasks and tasks[0].request is None:
                yield from tasks.popleft().results

    def _read(self, requests: Sequence[Request]) -> Sequence[bytes]:
        self._reads += len(requests)
        if self._reads > MAX_READS:
            raise Unsupported(f"more than {MAX_READS} reads for the fragments")
        answers = self._read_many(requests)
        if [len(answer) for answer in answers] != [length for _, length in requests]:
            raise BrokenFile("the file is shorter than its size says")
        return answers

    def walk(self, start: int, anchors: Sequence[int], buffered: bytes = b"", max_moofs: int = MAX_FRAGMENTS) -> _Walk:
        """Read every `moof` from the box at `start` to a box that is in `anchors`, or the end of the file."""
        walked = _Walked(start, start)
        buffer = _Buffer(start, buffered)
        try:
            while walked.end == start or not _contains(anchors, walked.end):
                if walked.last_kind != b"moof" and len(walked.found) >= max_moofs:  # behind the media of a fragment
                    break
                if not (yield from self._step(walked, buffer, anchors)):
                    break
        except BrokenFile as error:  # only matters if this walk turns out to be part of the chain
            walked.error = error
        return walked

    def _step(self, walked: _Walked, buffer: _Buffer, anchors: Sequence[int]) -> Generator[Request, bytes, bool]:
        """Read one box. Returns False at the end of the file."""
        offset, left = walked.end, self.size_bytes - walked.end
        if left <= 0:
            return False
        head = min(16, left)
        if buffer.at(offset, head) is None:
            buffer.start, buffer.data = offset, (yield offset, min(self._peek_bytes(offset, anchors), left))
        header = read_box_header(buffer.at(offset, head) or b"")
        if header is None:
            walked.found.append(CutOff(offset))
            return False
        size_bytes = left if header.size_bytes is None else header.size_bytes
        if header.kind == b"moof" and size_bytes > left:
            walked.found.append(CutOff(offset))
            return False
        if header.kind == b"moof":
            payload = yield from self._payload(buffer, offset + header.header_bytes, offset + size_bytes)
            walked.found.append(Moof(offset, payload))
            self._moof_bytes = size_bytes
        elif header.kind == b"sidx" and size_bytes <= min(left, MAX_INDEX_BYTES):
            payload = yield from self._payload(buffer, offset + header.header_bytes, offset + size_bytes)
            walked.indexed += _parsed(lambda: _parse_sidx(payload, offset + size_bytes))
        walked.end, walked.last_kind = offset + size_bytes, header.kind
        return True

    def _peek_bytes(self, offset: int, anchors: Sequence[int]) -> int:
        if self.fragment_bytes > SMALL_FRAGMENT_BYTES:
            return min(max(2 * self._moof_bytes, MIN_PEEK_BYTES), MAX_PEEK_BYTES)
        following = bisect_right(anchors, offset)
        end = anchors[following] if following < len(anchors) else self.size_bytes
        return min(READ_AHEAD_BYTES, max(end - offset, 16))

    @staticmethod
    def _payload(buffer: _Buffer, start: int, end: int) -> Generator[Request, bytes, bytes]:
        """The bytes from `start` to `end`. Those that are not in the buffer are read, and become the buffer."""
        if end - start > MAX_MOOF_BYTES:
            raise BrokenFile("a fragment is too large")
        if (payload := buffer.at(start, end - start)) is not None:
            return payload
        known = buffer.data[start - buffer.start :]
        rest = yield start + len(known), end - start - len(known)
        buffer.start, buffer.data = end, b""
        return known + rest


def _contains(anchors: Sequence[int], offset: int) -> bool:
    index = bisect_left(anchors, offset)
    return index < len(anchors) and anchors[index] == offset


def _spaced(anchors: Iterable[int]) -> list[int]:
    """The anchors in order, from the first one on, without those that are close to the one before."""
    first, *others = anchors
    spaced = [first]
    for anchor in sorted(others):
        if anchor >= spaced[-1] + READ_AHEAD_BYTES:
            spaced.append(anchor)
    return spaced


# Where fragments are


def _find_anchors(file: _File, first: _Walked) -> Sequence[int]:
    """Offsets at which a fragment starts behind those that were read. Not all of them, and some may be wrong."""
    left = (file.size_bytes - first.end) // file.fragment_bytes
    if left < FRAGMENTS_WORTH_AN_INDEX:
        return ()
    if not (anchors := _inside(first.indexed, first.end, file.size_bytes)):
        (found,) = file.run([_read_mfra(file.size_bytes)])
        anchors = _inside(found, first.end, file.size_bytes)
    if not anchors and left >= FRAGMENTS_WORTH_A_SCAN:
        anchors = _scan(file, first.end, left)
    return anchors


def _inside(offsets: Iterable[int], start: int, end: int) -> list[int]:
    return sorted({offset for offset in offsets if start < offset < end})


def _parsed(parse: Callable[[], list[int]]) -> list[int]:
    """What an index says, or nothing if it is damaged: it is not needed."""
    try:
        return parse()
    except (BrokenFile, struct.error):
        return []


def _parse_sidx(payload: bytes, end: int) -> list[int]:
    """The offsets of the subsegments. They count from `end`, the offset behind the box (8.16.3)."""
    fields = struct.Struct(">QQ2xH" if payload[:1] == b"\1" else ">II2xH")
    _, first_offset, references = fields.unpack_from(payload, 12)
    entries = payload[12 + fields.size :][: 12 * references]
    offsets, offset = [], end + first_offset
    for (size,) in struct.iter_unpack(">I8x", entries[: len(entries) // 12 * 12]):
        offsets.append(offset)
        offset += size & 0x7FFFFFFF
    return offsets if len(offsets) > 1 else []  # an index of its own fragment only


def _read_mfra(size_bytes: int) -> Generator[Request, bytes, list[int]]:
    """The offsets in the `mfra` box at the end of the file, whose size is in its last 4 bytes (8.8.11)."""
    tail = yield size_bytes - min(size_bytes, MAX_PEEK_BYTES), min(size_bytes, MAX_PEEK_BYTES)
    if tail[-12:-8] != b"mfro":
        return []
    length = int.from_bytes(tail[-4:], "big")
    if not _MFRO_BYTES < length <= min(size_bytes, MAX_INDEX_BYTES):
        return []
    if length > len(tail):
        tail = (yield size_bytes - length, length - len(tail)) + tail
    return _parsed(lambda: _parse_mfra(tail[-length:]))


def _parse_mfra(data: bytes) -> list[int]:
    return [
        offset
        for mfra in parse_boxes(memoryview(data), b"file")
        if mfra.kind == b"mfra"
        for box in parse_boxes(memoryview(mfra.payload), b"mfra")
        if box.kind == b"tfra"
        for offset in _parse_tfra(box)
    ]


def _parse_tfra(tfra: Box) -> Iterator[int]:
    """The `moof` offsets of its entries: time, offset, and three numbers of 1 to 4 bytes (8.8.10)."""
    version, _ = version_and_flags(tfra)
    lengths, entries = struct.unpack_from(">II", tfra.payload, 8)
    extra = sum((lengths >> shift & 3) + 1 for shift in (0, 2, 4))
    entry = struct.Struct(f">{'8xQ' if version else '4xI'}{extra}x")
    rows: Buffer = tfra.payload[16 : 16 + entries * entry.size]
    return (offset for (offset,) in entry.iter_unpack(rows[: len(rows) // entry.size * entry.size]))


def _scan(file: _File, start: int, fragments: int) -> list[int]:
    """Search for `moof` at regular distances. A search reads half a fragment on average."""
    left = file.size_bytes - start
    walks = min(
        READS_AT_ONCE,
        fragments // FRAGMENTS_OF_A_SEARCH,
        SCAN_BYTES // file.fragment_bytes,
        left // READ_AHEAD_BYTES,
    )
    distance = left // max(1, walks)
    limit = min(distance, 4 * file.fragment_bytes)
    searches = [_search(start + number * distance, limit, file.size_bytes) for number in range(1, walks)]
    return sorted({offset for offset in file.run(searches) if offset is not None})


def _search(start: int, length: int, size_bytes: int) -> Generator[Request, bytes, int | None]:
    """The offset of the first `moof` that starts in `length` bytes from `start`, or None."""
    for offset in range(start, min(start + length, size_bytes), SCAN_BLOCK_BYTES):
        data = yield offset, min(SCAN_BLOCK_BYTES + _MOOF_START_BYTES, size_bytes - offset)
        at = data.find(b"moof", 4)
        while at >= 0:
            if data[at + 8 : at + 12] == b"mfhd":
                return offset + at - 4
            at = data.find(b"moof", at + 1)
    return None
