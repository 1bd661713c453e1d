"""Movie fragments: samples described by `moof` boxes instead of `moov` (ISO/IEC 14496-12, 8.8).

The samples of all fragments are collected into the sample tables that a file without fragments has. The media stays
where it is. This module parses; `fragment_reader` fetches the `moof` boxes.
"""

from __future__ import annotations

import struct
from array import array
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

from .boxes import Box, parse_boxes, unpack, version_and_flags
from .edit_list import EMPTY, Edit, exact_movie_timescale
from .encryption import refuse_encrypted_samples
from .errors import BrokenFile, Unsupported
from .fragment_reader import CutOff, Moof
from .samples import Chunks, Runs, SampleTable, Sizes, concat_tables
from .stbl import parse_integers

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .movie import Track

# 37 hours of 60 fps. A run without per-sample fields takes no space in the file, but 16 bytes per sample in memory.
MAX_SAMPLES = 8_000_000
MAX_DURATION = (1 << 31) - 1
_U32, _U64, _I32 = struct.Struct(">I"), struct.Struct(">Q"), struct.Struct(">i")
_TREX = struct.Struct(">4xIIIII")

# Flags of tfhd (8.8.7)
_BASE_DATA_OFFSET, _DESCRIPTION, _DURATION, _SIZE, _FLAGS = 0x1, 0x2, 0x8, 0x10, 0x20
_BASE_IS_MOOF = 0x20000
# Flags of trun (8.8.8)
_DATA_OFFSET, _FIRST_FLAGS = 0x1, 0x4
_EACH_DURATION, _EACH_SIZE, _EACH_FLAGS, _EACH_OFFSET = 0x100, 0x200, 0x400, 0x800
# Sample flags (8.8.3.1). Some writers only set "depends on others" on samples that are not sync samples.
_NON_SYNC, _DEPENDS_ON_OTHERS = 0x10000, 0x1000000

Column: TypeAlias = "array[int] | int"  # Python 3.11 knows no array[int]


@dataclass(frozen=True, slots=True)
class Whole:
    """A fragmented movie as if it had no fragments. In `timescale`, the delays of all tracks are exact."""

    tracks: tuple[Track, ...]
    timescale: int
    notices: tuple[str, ...]


def has_fragments(moov: Box) -> bool:
    """Whether the file may have fragments."""
    return moov.find(b"mvex") is not None


def with_fragments(
    moov: Box, tracks: Sequence[Track], movie_timescale: int, moofs: Iterable[Moof | CutOff], size_bytes: int
) -> Whole:
    """The tracks of `moov` with the samples of all fragments. `size_bytes` is the size of the file.

    The last fragment of a recording that was cut off is incomplete. It is dropped, with a notice.

    Raises:
        Encrypted: the samples of a fragment are encrypted.
        Unsupported: the fragments cannot be described by one sample table, or players disagree about them.
        BrokenFile: a fragment contradicts itself.
    """
    collected, notices = _collect_samples(moov, moofs, size_bytes)
    timescale = exact_movie_timescale([movie_timescale, *(track.timescale for track in tracks)])
    whole = (_whole(track, collected.get(track.track_id), movie_timescale, timescale) for track in tracks)
    return Whole(tuple(whole), timescale, notices)


# Parsing


@dataclass(frozen=True, slots=True)
class _Defaults:
    """The values of a sample that its run does not specify, from `trex` and `tfhd`."""

    description: int
    duration: int
    size: int
    flags: int


@dataclass(frozen=True, slots=True)
class _Run:
    """The samples of a `trun` box. A column is an array, or the value that all samples share."""

    count: int
    durations: Column
    sizes: Column
    flags: Column
    first_flags: int | None
    offsets: Column

    @property
    def size_bytes(self) -> int:
        """Bytes of media in the run."""
        return self.count * self.sizes if isinstance(self.sizes, int) else sum(self.sizes)


