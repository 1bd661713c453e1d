"""Joining video with the source's other tracks: audio, subtitles, chapters, timecode and metadata, sample for sample.

The joined movie is the source's movie with another video track. Track ids do not change, so references between tracks
(`chap`, `tmcd`, `cdsc`) stay valid, and everything that the source says about its other tracks (edit lists, languages,
flags, alternate groups) is written as it was read.

    source      moov   audio   subtitles   chapters         the samples are read from the source
    segments           video 0 | video 1 | video 2          placed at their planned times on the source's timeline

Media is interleaved in blocks: the other tracks for some seconds, then the video for the same seconds, and so on.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from .boxes import Box, track_id_of, with_track_id
from .concat import JoinedTrack, concatenate
from .context import own_part
from .edit_list import EMPTY, Edit, exact_movie_timescale, rescaled
from .errors import Unsupported, overflow_is_unsupported
from .join import match_tracks, restore
from .presented import PresentedFrames
from .provenance import without_provenance
from .samples import Chunks, SampleTable, Timeline, concat_tables
from .writer import MAX_GAP_BYTES, Layout, layout_of, media_ranges

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from media_worker.byte_ranges import ByteRange

    from .movie import Movie, Track

# Seconds of media in a block. A player that reads forward finds audio and video at most this far apart.
# docs/performance.md says why.
BLOCK_S = Fraction(60)
# Coarser timescales cannot express the start of a segment to the tenth of a millisecond.
_FINE_TIMESCALE = 10_000
# A first frame this close to its time in the source is not moved: edit lists are often in milliseconds.
_ROUNDING_S = Fraction(1, 1000)


@dataclass(frozen=True, slots=True)
class SourceTracks:
    """The source's movie. `tables` has the samples of each track: one table for each file that they are in."""

    movie: Movie
    tables: tuple[tuple[SampleTable, ...], ...]

    @classmethod
    def of_source(cls, movie: Movie) -> SourceTracks:
        """The source itself: all samples are in one file."""
        return cls(movie, tuple((track.table,) for track in movie.tracks))

    @classmethod
    def of_segments(cls, movies: Sequence[Movie]) -> SourceTracks:
        """The segments that the source was split into, in order and unchanged.

        Raises:
            Unsupported: these are not all segments of one source.
        """
        restored = restore(movies)
        if restored is None:
            raise Unsupported("the segments are not those that the source was split into")
        tracks = tuple(joined.track for joined in restored.tracks)
        movie = replace(movies[0], box=restored.box, timescale=restored.timescale, tracks=tracks)
        return cls(movie, tuple(joined.tables for joined in restored.tracks))

    @property
    def has_audio(self) -> bool:
        """Whether there is audio."""
        return has_audio(self.movie)


def has_audio(movie: Movie) -> bool:
    """Whether a movie has an audio track with samples."""
    return any(track.handler == b"soun" and track.table.count for track in movie.tracks)


@overflow_is_unsupported()
def plan_source_join(
    movies: Sequence[Movie],
    source: SourceTracks,
    starts_s: Sequence[Fraction],
    block_s: Fraction = BLOCK_S,
    max_gap_bytes: int = MAX_GAP_BYTES,
) -> Layout:
    """The layout of the movie with the video of the segments and every other track of the source.

    `starts_s`: when each segment starts, by the plan, in seconds. The sources of the byte ranges are the segments, and
    behind them the files of the source's tracks.

    Raises:
        TracksDiffer: a segment's video cannot be joined with the others; names it.
        Unsupported: an edit list of a segment cannot be joined.
    """
    video, video_timescale = _join_video(movies, starts_s)
    timescale = exact_movie_timescale([source.movie.timescale, video_timescale])
    main = source.movie.main_track_number
    joined = [
        JoinedTrack(replace(track, edits=rescaled(track.edits, source.movie.timescale, timescale)), tables)
        for track, tables in zip(source.movie.tracks, source.tables, strict=True)
    ]
    joined[main] = JoinedTrack(
        replace(
            video.track,
            box=_video_box(video.track.box, source.movie.tracks[main].box),
            edits=rescaled(video.track.edits, video_timescale, timescale),
        ),
        video.tables,
    )
    blocks = _blocks(starts_s, _end_s(video), block_s)
    slices = sorted(
        each
        for number, track in enumerate(joined)
        for each in _slices(track, number, timescale, blocks, is_video=number == main)
    )
    ranges, chunks = _interleave(joined, slices, main, max_gap_bytes)
    tracks = tuple(
        replace(each.track, table=replace(concat_tables(each.tables), chunks=Chunks.concat(moved)))
        for each, moved in zip(joined, chunks, strict=True)
    )
    final = replace(source.movie, box=without_provenance(source.movie.box), timescale=timescale, tracks=tracks)
    return layout_of(final, ranges)


