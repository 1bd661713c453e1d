"""Exact times for a movie that ffmpeg has remuxed. Pure: only the index in memory changes, not the file.

Matroska and FLV round every time to a millisecond, so that frames of 30 fps last 33 or 34 ms. And ffmpeg's MP4 muxer
rounds edit lists to milliseconds, and may end one before the last frame. So:

- Times that fit a constant frame rate, or packets of a constant duration, are moved onto that grid. None moves by
  more than one tick of the source.
- The decode times of video are computed again, because ffmpeg guesses those that a container does not have.
- The edit lists are written again, so that they present every packet that went in, at its time.
"""

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, pairwise
from math import ceil, floor
from operator import sub

from media_worker.engines.commands import PacketTimes
from media_worker.mp4.edit_list import Edit, PresentedRange, edits_of, exact_movie_timescale
from media_worker.mp4.movie import Movie, Track
from media_worker.mp4.samples import Runs, Timeline

_RATES = (
    *(Fraction(rate) for rate in (*range(1, 61), 72, 75, 90, 96, 100, 120, 144, 200, 240)),
    *(Fraction(rate * 1000, 1001) for rate in (15, 24, 30, 48, 60, 96, 120, 240)),
    *(Fraction(15, 2), Fraction(25, 2)),
)
# Tracks whose samples are the packets that went in.
_EDITED = frozenset({b"vide", b"soun"})
_MIN_TIMESCALE = 10_000
# Putting times on a grid takes a few numbers for each sample.
_MIN_SAMPLES, _MAX_SAMPLES = 2, 10_000_000


def with_exact_times(movie: Movie, packets: Sequence[PacketTimes]) -> Movie:
    """The movie with the times of these packets, which went into its first tracks.

    ffmpeg adds tracks of its own behind them (chapters, timecode), and samples of its own to subtitles. Those tracks
    keep ffmpeg's edit lists.
    """
    known = len(packets)
    on_grid = [_on_grid(track, times) for track, times in zip(movie.tracks, packets, strict=False)]
    timescale = exact_movie_timescale([movie.timescale, *(track.timescale for track, _ in on_grid)])
    edited = [
        replace(track, edits=_edits(track, times, start, timescale))
        if track.handler in _EDITED and track.table.count and times.first is not None
        else _rescaled(track, movie.timescale, timescale)
        for (track, start), times in zip(on_grid, packets, strict=False)
    ]
    added = [_rescaled(track, movie.timescale, timescale) for track in movie.tracks[known:]]
    return replace(movie, timescale=timescale, tracks=(*edited, *added))


def _edits(track: Track, times: PacketTimes, start: Fraction, movie_timescale: int) -> tuple[Edit, ...]:
    """An edit list that presents every packet from time 0 on. The first packet is presented at `start` (track ticks).

    Packets that the source's own edit list hides at its start or end stay hidden.
    """
    zero = track.table.composition_start() - start  # the media time that is presented at time 0
    first_presented, media_end = start, Fraction(track.table.composition_end())
    if times.discarded and times.presented_start is not None and times.presented_end is not None:
        to_ticks = times.time_base * track.timescale
        first_presented = start + (times.presented_start - (times.first or 0)) * to_ticks
        media_end = min(media_end, zero + times.presented_end * to_ticks)
    begin = max(Fraction(0), Fraction(round(first_presented)))
    media_start = max(Fraction(0), Fraction(round(zero + begin)))
    presented = PresentedRange(begin, media_start, max(media_start + 1, Fraction(round(media_end))))
    return edits_of(
        [presented],
        movie_start=Fraction(0),
        media_zero=0,
        media_end=track.table.composition_end(),
        track_timescale=track.timescale,
        movie_timescale=movie_timescale,
    )


def _rescaled(track: Track, old: int, new: int) -> Track:
    """The track with its edit list in a new movie timescale."""
    return replace(
        track, edits=tuple(replace(edit, duration=round(Fraction(edit.duration * new, old))) for edit in track.edits)
    )