@dataclass(frozen=True, slots=True)
class _TrackFragment:
    """A `traf` box: runs of samples with the offsets of their media."""

    track_id: int
    start_time: int | None  # from tfdt
    description: int
    runs: tuple[tuple[_Run, int], ...]
    next_offset: int  # the media of the next run is here, unless that run says where it is

    @property
    def media_end(self) -> int:
        """The offset at which its media ends."""
        return max((offset + run.size_bytes for run, offset in self.runs), default=0)


def _collect_samples(
    moov: Box, moofs: Iterable[Moof | CutOff], size_bytes: int
) -> tuple[dict[int, _Samples], tuple[str, ...]]:
    """The samples of all fragments for each track id, and notices about what was dropped."""
    defaults = _parse_defaults(moov)
    tracks = {track_id: _Samples() for track_id in defaults}
    cut_off: Moof | CutOff | None = None
    for number, moof in enumerate(moofs):
        if isinstance(moof, CutOff):
            cut_off = cut_off or moof
            break
        if cut_off is not None:
            raise BrokenFile(f"the media of fragment {number} is beyond the end of the file")
        fragments = _parse_moof(moof, defaults)
        if any(fragment.media_end > size_bytes for fragment in fragments):
            cut_off = moof
            continue
        for fragment in fragments:
            tracks[fragment.track_id].add_fragment(fragment)
    return tracks, () if cut_off is None else (_notice(cut_off.offset, size_bytes),)


def _notice(offset: int, size_bytes: int) -> str:
    return (
        "the recording was cut off: its last fragment is incomplete and was dropped "
        f"({size_bytes - offset} bytes from offset {offset} to the end of the file)"
    )


def _parse_moof(moof: Moof, defaults: dict[int, _Defaults]) -> list[_TrackFragment]:
    """The parts of a fragment, one for each track."""
    fragments: list[_TrackFragment] = []
    data_offset = moof.offset  # of the next run, unless the run has its own
    for traf in Box(b"moof", children=parse_boxes(memoryview(moof.payload), b"moof")).find_all(b"traf"):
        fragments.append(_parse_traf(defaults, traf, moof.offset, data_offset))
        data_offset = fragments[-1].next_offset
    return fragments


def _parse_defaults(moov: Box) -> dict[int, _Defaults]:
    """The `trex` of each track id."""
    found = {}
    for trex in moov.need(b"mvex").find_all(b"trex"):
        track_id, *values = unpack(_TREX, trex)
        found[track_id] = _Defaults(*values)
    return found


def _parse_traf(defaults: dict[int, _Defaults], traf: Box, moof_offset: int, data_offset: int) -> _TrackFragment:
    tfhd = traf.need(b"tfhd")
    (track_id,) = unpack(_U32, tfhd, 4)
    refuse_encrypted_samples(traf, f"track {track_id} of a fragment")
    if track_id not in defaults:
        raise BrokenFile(f"a fragment belongs to track {track_id}, which does not exist")
    base, default = _parse_tfhd(tfhd, defaults[track_id], moof_offset, data_offset)
    start_time = None
    if (tfdt := traf.find(b"tfdt")) is not None:
        (start_time,) = unpack(_U64 if version_and_flags(tfdt)[0] else _U32, tfdt, 4)
    data_offset = base
    runs = []
    for trun in traf.find_all(b"trun"):
        run, offset = _parse_trun(trun, default)
        data_offset = data_offset if offset is None else base + offset
        if data_offset < 0:
            raise BrokenFile("a fragment has media before the start of the file")
        runs.append((run, data_offset))
        data_offset += run.size_bytes
    return _TrackFragment(track_id, start_time, default.description, tuple(runs), data_offset)


