"""One segment of a plan: its header, and the byte ranges of the source that follow it."""

from __future__ import annotations

import math
from array import array
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from .chapters import with_segment_chapters
from .edit_list import Edit, clip_ranges, edits_of, exact_movie_timescale
from .errors import overflow_is_unsupported
from .provenance import (
    CONTEXT_VERSION,
    KEY_VERSION,
    VERSION,
    Provenance,
    TrackProvenance,
    build_provenance,
    digest_of,
    without_provenance,
)
from .samples import SampleTable, Timeline, concat_tables
from .writer import MAX_GAP_BYTES, Layout, MediaRanges, layout_of, media_ranges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .context import SampleRange
    from .movie import Movie, Track
    from .split import SplitPlan

_PRE_ROLL_S = Fraction(8, 100)
# Audio around the ends of a segment lies between frames of its neighbours (at 100 Mbit/s, one has 400 KB). They are
# copied with it, because each further range is a request, but not if the audio is far from the video of its time.
_BRIDGED_GAP_BYTES, _BRIDGED_BYTES = 1 << 19, 1 << 21
_AUDIO_OVERLAP_S = Fraction(12, 100)  # two packets and a half of HE-AAC at 44.1 kHz


@overflow_is_unsupported()
def lay_out(movie: Movie, plan: SplitPlan, segment_index: int, max_gap_bytes: int = MAX_GAP_BYTES) -> Layout:
    """One segment of the plan. Byte ranges at most `max_gap_bytes` apart are merged: more bytes, fewer requests.

    Raises:
        Unsupported: the segment's times or offsets exceed what an MP4 file can store.
    """
    timescale = _movie_timescale(movie, plan)
    parts = [_segment_track(movie, plan, segment_index, number, timescale) for number in range(len(movie.tracks))]
    media = media_ranges((track.table for track, _ in parts), max_gap_bytes)
    media = media.bridged(_BRIDGED_GAP_BYTES, _BRIDGED_BYTES)
    key = plan.range_of(plan.main_track, segment_index).begin.key
    if key is not None:
        media = media.with_key(key, parts[plan.main_track][0].table.chunks.offsets[0])
    tracks = tuple(_moved(track, media, known.key_bytes) for track, known in parts)
    provenance = Provenance(
        source=movie.fingerprint.hex(),
        segment_index=segment_index,
        total_segments=plan.total_segments,
        movie_timescale=movie.timescale,
        tracks=tuple(provenance for _, provenance in parts),
        digest=digest_of(tracks),
        version=_provenance_version(plan, [provenance for _, provenance in parts]),
        context_before=plan.context[segment_index].before if plan.context else 0,
        context_after=plan.context[segment_index].after if plan.context else 0,
    )
    box = with_segment_chapters(without_provenance(movie.box), plan.starts_s, segment_index)
    segment = replace(
        movie,
        box=box.with_children((*(box.children or ()), build_provenance(provenance))),
        timescale=timescale,
        tracks=tracks,
    )
    return layout_of(segment, media.ranges)


def _provenance_version(plan: SplitPlan, tracks: Sequence[TrackProvenance]) -> int:
    if any(track.key_bytes for track in tracks):
        return KEY_VERSION
    return CONTEXT_VERSION if plan.context or any(track.trailing_samples for track in tracks) else VERSION


def _movie_timescale(movie: Movie, plan: SplitPlan) -> int:
    """The source's for a single segment. Otherwise one in which the edit lists of all tracks are exact."""
    if plan.total_segments == 1:
        return movie.timescale
    main = movie.tracks[plan.main_track]
    return exact_movie_timescale([main.timescale, movie.timescale, *(track.timescale for track in movie.tracks)])


def _segment_track(
    movie: Movie, plan: SplitPlan, segment_index: int, track_number: int, movie_timescale: int
) -> tuple[Track, TrackProvenance]:
    """A track with the samples of one segment, still at their offsets in the source."""
    track = movie.tracks[track_number]
    begin, end = plan.cuts[track_number][segment_index : segment_index + 2]
    samples = _range_of(movie, plan, segment_index, track_number)
    table, left_out, is_marked = _segment_table(track.table, samples)
    pre_roll = _pre_roll(track, samples)
    first = samples.begin.sample - pre_roll
    if pre_roll:
        table = track.table.slice(first, samples.end)
    edits, shift = track.edits, 0
    if plan.total_segments > 1:
        edits, shift = _segment_edits(movie, plan, segment_index, track_number, samples, movie_timescale)
    if shift and table.offsets is not None:
        table = replace(table, offsets=table.offsets.shifted(shift))
    own_first = begin.sample + begin.overlap
    provenance = TrackProvenance(
        first_sample=own_first,
        offset_shift=shift + left_out,
        edits=track.edits,
        repeated_samples=0 if samples.is_empty else own_first - first - samples.begin.leading,
        is_marked=is_marked,
        trailing_samples=0 if samples.is_empty else samples.end - (end.sample + end.overlap),
        key_bytes=samples.begin.key.length if samples.begin.key else 0,
    )
    return replace(track, edits=edits, table=table), provenance


