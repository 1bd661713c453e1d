"""How byte ranges become the parts of a multipart upload."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_worker.byte_ranges import (
    MAX_PARTS,
    MIN_PART_BYTES,
    UPLOAD_PART_BYTES,
    ByteRange,
    Content,
    CopiedPart,
    Part,
    TooManyParts,
    UploadedPart,
    length_of,
    plan_parts,
    total_bytes,
)

MIB = 1024 * 1024
SOURCES = 4

ranges = st.builds(
    ByteRange,
    source=st.integers(0, SOURCES - 1),
    offset=st.integers(0, 2**40),
    length=st.one_of(st.integers(0, 6 * MIB), st.integers(0, 2**36)),
)
contents_lists = st.lists(st.binary(max_size=200) | ranges, max_size=30)
local_sources = st.frozensets(st.integers(0, SOURCES - 1))


def flat(contents: Sequence[Content]) -> list[tuple[object, int, int]]:
    """The contents as (bytes or source, begin, end), with adjacent ranges merged."""
    merged: list[tuple[object, int, int]] = []
    for content in contents:
        if not length_of(content):
            continue
        if isinstance(content, bytes):
            merged.append((content, 0, len(content)))
        elif merged and merged[-1][0] == content.source and merged[-1][2] == content.offset:
            merged[-1] = (content.source, merged[-1][1], content.end)
        else:
            merged.append((content.source, content.offset, content.end))
    return merged


def contents_of(parts: Sequence[Part]) -> list[Content]:
    return [
        content for part in parts for content in (part.contents if isinstance(part, UploadedPart) else (part.range,))
    ]


@given(ranges, st.data())
def test_a_range_is_split_into_two_adjacent_ranges(whole: ByteRange, data: st.DataObject) -> None:
    """Together they are the whole."""
    at = data.draw(st.integers(0, whole.length))
    head, rest = whole.split(at)
    assert (head.offset, head.end, rest.end) == (whole.offset, rest.offset, whole.end)
    assert head.length == at


@given(contents_lists, local_sources)
def test_the_parts_are_exactly_the_contents(contents: list[Content], local: frozenset[int]) -> None:
    """No byte is lost, repeated or moved."""
    parts = plan_parts(contents, local)
    assert flat(contents_of(parts)) == flat(contents)
    assert sum(part.length for part in parts) == total_bytes(contents)


@given(contents_lists, local_sources)
def test_every_part_but_the_last_has_5_mib(contents: list[Content], local: frozenset[int]) -> None:
    """S3 refuses a smaller part only when the upload is completed, which is too late."""
    parts = plan_parts(contents, local)
    assert all(part.length >= MIN_PART_BYTES for part in parts[:-1])
    assert all(part.length > 0 for part in parts)


@given(contents_lists, local_sources)
def test_every_copied_part_has_5_mib(contents: list[Content], local: frozenset[int]) -> None:
    """The last part too: S3 does not copy a smaller range as a part of a multipart upload."""
    copied = [part for part in plan_parts(contents, local) if isinstance(part, CopiedPart)]
    assert all(part.length >= MIN_PART_BYTES for part in copied)


@given(contents_lists, local_sources)
def test_local_files_are_uploaded(contents: list[Content], local: frozenset[int]) -> None:
    """S3 can only copy from objects."""
    copied = [part for part in plan_parts(contents, local) if isinstance(part, CopiedPart)]
    assert not local & {part.range.source for part in copied}


@given(contents_lists, local_sources)
def test_an_uploaded_part_is_small(contents: list[Content], local: frozenset[int]) -> None:
    """It is in memory while it is sent. Only an object of more than 40 GB has larger ones."""
    uploaded = [part for part in plan_parts(contents, local) if isinstance(part, UploadedPart)]
    limit = max(UPLOAD_PART_BYTES, -(-total_bytes(contents) * 2 // MAX_PARTS))
    assert all(part.length <= limit + 200 for part in uploaded)


def test_a_header_is_filled_up_from_the_range_behind_it() -> None:
    """The rest of the range is copied in parts of equal size."""
    parts = plan_parts([b"h" * 100, ByteRange(0, 1000, 1205 * MIB)], copy_part_bytes=512 * MIB)
    head = MIN_PART_BYTES - 100
    assert parts[0] == UploadedPart((b"h" * 100, ByteRange(0, 1000, head)))
    assert [type(part) for part in parts[1:]] == [CopiedPart] * 3
    assert max(part.length for part in parts[1:]) - min(part.length for part in parts[1:]) <= 1


def test_small_ranges_share_a_part() -> None:
    """A file with bad interleaving takes a few parts, not one for each range."""
    parts = plan_parts([ByteRange(0, number * 10_000, 4_000) for number in range(10_000)])
    assert {type(part) for part in parts} == {UploadedPart}
    assert len(parts) == 5


def test_a_local_file_is_uploaded_in_parts() -> None:
    """Its last part may be small."""
    parts = plan_parts([ByteRange(0, 0, 2 * UPLOAD_PART_BYTES + 1)], frozenset({0}))
    assert [part.length for part in parts] == [UPLOAD_PART_BYTES, UPLOAD_PART_BYTES, 1]


def test_a_video_of_100_gb_has_few_parts() -> None:
    """200 segments of 500 MB take eight copied parts each."""
    assert len(plan_parts([b"moov", *(ByteRange(number, 0, 500 * 10**6) for number in range(200))])) == 1601


def test_a_very_large_object_fits_into_the_parts_that_s3_allows() -> None:
    """2 TB in one range, copied or uploaded: the parts are larger."""
    for local in (frozenset({0}), frozenset[int]()):
        assert len(plan_parts([ByteRange(0, 0, 2 * 10**12)], local)) <= 5_001


def test_too_many_parts_are_an_error_before_the_first_is_sent() -> None:
    """A multipart upload has at most 10,000."""
    segments = [ByteRange(number, 0, MIN_PART_BYTES) for number in range(MAX_PARTS)]
    assert len(plan_parts(segments)) == MAX_PARTS
    with pytest.raises(TooManyParts, match="10001 parts"):
        plan_parts([*segments, ByteRange(MAX_PARTS, 0, MIN_PART_BYTES)])