def _parse_tfhd(tfhd: Box, default: _Defaults, moof_offset: int, data_offset: int) -> tuple[int, _Defaults]:
    """The base of data offsets, and the defaults of this fragment."""
    _, flags = version_and_flags(tfhd)
    base = moof_offset if flags & _BASE_IS_MOOF else data_offset
    at = 8
    if flags & _BASE_DATA_OFFSET:
        (base,) = unpack(_U64, tfhd, at)
        at += 8
    values = [default.description, default.duration, default.size, default.flags]
    for number, flag in enumerate((_DESCRIPTION, _DURATION, _SIZE, _FLAGS)):
        if flags & flag:
            (values[number],) = unpack(_U32, tfhd, at)
            at += 4
    return base, _Defaults(*values)


def _parse_trun(trun: Box, default: _Defaults) -> tuple[_Run, int | None]:
    """The samples of one run, and its data offset if it has one."""
    _version, flags = version_and_flags(trun)
    (count,) = unpack(_U32, trun, 4)
    at, offset, first_flags = 8, None, None
    if flags & _DATA_OFFSET:
        (offset,) = unpack(_I32, trun, at)
        at += 4
    if flags & _FIRST_FLAGS:
        (first_flags,) = unpack(_U32, trun, at)
        at += 4
    present = [flag for flag in (_EACH_DURATION, _EACH_SIZE, _EACH_FLAGS, _EACH_OFFSET) if flags & flag]
    columns = {
        # Composition offsets are signed in version 1, and some writers store signed ones in version 0 too.
        flag: parse_integers("i" if flag == _EACH_OFFSET else "I", trun, at, count * len(present))[
            number :: len(present)
        ]
        for number, flag in enumerate(present)
    }
    run = _Run(
        count=count,
        durations=columns.get(_EACH_DURATION, default.duration),
        sizes=columns.get(_EACH_SIZE, default.size),
        flags=columns.get(_EACH_FLAGS, default.flags),
        first_flags=first_flags,
        offsets=columns.get(_EACH_OFFSET, 0),
    )
    return run, offset


# Collecting samples


@dataclass(slots=True)
class _Samples:
    """The samples of one track in the fragments so far."""

    start_time: int | None = None  # decode time of the first sample, from tfdt
    now: int = 0  # decode time of the next sample
    durations: array[int] = field(default_factory=lambda: array("I"))
    sizes: array[int] = field(default_factory=lambda: array("I"))
    offsets: array[int] = field(default_factory=lambda: array("i"))
    sync: array[int] = field(default_factory=lambda: array("Q"))
    chunk_offsets: array[int] = field(default_factory=lambda: array("Q"))
    chunk_counts: array[int] = field(default_factory=lambda: array("I"))
    descriptions: array[int] = field(default_factory=lambda: array("I"))

    def add_fragment(self, fragment: _TrackFragment) -> None:
        """Append all samples of a fragment."""
        if fragment.start_time is not None:
            self.continue_at(fragment.start_time)
        for run, data_offset in fragment.runs:
            self.add(run, data_offset, fragment.description)

    def continue_at(self, time: int) -> None:
        """Set the decode time of the next sample. The duration of the last sample is extended over a gap."""
        if not self.durations:
            self.start_time = self.now = time
            return
        last = self.durations[-1] + time - self.now
        if not 0 <= last <= MAX_DURATION:
            raise Unsupported("the decode times of fragments overlap or have a gap of more than 31 bits")
        self.durations[-1] = last
        self.now = time

    def add(self, run: _Run, data_offset: int, description: int) -> None:
        """Append a run whose media starts at `data_offset`."""
        if not run.count:
            return
        if len(self.sizes) + run.count > MAX_SAMPLES:
            raise Unsupported(f"the fragments have more than {MAX_SAMPLES} samples")
        first = len(self.sizes)
        self.durations.extend(_expanded("I", run.durations, run.count))
        self.sizes.extend(_expanded("I", run.sizes, run.count))
        self.offsets.extend(_expanded("i", run.offsets, run.count))
        flags = _expanded("I", run.flags, run.count)
        if run.first_flags is not None:
            flags[0] = run.first_flags
        self.sync.extend(first + n for n, flag in enumerate(flags) if not flag & (_NON_SYNC | _DEPENDS_ON_OTHERS))
        self.chunk_offsets.append(data_offset)
        self.chunk_counts.append(run.count)
        self.descriptions.append(description)
        self.now += sum(self.durations[first:])

    def to_table(self, *, all_sync: bool) -> SampleTable:
        """The samples as a table. `all_sync`: every sample is a sync sample, whatever the flags say."""
        if max(self.durations, default=0) > MAX_DURATION:
            raise BrokenFile("a sample duration overflows 31 bits")
        if min(self.offsets, default=0) < 0:
            # By the standard, the first frame is presented at its time. ffmpeg, in fragmented files only, delays it.
            raise Unsupported("fragments with negative composition offsets: players disagree about their start time")
        is_sync = all_sync or len(self.sync) == len(self.sizes)
        return SampleTable(
            durations=Runs.from_values(self.durations),
            offsets=Runs.from_values(self.offsets) if any(self.offsets) else None,
            sizes=Sizes.of(self.sizes),
            sync=None if is_sync else self.sync,
            chunks=Chunks.of(self.chunk_offsets, self.chunk_counts, Runs.from_values(self.descriptions)),
        )


