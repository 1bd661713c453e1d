"""What can be wrong with an MP4 file, in three words.

Mp4Error
├── Unsupported     legal (or not MP4 at all), but not for this engine: hand it to ffmpeg, and log the reason
├── BrokenFile      contradicts itself: tables larger than their box, no index, offsets that overflow
└── TracksDiffer    segments that cannot be one film; names the segment
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager


class Mp4Error(Exception):
    """Base of everything this package raises on purpose."""


class Unsupported(Mp4Error):
    """The file may well be sound, but its index cannot be rewritten exactly."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class BrokenFile(Mp4Error):
    """The file contradicts itself."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TracksDiffer(Mp4Error):
    """One segment does not fit the first one."""

    def __init__(self, segment_index: int, reason: str) -> None:
        super().__init__(f"segment {segment_index} does not fit the others: {reason}")
        self.segment_index = segment_index
        self.reason = reason


@contextmanager
def numbers_that_fit() -> Iterator[None]:
    """A time or offset that no box can hold is a reason to leave the file alone, wherever it turns up.

    Only nonsense has such numbers (a sample of 20 hours, an edit list beyond all media), so they are not looked for
    in each place; the integers of `array` and `struct` know their limits.
    """
    try:
        yield
    except (OverflowError, struct.error) as error:
        raise Unsupported("times or sizes that do not fit the format") from error