def _on_grid(track: Track, times: PacketTimes) -> tuple[Track, Fraction]:
    """The track on the grid of its frames or packets, if it has one, and the presentation time of its first packet."""
    start = (times.first or 0) * times.time_base * track.timescale
    if not _MIN_SAMPLES <= track.table.count <= _MAX_SAMPLES or track.table.is_pcm or not times.head:
        return track, start
    if not track.is_video:
        return _audio_on_grid(track, times) if track.handler == b"soun" else (track, start)
    fits = [fit for rate in _rates_near(track, times.time_base) if (fit := _Fit.of(track, rate, times.time_base))]
    if not fits:
        durations = sorted(track.table.durations)
        usual, last = max(1, durations[len(durations) // 2]), track.table.durations[track.table.count - 1]
        return _presented_at(track, track.timescale, track.table.all_composition_times(), usual, last), start
    best = min(fits, key=lambda fit: fit.deviation_s)
    on_grid = _video_on_grid(track, best)
    return on_grid, _phase(times, 1 / best.rate) * on_grid.timescale


def _phase(times: PacketTimes, step_s: Fraction) -> Fraction:
    """The time of the first packet in seconds, from the rounded times of many: the middle of what fits all of them."""
    first = min(times.head)
    step = step_s / times.time_base
    deviations = [time - first - round((time - first) / step) * step for time in times.head]
    if max(deviations) - min(deviations) > 1:
        return first * times.time_base
    exact = first + (max(deviations) + min(deviations)) / 2
    return (exact if first < 0 else max(exact, Fraction(0))) * times.time_base


# Video: a constant frame rate, in which frames may be missing.


def _rates_near(track: Track, tick_s: Fraction) -> list[Fraction]:
    """Usual frame rates whose frames last as long as most of the track's. None if all of them last equally long."""
    durations = track.table.durations
    if len(set(durations.values)) == 1:
        return []
    usual_s = Fraction(sorted(durations)[len(durations) // 2], track.timescale)
    return [rate for rate in _RATES if abs(1 / rate - usual_s) <= tick_s and 4 * tick_s <= 1 / rate]


@dataclass(frozen=True, slots=True)
class _Fit:
    """A frame rate that a track's times fit, the number of each sample's frame, and the largest deviation."""

    rate: Fraction
    frames: "array[int]"
    deviation_s: Fraction

    @classmethod
    def of(cls, track: Track, rate: Fraction, tick_s: Fraction) -> "_Fit | None":
        """None if a sample is off by more than a tick."""
        composed = track.table.all_composition_times()
        first = min(composed)
        unit_s = Fraction(1, track.timescale * rate.numerator)
        frame = track.timescale * rate.denominator  # in these units
        limit, largest = floor(tick_s / unit_s), 0
        numbers = array("q")
        for time in composed:
            units = (time - first) * rate.numerator
            number = (2 * units + frame) // (2 * frame)
            largest = max(largest, abs(units - number * frame))
            if largest > limit:
                return None
            numbers.append(number)
        return cls(rate, numbers, largest * unit_s) if len(set(numbers)) == len(numbers) else None


def _video_on_grid(track: Track, fit: _Fit) -> Track:
    """The track with its samples presented at the frames that they fit."""
    rate, factor = fit.rate, 1
    while rate.numerator * factor < _MIN_TIMESCALE:
        factor *= 2
    ticks = rate.denominator * factor  # of a frame
    last = max(1, round(track.table.durations[track.table.count - 1] * rate / track.timescale))
    times = array("q", (ticks * number for number in fit.frames))
    return _presented_at(track, rate.numerator * factor, times, ticks, ticks * last)


def _presented_at(track: Track, timescale: int, times: "array[int]", usual: int, last: int) -> Track:
    """The track with these presentation times, of which the last frame lasts `last`. Decode times are the presentation
    times in order, earlier by the delay that the reordering needs. `usual`: how long a frame usually lasts.
    """
    ordered = array("q", sorted(times))
    delay = max(number - bisect_left(ordered, time) for number, time in enumerate(times))
    early = range(ordered[0] - delay * usual, ordered[0], usual)
    decoded = array("q", chain(early, ordered[: len(ordered) - delay]))
    durations = Runs.from_values(chain((after - before for before, after in pairwise(decoded)), [last]))
    offsets = Runs.from_values(map(sub, times, decoded))
    table = replace(track.table, durations=durations, offsets=offsets if any(offsets.values) else None)
    return replace(track, timescale=timescale, table=table)


# Audio: packets of a constant duration, with gaps.


def _audio_on_grid(track: Track, times: PacketTimes) -> tuple[Track, Fraction]:
    """The track with packets that follow each other exactly, and the presentation time of the first one."""
    durations = track.table.durations
    counts: Counter[int] = Counter()
    for count, value in zip(durations.counts, durations.values, strict=True):
        counts[value] += count
    packet = max(counts, key=counts.__getitem__)
    start = _phase(times, Fraction(packet, track.timescale)) * track.timescale
    limit = ceil(times.time_base * track.timescale)
    last = durations[len(durations) - 1]
    starts = array("q")
    for time in Timeline.of(durations).all_times():
        expected = starts[-1] + packet if starts else time
        starts.append(expected if abs(time - expected) <= limit else time)
    exact = [after - before for before, after in pairwise(starts)]
    if min(exact) < 1:
        return track, start
    exact.append(packet if abs(last - packet) <= limit else last)
    return replace(track, table=replace(track.table, durations=Runs.from_values(exact))), start
