"""The errors of this package.

Mp4Error
├── Unsupported     valid, or not an MP4 at all, but this package cannot rewrite it; ffmpeg may be able to
├── Encrypted       no tool can decode the samples without the key: permanent, and not a case for ffmpeg
├── BrokenFile      contradicts itself: a table larger than its box, no index, offsets that overflow
└── TracksDiffer    the segments cannot be joined into one movie; names the segment
"""

import struct
from collections.abc import Iterator
from contextlib import contextmanager


class Mp4Error(Exception):
    """Base class of the errors that this package raises about a file."""


class Unsupported(Mp4Error):
    """The file may be valid, but its index cannot be rewritten exactly."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Encrypted(Mp4Error):
    """The samples are encrypted. `reason` says where that was found."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the file is encrypted ({reason})")
        self.reason = reason


class BrokenFile(Mp4Error):
    """The file contradicts itself."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TracksDiffer(Mp4Error):
    """A segment cannot be joined with the other segments."""

    def __init__(self, segment_index: int, reason: str) -> None:
        super().__init__(f"segment {segment_index} cannot be joined with the others: {reason}")
        self.segment_index = segment_index
        self.reason = reason


@contextmanager
def overflow_is_unsupported() -> Iterator[None]:
    """Turn an integer overflow into `Unsupported`.

    Only damaged or hostile files have times and offsets that no box can hold, such as one sample of 20 hours. The
    integers of `array` and `struct` have limits, so the code that computes with them does not check each number.
    """
    try:
        yield
    except (OverflowError, struct.error) as error:
        raise Unsupported("a time, size or offset exceeds what an MP4 file can store") from error