# The video


def only_video(movie: Movie) -> Movie:
    """The movie with its main track only."""
    track = movie.tracks[movie.main_track_number]
    children = tuple(child for child in track.box.children or () if child.kind != b"tref")
    return replace(movie, tracks=(replace(track, box=track.box.with_children(children)),))


def _join_video(movies: Sequence[Movie], starts_s: Sequence[Fraction]) -> tuple[JoinedTrack, int]:
    """The joined video, and the movie timescale of its edit list."""
    restored = restore(movies)
    if restored is not None:
        return restored.tracks[movies[0].main_track_number], restored.timescale
    videos = [_with_fine_timescale(only_video(own_part(movie))) for movie in movies]
    videos[0] = _starting_at(videos[0], starts_s[0])
    joined = concatenate(videos, match_tracks(videos, may_lack_audio=True), starts_s)
    return joined.tracks[0], joined.timescale


def _with_fine_timescale(movie: Movie) -> Movie:
    """A movie of one track whose timescale is fine enough for the track to start at any time."""
    (track,) = movie.tracks
    factor = -(-_FINE_TIMESCALE // track.timescale)
    if factor == 1:
        return movie
    offsets = track.table.offsets
    table = replace(
        track.table,
        durations=track.table.durations.scaled(factor),
        offsets=None if offsets is None else offsets.scaled(factor),
    )
    edits = tuple(edit if edit.is_empty else replace(edit, media_time=edit.media_time * factor) for edit in track.edits)
    return replace(movie, tracks=(replace(track, timescale=track.timescale * factor, edits=edits, table=table),))


def _starting_at(movie: Movie, first_frame_s: Fraction) -> Movie:
    """A movie of one track whose first frame is presented at this time. Workers may drop the delay of a late video."""
    (track,) = movie.tracks
    if not track.table.count:
        return movie
    found_s = PresentedFrames(track, movie.timescale).time_of(0) / track.timescale
    if abs(found_s - first_frame_s) <= _ROUNDING_S:
        return movie
    number = next((number for number, edit in enumerate(track.edits) if not edit.is_empty), None)
    # An edit of duration 0 extends to the end of the media (8.6.6.1).
    rest = (Edit(0, track.table.composition_start()),) if number is None else track.edits[number:]
    delay = math.floor(first_frame_s * movie.timescale + Fraction(1, 2))
    edits = (Edit(delay, EMPTY), *rest) if delay else rest
    return replace(movie, tracks=(replace(track, edits=edits),))


def _video_box(processed: Box, source: Box) -> Box:
    """The processed video's `trak`, with the id and the references of the source's."""
    tkhd = with_track_id(processed, track_id_of(source.need(b"tkhd"))).need(b"tkhd")
    others = tuple(child for child in processed.children or () if child.kind not in (b"tkhd", b"tref"))
    return processed.with_children((tkhd, *source.find_all(b"tref"), *others))


def _end_s(video: JoinedTrack) -> Fraction:
    return Fraction(sum(table.media_duration for table in video.tables), video.track.timescale)


# Interleaving


@dataclass(frozen=True, slots=True)
class _Blocks:
    """When each block starts, in seconds, and the number of each segment's first block. The last one is the total."""

    starts_s: tuple[Fraction, ...]
    firsts: tuple[int, ...]


def _blocks(starts_s: Sequence[Fraction], end_s: Fraction, block_s: Fraction) -> _Blocks:
    """Each segment in blocks of equal duration, at most `block_s`."""
    ends_s = [*starts_s[1:], max(end_s, starts_s[-1])]
    counts = [max(1, math.ceil((end - start) / block_s)) for start, end in zip(starts_s, ends_s, strict=True)]
    blocks = (
        start + (end - start) * number / count
        for start, end, count in zip(starts_s, ends_s, counts, strict=True)
        for number in range(count)
    )
    return _Blocks(tuple(blocks), tuple(accumulate(counts, initial=0)))


@dataclass(frozen=True, slots=True, order=True)
class _Slice:
    """Samples `first` to `end` (exclusive) of a track's table number `file`. The order is that of the joined file."""

    block: int
    is_video: bool
    file: int
    track: int
    first: int
    end: int


def _slices(
    joined: JoinedTrack, number: int, movie_timescale: int, blocks: _Blocks, *, is_video: bool
) -> Iterator[_Slice]:
    """A track's samples by block. A segment's video stays in the blocks of its segment."""
    shift = _media_shift(joined.track, movie_timescale)
    decode_starts = accumulate((table.media_duration for table in joined.tables), initial=0)
    for file, (table, decode_start) in enumerate(zip(joined.tables, decode_starts, strict=False)):
        low, high = blocks.firsts[file : file + 2] if is_video else (0, len(blocks.starts_s))
        times = [
            math.ceil(start_s * joined.track.timescale - shift) - decode_start for start_s in blocks.starts_s[low:high]
        ]
        for block, first, end in _slices_of(table, times):
            yield _Slice(low + block, is_video, file, number, first, end)


def _media_shift(track: Track, movie_timescale: int) -> Fraction:
    """How much later than its media time the first media of a track is presented, in ticks of the track."""
    ranges = track.presented_ranges(movie_timescale)
    return ranges[0].start - ranges[0].media_start if ranges else Fraction(0)


def _slices_of(table: SampleTable, times: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Block number, first sample and end of each slice with samples. `times`: decode times of the blocks' starts."""
    timeline = Timeline.of(table.durations)
    low = max(0, bisect_right(times, 0) - 1)
    high = max(low + 1, bisect_left(times, table.media_duration))
    cuts = [0, *(timeline.first_at(time) for time in times[low + 1 : high]), table.count]
    for block, (first, end) in enumerate(pairwise(cuts), start=low):
        if first < end:
            yield block, first, end


def _interleave(
    joined: Sequence[JoinedTrack], slices: Sequence[_Slice], main: int, max_gap_bytes: int
) -> tuple[list[ByteRange], list[list[Chunks]]]:
    """The byte ranges in the order of the slices, and the chunks of each track at their new offsets.

    Gaps between samples of the source's tracks are not copied: its video is there.
    """
    segments = len(joined[main].tables)
    ranges: list[ByteRange] = []
    chunks: list[list[Chunks]] = [[] for _ in joined]
    base = 0
    for group in _same_file(slices):
        tables = [_part(joined[each.track].tables[each.file], each) for each in group]
        source = group[0].file if group[0].is_video else segments + group[0].file
        media = media_ranges(tables, max_gap_bytes if group[0].is_video else 0, source)
        for each, table in zip(group, tables, strict=True):
            chunks[each.track].append(media.moved(table.chunks, base))
        ranges += media.ranges
        base += media.total_bytes
    return ranges, chunks


def _same_file(slices: Sequence[_Slice]) -> Iterator[list[_Slice]]:
    """Slices of the same block and file together."""
    group: list[_Slice] = []
    for each in slices:
        if group and (each.block, each.is_video, each.file) != (group[0].block, group[0].is_video, group[0].file):
            yield group
            group = []
        group.append(each)
    if group:
        yield group


def _part(table: SampleTable, wanted: _Slice) -> SampleTable:
    """The sizes and chunks of a slice."""
    sizes = table.sizes.slice(wanted.first, wanted.end)
    return replace(SampleTable.empty(), sizes=sizes, chunks=table.chunks.slice(table.sizes, wanted.first, wanted.end))
