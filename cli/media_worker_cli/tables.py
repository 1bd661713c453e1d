"""Tables, times and sizes for a terminal."""

import re
import time
from collections.abc import Sequence

from media_worker_cli.errors import UsageError

_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))
_SINCE_UNITS = {"s": 1, "min": 60, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_MB = 1_000_000
_MAX_TEXT = 60


def as_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns. The last column is not padded."""
    table = [header, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def describe_age(seconds: float) -> str:
    """A duration in its largest whole unit, such as `3 h`."""
    for unit, size_s in _UNITS:
        if seconds >= size_s:
            return f"{int(seconds // size_s)} {unit}"
    return f"{int(seconds)} s"


def describe_time(unix_s: int) -> str:
    """A moment in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))


def describe_clock(seconds: float) -> str:
    """A position in a video or a duration, as `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def describe_size(size_bytes: int) -> str:
    """A size in MB."""
    return f"{size_bytes / _MB:,.1f} MB"


def one_line(text: str) -> str:
    """A text of several lines as one: an error and what came before it."""
    return "; ".join(" ".join(line.split()) for line in text.splitlines() if line.strip())


def in_short(text: str | None) -> str:
    """The beginning of a text, on one line."""
    line = one_line(text or "")
    return line if len(line) <= _MAX_TEXT else line[: _MAX_TEXT - 1] + "…"


def parse_ranges(text: str) -> frozenset[int]:
    """The numbers in a text such as `3,7-9`.

    Raises:
        UsageError: it is not such a text.
    """
    numbers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})(?:-(\d{1,5}))?\s*", part)
        if match is None or int(match[2] or match[1]) < int(match[1]):
            raise UsageError(f"{text!r} is not a list of segments: give indexes and ranges, such as 3,7-9")
        numbers.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return frozenset(numbers)


def parse_duration(text: str) -> int:
    """Seconds in a text such as `90s`, `30min`, `12h`, `2d` or `1w`.

    Raises:
        UsageError: it is not such a text.
    """
    match = re.fullmatch(r"(\d{1,6})\s*([a-z]+)", text.strip())
    if match is None or match[2] not in _SINCE_UNITS:
        raise UsageError(f"{text!r} is not a duration: give a number and a unit, such as 30min, 12h or 2d")
    return int(match[1]) * _SINCE_UNITS[match[2]]
