"""Frames at the start of a video that no decoder can decode, because they refer to frames before it.

A recording of a broadcast starts anywhere, and `ffmpeg -ss -c copy` cuts at any sync sample:

    decode order          | S  L  L  P  B  B ...       S: the first sync sample; L: leading samples of an open GOP
    presentation order    | L  L  S  B  B  P ...

Decoders leave them out, so a worker would return fewer frames than planned. An edit list that begins behind them says
what is presented in fact, at the same times.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from .edit_list import clip_ranges, edits_of, is_presented
from .key_frames import can_verify, is_key_frame, is_leading_decodable, read_heads
from .samples import MAX_REORDER

if TYPE_CHECKING:
    from .fragment_reader import ReadMany
    from .movie import Movie, Track

# A later first sync sample is not looked for: a GOP of 20 seconds at 60 fps.
MAX_SAMPLES_BEFORE_SYNC = 1200


def from_first_decodable(movie: Movie, read_many: ReadMany) -> Movie:
    """The movie without the frames at its start that cannot be decoded, and with a notice if there are any.

    `read_many(requests)` reads the file.
    """
    number = movie.main_track_number
    track = movie.tracks[number]
    ranges = track.presented_ranges(movie.timescale) if can_verify(track) else None
    earlier, start = _before_decodable(track, read_many) if ranges else ([], 0)
    hidden = sum(is_presented(ranges, time) for time in earlier) if ranges else 0
    if not ranges or not hidden:
        return movie
    edits = edits_of(
        clip_ranges(ranges, start, None),
        movie_start=Fraction(0),
        media_zero=0,
        media_end=track.table.composition_end(),
        track_timescale=track.timescale,
        movie_timescale=movie.timescale,
    )
    tracks = list(movie.tracks)
    tracks[number] = replace(track, edits=edits)
    return replace(movie, tracks=tuple(tracks), notices=(*movie.notices, _notice(hidden)))


def _notice(frames: int) -> str:
    which = "the first frame refers" if frames == 1 else f"the first {frames} frames refer"
    return f"not presented, because no decoder can decode them: {which} to frames before the start of the source"


def _before_decodable(track: Track, read_many: ReadMany) -> tuple[list[int], int]:
    """The composition times of the frames before the first one from which all can be decoded, and its own."""
    table = track.table
    sync = table.sync[0] if table.sync else 0
    if sync > MAX_SAMPLES_BEFORE_SYNC:
        return [], 0
    times = table.slice_times(0, min(table.count, sync + MAX_REORDER)).all_composition_times()
    earlier = [sample for sample, time in enumerate(times) if time < times[sync]]
    if not earlier:
        return [], 0
    (first_entry, first), (entry, head) = read_heads(track, [0, sync], read_many)
    if not is_key_frame(entry, head, is_marked=True) or (sync and is_key_frame(first_entry, first)):
        return [], 0
    heads = read_heads(track, earlier, read_many)
    lost = [
        times[sample]
        for sample, (_, leading) in zip(earlier, heads, strict=True)
        if sample < sync or not is_leading_decodable(entry, head, leading)
    ]
    if not lost:
        return [], 0
    start = min(time for time in times if time > max(lost))
    return [time for time in times if time < start], start
