"""Small multipart parts, so that a short clip is enough for a multipart upload."""

import pytest
from media_worker import byte_ranges
from media_worker.byte_ranges import plan_parts


def use_small_parts(patch: pytest.MonkeyPatch, min_bytes: int, *, upload_bytes: int, copy_bytes: int) -> None:
    """Use parts of these sizes instead of S3's. The server must accept them too."""
    defaults = plan_parts.__kwdefaults__
    assert defaults is not None
    patch.setattr(byte_ranges, "MIN_PART_BYTES", min_bytes)
    patch.setitem(defaults, "upload_part_bytes", upload_bytes)
    patch.setitem(defaults, "copy_part_bytes", copy_bytes)
