"""What a job's row says about where its source is cut: cut times or a number of segments, and a maximum duration."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from media_worker.keys import MAX_SEGMENTS

# A row of DynamoDB has at most 400 KB.
MAX_CUT_TIMES = 10_000
DEFAULT_TOLERANCE_S = Fraction(2)
# The attributes that a wanted duration of the segments excludes.
CUT_ATTRIBUTES = ("segments", "cut_times_s", "cut_tolerance_sec")


@dataclass(frozen=True, slots=True)
class Cutting:
    """Where a job's source is cut, if the job's row says more than a duration.

    segments: about this many segments of equal duration.
    times_s: wanted cut times, in seconds of the source.
    tolerance_s: how far a cut may be from its wanted time.
    max_duration_s: the longest duration that a segment should have.
    """

    segments: int | None = None
    times_s: tuple[Fraction, ...] | None = None
    tolerance_s: Fraction = DEFAULT_TOLERANCE_S
    max_duration_s: Fraction | None = None

    @property
    def needs_duration(self) -> bool:
        """Whether the segments are made by their duration."""
        return self.segments is None and self.times_s is None


def parse_cutting(row: Mapping[str, Any]) -> Cutting:
    """Read the attributes of a row, as plain values.

    Raises:
        ValueError: an attribute is not allowed, or two of them exclude each other. Also TypeError and ArithmeticError.
    """
    exclusive = [name for name in ("segment_duration_sec", "segments", "cut_times_s") if row.get(name) is not None]
    if len(exclusive) > 1:
        raise ValueError(f"{' and '.join(exclusive)} exclude each other: set only one of them")
    if row.get("cut_tolerance_sec") is not None and row.get("cut_times_s") is None:
        raise ValueError("cut_tolerance_sec has no meaning without cut_times_s: remove it, or set both")
    tolerance_s = _at_least_0("cut_tolerance_sec", row.get("cut_tolerance_sec"))
    found = Cutting(
        segments=_segments(row.get("segments")),
        times_s=_times(row.get("cut_times_s")),
        tolerance_s=DEFAULT_TOLERANCE_S if tolerance_s is None else tolerance_s,
        max_duration_s=_at_least_0("max_segment_duration_sec", row.get("max_segment_duration_sec")),
    )
    _check_maximum(found.max_duration_s, row.get("segment_duration_sec"))
    return found


def _check_maximum(max_duration_s: Fraction | None, duration: Any) -> None:
    if max_duration_s == 0:
        raise ValueError("max_segment_duration_sec is 0: it must be more than 0")
    if max_duration_s is not None and duration is not None and max_duration_s < Fraction(duration):
        raise ValueError(
            f"max_segment_duration_sec is less than segment_duration_sec ({duration}): a segment lasts at least as long"
        )


def _segments(value: Any) -> int | None:
    if value is None:
        return None
    if value != int(value) or not 1 <= value <= MAX_SEGMENTS:
        raise ValueError(f"segments is {value}: it must be a whole number from 1 to {MAX_SEGMENTS}")
    return int(value)


def _times(values: Any) -> tuple[Fraction, ...] | None:
    if values is None:
        return None
    if not isinstance(values, (list, tuple, set)) or not 1 <= len(values) <= MAX_CUT_TIMES:
        raise ValueError(f"cut_times_s must be a list of 1 to {MAX_CUT_TIMES} numbers")
    times_s = (_at_least_0("a time in cut_times_s", value) for value in values)
    return tuple(sorted({time_s for time_s in times_s if time_s is not None}))


def _at_least_0(name: str, value: Any) -> Fraction | None:
    """Seconds as an exact number; the row may hold them as a number or as text."""
    if value is None:
        return None
    seconds = Fraction(value)
    if seconds < 0:
        raise ValueError(f"{name} is {value}: it must be at least 0")
    return seconds
