"""Uploading a source in parts. An upload that broke off is resumed: S3 keeps the parts that it has.

A part that S3 has is kept if its ETag is the MD5 of the same bytes of the file. If the file was changed, or the bucket
encrypts with KMS (whose ETags are no MD5), the part is uploaded again.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from media_worker.s3 import describe

if TYPE_CHECKING:
    from media_worker.aws import Aws

MIN_PART_BYTES = 8 * 1024 * 1024
_MAX_PARTS = 10_000
_PARTS_AT_ONCE = 8
_CONTENT_TYPE = "video/mp4"


@dataclass(frozen=True, slots=True)
class Part:
    """A byte range of the file. `number` is from 1."""

    number: int
    offset: int
    size_bytes: int

    def read(self, path: Path) -> bytes:
        """The bytes."""
        with path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size_bytes)


def plan_parts(size_bytes: int) -> list[Part]:
    """Parts of equal size; only the last may be smaller. The size alone decides, so a resumed upload has the same."""
    part_bytes = max(MIN_PART_BYTES, -(-size_bytes // _MAX_PARTS))
    offsets = range(0, size_bytes, part_bytes)
    return [
        Part(number, offset, min(part_bytes, size_bytes - offset)) for number, offset in enumerate(offsets, start=1)
    ]


def upload(aws: "Aws", path: Path, bucket: str, key: str, on_bytes: Callable[[int], None]) -> None:
    """Upload a file, or the parts of it that are missing. `on_bytes` is called with the size of each part.

    If this raises, the parts that were uploaded stay, and the next call with the same file goes on.
    """
    size_bytes = path.stat().st_size
    parts = plan_parts(size_bytes)
    if len(parts) <= 1:
        aws.s3.put_object(Bucket=bucket, Key=key, Body=path.read_bytes(), ContentType=_CONTENT_TYPE)
        on_bytes(size_bytes)
        return
    upload_id, present = _find_upload(aws, bucket, key)
    if upload_id is None:
        if (found := describe(aws, bucket, key)) and found.size_bytes == size_bytes:
            on_bytes(size_bytes)
            return  # the earlier attempt was completed, but its answer was lost
        upload_id = aws.s3.create_multipart_upload(Bucket=bucket, Key=key, ContentType=_CONTENT_TYPE)["UploadId"]
    address: dict[str, Any] = {"Bucket": bucket, "Key": key, "UploadId": upload_id}

    def send(part: Part) -> str:
        body = part.read(path)
        etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
        if present.get(part.number) != etag:
            etag = aws.s3.upload_part(**address, PartNumber=part.number, Body=body)["ETag"]
        on_bytes(part.size_bytes)
        return etag

    pool = ThreadPoolExecutor(_PARTS_AT_ONCE)
    try:
        etags = list(pool.map(send, parts))
    finally:
        pool.shutdown(cancel_futures=True)
    completed = [{"PartNumber": part.number, "ETag": etag} for part, etag in zip(parts, etags, strict=True)]
    aws.s3.complete_multipart_upload(**address, MultipartUpload={"Parts": completed})  # type: ignore[typeddict-item]


def _find_upload(aws: "Aws", bucket: str, key: str) -> tuple[str | None, dict[int, str]]:
    """The newest incomplete upload of this key, and the ETags of its parts."""
    pages = aws.s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=key)
    uploads = [each for page in pages for each in page.get("Uploads", []) if each["Key"] == key]
    if not uploads:
        return None, {}
    upload_id = max(uploads, key=lambda each: each["Initiated"])["UploadId"]
    listed = aws.s3.get_paginator("list_parts").paginate(Bucket=bucket, Key=key, UploadId=upload_id)
    return upload_id, {part["PartNumber"]: part["ETag"] for page in listed for part in page.get("Parts", [])}
