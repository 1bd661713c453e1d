"""A fragmented film as one without fragments: the tracks of its `moov`, with the samples of all `moof` boxes."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

from .edits import EMPTY, Edit, exact_movie_timescale
from .errors import Unsupported
from .tables import SampleTable, concat_tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .gathering import Gathered
    from .movie import Track


def defragmented(
    tracks: Sequence[Track], gathered: dict[int, Gathered], movie_timescale: int
) -> tuple[tuple[Track, ...], int]:
    """The tracks with all their samples, and a movie timescale in which their delays are exact."""
    timescale = exact_movie_timescale([movie_timescale, *(track.timescale for track in tracks)])
    return tuple(_whole(track, gathered.get(track.track_id), movie_timescale, timescale) for track in tracks), timescale


def _whole(track: Track, found: Gathered | None, old_timescale: int, timescale: int) -> Track:
    if found is None or not found.sizes:
        edits = tuple(replace(edit, duration=edit.duration * timescale // old_timescale) for edit in track.edits)
        return replace(track, edits=edits)
    table = found.to_table(all_sync=track.handler == b"soun")
    start = found.start_time or 0
    if track.table.count:  # "hybrid": the moov has samples of its own, the fragments go on from there
        gap = start - track.table.media_duration if found.start_time is not None else 0
        table, start = _behind(track.table, table, gap), 0
    return replace(track, table=table, edits=_edits(track, table, start, old_timescale, timescale))


def _behind(before: SampleTable, after: SampleTable, gap: int) -> SampleTable:
    last = before.durations[before.count - 1] + gap
    if last < 0:
        raise Unsupported("fragments that begin before the samples in front of them end")
    return concat_tables([replace(before, durations=before.durations.with_last(last)), after])


def _edits(track: Track, table: SampleTable, start: int, old_timescale: int, timescale: int) -> tuple[Edit, ...]:
    """The edit list for media that begin at 0 instead of `start`.

    In a fragmented file the length in an edit list is that of the moov alone, or 0; players show all there is.
    """
    delays = [edit.duration for edit in track.edits if edit.is_empty]
    shown = [edit.media_time for edit in track.edits if not edit.is_empty]
    is_simple = len(shown) == 1 and len(delays) <= 1 and (not delays or track.edits[0].is_empty)
    if track.edits and not is_simple:
        raise Unsupported("an edit list of several parts in a fragmented file")
    media_time = shown[0] - start if shown else -start
    if media_time == 0 and not track.edits:
        return ()
    delay_s = Fraction(sum(delays), old_timescale) + Fraction(max(0, -media_time), track.timescale)
    media_time = max(0, media_time)
    if track.is_video and media_time > table.composition_start():
        # ffmpeg obeys such an edit list in whole files and ignores it in fragmented ones.
        raise Unsupported("a fragmented file that hides its first pictures: players disagree whether to show them")
    length_s = Fraction(max(0, table.composition_end() - media_time), track.timescale)
    delay, end = round(delay_s * timescale), round((delay_s + length_s) * timescale)
    edit = Edit(end - delay, media_time)
    return (Edit(delay, EMPTY), edit) if delay else (edit,)
