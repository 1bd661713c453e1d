"""Reading wanted cut times from a file: seconds, one per line, or the scene list of PySceneDetect."""

import csv
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from pathlib import Path

from media_worker.cutting import MAX_CUT_TIMES

from media_worker_cli.errors import UsageError

# The column of PySceneDetect's scene list. Above its header there may be a line with the time codes of all cuts.
_COLUMN = "Start Time (seconds)"
_DYNAMODB_DIGITS = 38
_MAX_S = 10**9


def read_cut_times(path: Path) -> tuple[Decimal, ...]:
    """The wanted cut times of a file, in seconds and in order, each once.

    Raises:
        UsageError: the file cannot be read, has no times or too many, or a line is not a time; names the line.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from error
    times_s = {_seconds(path, number, text) for number, text in _cells(lines)}
    if not 1 <= len(times_s) <= MAX_CUT_TIMES:
        raise UsageError(f"{path} has {len(times_s)} cut times: it must have from 1 to {MAX_CUT_TIMES}")
    return tuple(sorted(times_s))


def _cells(lines: list[str]) -> Iterable[tuple[int, str]]:
    """The text of each time, with the number of its line."""
    rows = [(number, [cell.strip() for cell in row]) for number, row in enumerate(csv.reader(lines), 1)]
    for header, (_, row) in enumerate(rows):
        if _COLUMN in row:
            column = row.index(_COLUMN)
            return [(number, ",".join(row[column : column + 1])) for number, row in rows[header + 1 :] if any(row)]
    lines_with_text = ((number, line.strip()) for number, line in enumerate(lines, 1))
    return [(number, line) for number, line in lines_with_text if line and not line.startswith("#")]


def _seconds(path: Path, number: int, text: str) -> Decimal:
    try:
        seconds = Decimal(text)
    except InvalidOperation:
        seconds = Decimal(-1)
    is_time = seconds.is_finite() and 0 <= seconds <= _MAX_S
    if not is_time or len(seconds.as_tuple().digits) > _DYNAMODB_DIGITS:
        raise UsageError(
            f"{path}, line {number}: {text!r} is not a time in seconds. The file must have one time per line, or be "
            f'the scene list of PySceneDetect with a column "{_COLUMN}"'
        )
    return seconds
