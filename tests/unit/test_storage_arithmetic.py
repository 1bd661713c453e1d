"""Sizes of parts: within S3's limits for any object that S3 holds."""

from hypothesis import given
from hypothesis import strategies as st
from media_worker.s3 import MULTIPART_THRESHOLD_BYTES, StoredObject, is_made_of, part_size_bytes

MIB = 1024 * 1024
LARGEST_OBJECT_BYTES = 48 * 1024 * 1024 * MIB


@given(st.integers(MULTIPART_THRESHOLD_BYTES, LARGEST_OBJECT_BYTES))
def test_any_object_fits_into_ten_thousand_parts(size_bytes: int) -> None:
    """Each part has 5 MiB to 5 GiB, and there are 10,000 at most."""
    part_bytes = part_size_bytes(size_bytes)
    assert 5 * MIB <= part_bytes <= 5 * 1024 * MIB
    assert -(-size_bytes // part_bytes) <= 10_000


def test_parts_are_small_while_they_can_be() -> None:
    """16 MiB up to 160,000 MiB; then just as large as needed."""
    assert part_size_bytes(1) == part_size_bytes(160_000 * MIB) == 16 * MIB
    assert part_size_bytes(160_000 * MIB + 1) == 16 * MIB + 1


def test_an_object_says_of_which_source_it_was_made() -> None:
    """In its metadata; an object of somebody else's says nothing."""
    assert is_made_of(StoredObject("b", "k", 1, "x", {"source-etag": "abc"}), "abc")
    assert not is_made_of(StoredObject("b", "k", 1, "x", {"source-etag": "abc"}), "abd")
    assert not is_made_of(StoredObject("b", "k", 1, "x"), "")
    assert StoredObject("bucket", "a/key", 1, "x").uri == "s3://bucket/a/key"
