"""How a video should be split, and the starts of the segments that come closest to that.

A rule is one of three: segments of a duration, a number of segments of equal duration, or cut times. A segment can only
start at a sync sample, so `match_cuts` takes the one nearest to each wanted time, and says which it got. `bounded` adds
starts where a segment would be longer than a maximum.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


@dataclass(frozen=True, slots=True)
class SplitRule:
    """How a video should be split. Exactly one of the first three is given.

    segment_duration_s: the shortest duration of a segment.
    segments: about this many segments of equal duration.
    cut_times_s: start a segment at the sync sample nearest to each of these times, in seconds of the movie.
    tolerance_s: how far that sync sample may be from the time.
    max_duration_s: add starts where a segment would be longer than this. None: no limit.
    """

    segment_duration_s: Fraction | None = None
    segments: int | None = None
    cut_times_s: tuple[Fraction, ...] | None = None
    tolerance_s: Fraction = Fraction(0)
    max_duration_s: Fraction | None = None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: none or several of the three are given, or a number is not above 0.
        """
        if [self.segment_duration_s, self.segments, self.cut_times_s].count(None) != 2:  # noqa: PLR2004 all but one
            raise ValueError("give one of segment duration, number of segments and cut times")
        positive = (self.segment_duration_s, self.segments, self.max_duration_s)
        if any(each is not None and each <= 0 for each in positive):
            raise ValueError("durations and the number of segments must be above 0")


@dataclass(frozen=True, slots=True)
class MatchedCut:
    """A wanted cut time, and the start of the segment that it got. None: no sync sample within the tolerance.

    Several wanted times can get the same start. A time near the start of the video gets the start of the video.
    """

    wanted_s: Fraction
    got_s: Fraction | None


class Starts(Protocol):
    """The times at which segments can start, in seconds of the movie. All are after `first_s` and before `end_s`."""

    @property
    def first_s(self) -> Fraction:
        """When the first frame is presented."""

    @property
    def end_s(self) -> Fraction:
        """When the last frame ends."""

    def at_or_after(self, time_s: Fraction, until_s: Fraction) -> Fraction | None:
        """The first start from `time_s` to `until_s` (inclusive), or None if there is none."""

    def at_or_before(self, time_s: Fraction, from_s: Fraction) -> Fraction | None:
        """The last start from `from_s` to `time_s` (inclusive), or None if there is none."""


def match_cuts(starts: Starts, cut_times_s: Iterable[Fraction], tolerance_s: Fraction) -> tuple[MatchedCut, ...]:
    """The nearest start to each wanted time, in the order of time. Of two equally near ones, the earlier."""
    return tuple(MatchedCut(time_s, _nearest(starts, time_s, tolerance_s)) for time_s in sorted(set(cut_times_s)))


def _nearest(starts: Starts, wanted_s: Fraction, tolerance_s: Fraction) -> Fraction | None:
    candidates = (
        starts.first_s if abs(starts.first_s - wanted_s) <= tolerance_s else None,
        starts.at_or_before(wanted_s, wanted_s - tolerance_s),
        starts.at_or_after(wanted_s, wanted_s + tolerance_s),
    )
    found = [each for each in candidates if each is not None]
    return min(found, key=lambda start_s: (abs(start_s - wanted_s), start_s), default=None)


def later_starts(starts: Starts, cuts: Iterable[MatchedCut]) -> list[Fraction]:
    """The starts of all segments but the first, in order."""
    return sorted({each.got_s for each in cuts if each.got_s is not None} - {starts.first_s})


def match_equal(starts: Starts, segments: int) -> tuple[MatchedCut, ...]:
    """Cuts for segments of about equal duration. Each is at most half a segment from its wanted time."""
    duration_s = (starts.end_s - starts.first_s) / segments
    wanted = (starts.first_s + number * duration_s for number in range(1, segments))
    return match_cuts(starts, wanted, duration_s / 2)


def bounded(
    starts: Starts, later_s: Sequence[Fraction], max_duration_s: Fraction, *, keep_all: bool
) -> Iterator[Fraction]:
    """The starts, and further ones where a segment would be longer than the maximum.

    Unless `keep_all`, a start that a further one right before it makes superfluous is left out.
    """
    previous_s = starts.first_s
    following = (*later_s[1:], starts.end_s, starts.end_s)
    for start_s, next_s in zip((*later_s, starts.end_s), following, strict=False):
        begin_s = previous_s
        while (further_s := _further(starts, previous_s, start_s, max_duration_s)) is not None:
            yield further_s
            previous_s = further_s
        is_superfluous = not keep_all and previous_s > begin_s and next_s - previous_s <= max_duration_s
        if start_s < starts.end_s and not is_superfluous:
            yield start_s
            previous_s = start_s


def _further(starts: Starts, previous_s: Fraction, start_s: Fraction, max_duration_s: Fraction) -> Fraction | None:
    """The last start that keeps a segment within the maximum, else the first behind it. None: none, or not needed."""
    limit_s = previous_s + max_duration_s
    if start_s <= limit_s:
        return None
    last_s = starts.at_or_before(limit_s, previous_s)
    found = last_s if last_s is not None and last_s > previous_s else starts.at_or_after(limit_s, start_s)
    return found if found is not None and found < start_s else None
