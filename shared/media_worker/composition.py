"""Objects composed of pieces of others: S3 copies the media, only what is small passes through this process."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from media_worker.errors import SourceChanged, TransferFailed
from media_worker.parts import Copied, Fetched, Literal, Part, Range
from media_worker.storage import (
    Condition,
    StoredObject,
    Target,
    is_changed,
    once,
    put_bytes,
    put_parts,
)

if TYPE_CHECKING:
    from media_worker.aws import Aws


def compose_once(aws: "Aws", sources: Sequence[StoredObject], parts: Sequence[Part], target: Target) -> bool:
    """Write an object made of these parts, once (see `storage.once`). Says whether it was written.

    Raises:
        SourceChanged: a source is another object now than when it was described.
    """

    def put(condition: Condition) -> None:
        if len(parts) == 1 and isinstance(parts[0], Fetched):
            put_bytes(aws, _fetch(aws, sources, parts[0]), target, condition)
            return
        put_parts(aws, target, condition, [partial(_put_part, aws, sources, target, part) for part in parts])

    return once(aws, target, put)


def read_range(aws: "Aws", source: StoredObject, offset: int, length: int) -> bytes:
    """Some bytes of an object, of the version that was described.

    Raises:
        SourceChanged: it is another one now.
        TransferFailed: S3 broke off, or the object ends before.
    """
    try:
        answer = aws.s3.get_object(
            Bucket=source.bucket,
            Key=source.key,
            Range=f"bytes={offset}-{offset + length - 1}",
            IfMatch=f'"{source.etag}"',
        )
        content = answer["Body"].read()
    except ClientError as error:
        if is_changed(error):
            raise SourceChanged(f"{source.uri} was replaced or removed while it was being read") from error
        raise
    except BotoCoreError as error:
        raise TransferFailed(f"{source.uri} could not be read: {error}") from error
    if len(content) != length:
        raise TransferFailed(f"{source.uri} gave {len(content)} bytes of {length} from {offset}")
    return content


def _put_part(
    aws: "Aws", sources: Sequence[StoredObject], target: Target, part: Fetched | Copied, upload_id: str, number: int
) -> str:
    """Send or copy one part; its ETag."""
    if isinstance(part, Fetched):
        body = _fetch(aws, sources, part)
        return aws.s3.upload_part(
            Bucket=target.bucket, Key=target.key, UploadId=upload_id, PartNumber=number, Body=body
        )["ETag"]
    return _copy(aws, sources[part.range.source], part.range, target, upload_id, number)


def _copy(aws: "Aws", source: StoredObject, piece: Range, target: Target, upload_id: str, number: int) -> str:
    try:
        copied = aws.s3.upload_part_copy(
            Bucket=target.bucket,
            Key=target.key,
            UploadId=upload_id,
            PartNumber=number,
            CopySource={"Bucket": source.bucket, "Key": source.key},
            CopySourceRange=f"bytes={piece.offset}-{piece.offset + piece.length - 1}",
            CopySourceIfMatch=f'"{source.etag}"',
        )
    except ClientError as error:
        # Of the calls with a condition this is one that is not ours to lose: the source has changed.
        if is_changed(error):
            raise SourceChanged(f"{source.uri} was replaced or removed while it was being copied") from error
        raise
    return copied["CopyPartResult"]["ETag"]


def _fetch(aws: "Aws", sources: Sequence[StoredObject], part: Fetched) -> bytes:
    return b"".join(
        piece.content
        if isinstance(piece, Literal)
        else read_range(aws, sources[piece.source], piece.offset, piece.length)
        for piece in part.pieces
    )