def _expanded(code: str, column: Column, count: int) -> array[int]:
    return array(code, [column]) * count if isinstance(column, int) else array(code, column)


# The tracks as if the file had no fragments


def _whole(track: Track, samples: _Samples | None, old_timescale: int, timescale: int) -> Track:
    if samples is None or not samples.sizes:
        edits = tuple(replace(edit, duration=edit.duration * timescale // old_timescale) for edit in track.edits)
        return replace(track, edits=edits)
    table = samples.to_table(all_sync=track.handler == b"soun")
    start = samples.start_time or 0
    if track.table.count:  # a hybrid file: moov has samples too, and the fragments follow them
        gap = start - track.table.media_duration if samples.start_time is not None else 0
        table, start = _append(track.table, table, gap), 0
    return replace(track, table=table, edits=_edits(track, table, start, old_timescale, timescale))


def _append(table: SampleTable, more: SampleTable, gap: int) -> SampleTable:
    last = table.durations[table.count - 1] + gap
    if last < 0:
        raise Unsupported("the first fragment begins before the samples in moov end")
    return concat_tables([replace(table, durations=table.durations.with_last(last)), more])


def _edits(track: Track, table: SampleTable, start: int, old_timescale: int, timescale: int) -> tuple[Edit, ...]:
    """The edit list for media that begins at 0 instead of `start`.

    In a fragmented file, the duration in the edit list is that of the samples in `moov`, or 0. Players present all
    samples.
    """
    delays = [edit.duration for edit in track.edits if edit.is_empty]
    media_times = [edit.media_time for edit in track.edits if not edit.is_empty]
    is_simple = len(media_times) == 1 and len(delays) <= 1 and (not delays or track.edits[0].is_empty)
    if track.edits and not is_simple:
        raise Unsupported("a fragmented file whose edit list has several parts")
    media_time = media_times[0] - start if media_times else -start
    if media_time == 0 and not track.edits:
        return ()
    delay_s = Fraction(sum(delays), old_timescale) + Fraction(max(0, -media_time), track.timescale)
    media_time, first = max(0, media_time), table.composition_start()
    if track.is_video and media_time > first:
        # ffmpeg applies such an edit list in files without fragments and ignores it in fragmented ones.
        raise Unsupported("a fragmented file whose edit list hides the first frames: players disagree about them")
    if media_time < first:
        # In files without fragments, ffmpeg presents the first frame where its edit begins, also if it is later.
        delay_s += Fraction(first - media_time, track.timescale)
        media_time = first
    length_s = Fraction(max(0, table.composition_end() - media_time), track.timescale)
    delay, end = round(delay_s * timescale), round((delay_s + length_s) * timescale)
    edit = Edit(end - delay, media_time)
    return (Edit(delay, EMPTY), edit) if delay else (edit,)