def _range_of(movie: Movie, plan: SplitPlan, segment_index: int, track_number: int) -> SampleRange:
    """The samples that a segment has of a track: those of the plan, and of audio, some that follow them.

    They are presented, beyond the end of the video. An encoder pads its last packet with silence, and the packets of
    two segments seldom meet. So the worker's encoder gets audio until after the join, and the joiner drops what is too
    much.
    """
    samples = plan.range_of(track_number, segment_index)
    track = movie.tracks[track_number]
    if track_number == plan.main_track or samples.media_end is None or not _is_plain_audio(track, samples):
        return samples
    until = samples.media_end + math.ceil(_AUDIO_OVERLAP_S * track.timescale)
    limits = [plan.cuts[track_number][-1].media_time, *_end_of_range(track, movie.timescale, samples.media_end)]
    until = max(samples.media_end, min(until, *limits))
    end = max(samples.end, Timeline.of(track.table.durations).first_at(until))
    return replace(samples, end=end, media_end=until)


def _end_of_range(track: Track, movie_timescale: int, media_time: int) -> list[int]:
    """The end of the range of media that the edit list presents just before `media_time`. Empty: it has no end."""
    ranges = [each for each in track.presented_ranges(movie_timescale) or () if each.media_start < media_time]
    return [math.floor(each.media_end) for each in ranges[-1:] if each.media_end is not None]


def _is_plain_audio(track: Track, samples: SampleRange) -> bool:
    """Whether the segment has audio of this track whose samples are all sync samples, in order."""
    return (
        track.handler == b"soun" and track.table.offsets is None and track.table.sync is None and not samples.is_empty
    )


def _pre_roll(track: Track, samples: SampleRange) -> int:
    """How many audio packets before its first one a segment has. They are decoded, but not presented.

    A decoder that starts in the middle of a stream fades in: the first packet of most codecs overlaps with the one
    before it, Opus needs 80 ms (RFC 7845, 4.6), and MP3 packets refer to bits of earlier ones.
    """
    table, begin = track.table, samples.begin
    if not _is_plain_audio(track, samples) or table.is_pcm:
        return 0
    ticks = math.ceil(_PRE_ROLL_S * track.timescale)
    timeline = Timeline.of(table.durations)
    first = timeline.first_at(begin.decode_time - ticks + 1)
    # The packet before that one may end in these 80 ms. If it starts much earlier, there is a gap between them.
    if first and timeline.time_of(first - 1) >= begin.decode_time - 2 * ticks:
        first -= 1
    return begin.sample - min(first, begin.sample)


def _segment_table(table: SampleTable, samples: SampleRange) -> tuple[SampleTable, int, bool]:
    """The samples of a segment, the duration of samples left out, and whether its first sample had to be marked.

    The leading samples of the first sample are left out. The others are decoded earlier by their duration, so their
    composition offsets grow by it. (Readers take the time to the next decode time as the duration of a frame: a gap
    behind the first sample would be a frame that lasts as long.)
    """
    begin = samples.begin
    own = table.slice(begin.sample, max(begin.sample, samples.end))
    if samples.is_empty:
        return own, 0, False
    left_out = 0
    if begin.leading and own.offsets is not None:
        left_out = own.durations.slice(1, begin.overlap).total()
        rest = own.slice(begin.overlap, own.count)
        offsets = None if rest.offsets is None else rest.offsets.shifted(left_out)
        own = concat_tables([own.slice(0, 1), replace(rest, offsets=offsets)])
    first = array("Q", [0])
    if begin.sample == 0 or own.sync is None or own.sync[:1] == first:
        return own, left_out, False
    return replace(own, sync=first + own.sync), left_out, True


def _segment_edits(
    movie: Movie,
    plan: SplitPlan,
    segment_index: int,
    track_number: int,
    samples: SampleRange,
    movie_timescale: int,
) -> tuple[tuple[Edit, ...], int]:
    """The edit list that keeps a segment's track in sync, and a shift of its composition offsets.

    A media time in an edit list cannot be negative, so composition offsets are shifted (ctts version 1).
    """
    track = movie.tracks[track_number]
    ranges = track.presented_ranges(movie.timescale)
    begin = samples.begin
    if ranges is None or samples.is_empty:
        return (), 0
    shift = max(0, begin.decode_time - begin.media_time) if segment_index else 0
    clipped = clip_ranges(ranges, _presented_from(track, samples, segment_index), samples.media_end)
    edits = edits_of(
        clipped,
        movie_start=plan.movie_start_s(segment_index) * track.timescale,
        media_zero=begin.decode_time - shift - _pre_roll_ticks(track, samples),
        media_end=plan.cuts[track_number][-1].media_time,
        track_timescale=track.timescale,
        movie_timescale=movie_timescale,
    )
    return edits, shift


def _pre_roll_ticks(track: Track, samples: SampleRange) -> int:
    first = samples.begin.sample - _pre_roll(track, samples)
    return track.table.durations.slice(first, samples.begin.sample).total()


def _presented_from(track: Track, samples: SampleRange, segment_index: int) -> int | None:
    """The media time from which a segment's track is presented. None: as the source's edit list says.

    Without an edit list, a first frame with a late composition time is presented late. Players disagree about that once
    there is an edit list, so the delay becomes an empty edit.
    """
    if segment_index:
        return samples.media_start
    return None if track.edits else track.table.composition_start()


def _moved(track: Track, media: MediaRanges, key_bytes: int) -> Track:
    """The track with its samples at their offsets in the segment, and a key frame in front of the first one."""
    table = replace(track.table, chunks=media.moved(track.table.chunks))
    return replace(track, table=table.with_first_longer(key_bytes) if key_bytes else table)
