"""Ranges of an object are read at the same time."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest
from media_worker.errors import SourceChanged
from media_worker.s3 import StoredObject, parallel_reads

CONTENT = bytes(range(256)) * 40
OBJECT = StoredObject("bucket", "key", len(CONTENT), "etag")


class S3:
    """Answers when `together` requests are waiting, so a caller that reads one after the other never gets an answer."""

    def __init__(self, together: int) -> None:
        self._barrier = threading.Barrier(together, timeout=20)

    def get_object(self, Range: str, IfMatch: str, **_: str) -> dict[str, Any]:  # noqa: N803
        assert IfMatch == '"etag"'
        self._barrier.wait()
        first, last = map(int, Range.removeprefix("bytes=").split("-"))
        return {"Body": SimpleNamespace(read=lambda: CONTENT[first : last + 1])}


def aws(together: int) -> Any:
    return cast("Any", SimpleNamespace(s3=S3(together)))


def test_ranges_are_read_at_the_same_time() -> None:
    """And returned in the order of the requests."""
    ranges = [(1000 - 7 * number, number + 1) for number in range(20)]
    with parallel_reads(aws(20), OBJECT) as read:
        assert read(ranges) == [CONTENT[offset : offset + length] for offset, length in ranges]


def test_one_range_needs_no_thread() -> None:
    """It is read by the caller."""
    before = threading.active_count()
    with parallel_reads(aws(1), OBJECT) as read:
        assert read([(5, 3)]) == [CONTENT[5:8]]
        assert threading.active_count() == before


def test_an_error_of_a_range_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller sees that the object was replaced."""

    def changed(*_: object) -> bytes:
        raise SourceChanged("s3://bucket/key was replaced")

    monkeypatch.setattr("media_worker.s3.read_range", changed)
    with parallel_reads(aws(1), OBJECT) as read, pytest.raises(SourceChanged):
        read([(0, 1), (1, 1)])
