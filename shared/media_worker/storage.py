"""S3: looking at objects, fetching them by ranges in parallel, and writing each of ours exactly once."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError, S3ValidationError, TransferNotDoneError
from s3transfer.manager import TransferManager
from s3transfer.subscribers import BaseSubscriber
from s3transfer.utils import OSUtils

from media_worker.deadline import Deadline
from media_worker.errors import NotEnoughTime, SourceChanged, TransferFailed
from media_worker.parts import MAX_PARTS
from media_worker.telemetry import logger, submit

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import TagTypeDef

    from media_worker.aws import Aws


_MIB = 1024 * 1024
# Ranges of 16 MiB on 8 connections fill a Lambda's network; the queue of blocks that wait for the disk is kept
# short, because it is memory (100 blocks of 256 KiB; the library's default is 1,000). The threshold of 1 is for the
# ETag: only ranged requests carry it.
_DOWNLOAD = TransferConfig(multipart_threshold=1, multipart_chunksize=16 * _MIB, max_concurrency=8, max_io_queue=100)
MULTIPART_THRESHOLD_BYTES = 16 * _MIB
_PART_BYTES = 16 * _MIB
_PART_UPLOADS = 4
# CompleteMultipartUpload on a key that somebody else is writing answers 409: begin the upload anew.
_ATTEMPTS = 3

_ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})
_CHANGED = frozenset({"412", "PreconditionFailed"})
_CONFLICT = frozenset({"409", "ConditionalRequestConflict"})

# Metadata of all that we write: the ETag of the source it was made of.
SOURCE_ETAG = "source-etag"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as HEAD describes it. The ETag is without its quotes."""

    bucket: str
    key: str
    size_bytes: int
    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """`s3://bucket/key`."""
        return f"s3://{self.bucket}/{self.key}"


def describe(aws: "Aws", bucket: str, key: str) -> StoredObject | None:
    """What S3 knows of an object, or None when it is absent."""
    try:
        head = aws.s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if _code(error) in _ABSENT:
            return None
        raise
    return StoredObject(bucket, key, head["ContentLength"], head["ETag"].strip('"'), head["Metadata"])


@contextmanager
def downloads(aws: "Aws") -> Iterator[TransferManager]:
    """The threads that `download` uses."""
    with TransferManager(aws.s3, _DOWNLOAD) as manager:
        yield manager


def download(manager: TransferManager, stored: StoredObject, path: Path, deadline: Deadline) -> None:
    """Fetch an object to a file: in parallel, by ranges, each for the ETag that was described.

    Raises:
        SourceChanged: the object is another one now.
        NotEnoughTime: the invocation's time ran out; the transfer was cancelled.
        TransferFailed: S3 broke it off.
    """
    finished = _Finished(stored)
    future = manager.download(stored.bucket, stored.key, str(path), subscribers=[finished])
    if not finished.event.wait(deadline.remaining_s()):
        future.cancel()
        raise NotEnoughTime(f"the time ran out while {stored.uri} was downloaded")
    try:
        future.result()
    except S3DownloadFailedError as error:  # s3transfer's word for 412
        raise SourceChanged(f"{stored.uri} was replaced while it was being read") from error
    except ClientError as error:
        if _code(error) in _ABSENT:
            raise SourceChanged(f"{stored.uri} was removed while it was being read") from error
        raise
    except (BotoCoreError, RetriesExceededError, S3ValidationError, TransferNotDoneError) as error:
        raise TransferFailed(f"{stored.uri} could not be downloaded: {error}") from error


class _Finished(BaseSubscriber):
    """Tells the transfer what it would ask S3 for, and us when it ends."""

    def __init__(self, stored: StoredObject) -> None:
        self._stored = stored
        self.event = threading.Event()

    def on_queued(self, future: Any, **_: Any) -> None:
        future.meta.provide_transfer_size(self._stored.size_bytes)
        future.meta.provide_object_etag(f'"{self._stored.etag}"')

    def on_done(self, future: Any, **_: Any) -> None:
        del future
        self.event.set()


@dataclass(frozen=True, slots=True)
class Target:
    """Where an object of ours goes, and the ETag of the source it is made of."""

    bucket: str
    key: str
    source_etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, Any]:
        """What S3 is told of the object when it is begun."""
        return {"ContentType": "video/mp4", "Metadata": {SOURCE_ETAG: self.source_etag, **self.metadata}}


type Condition = Mapping[str, str]
type PutPart = Callable[[str, int], str]

_IF_ABSENT: Condition = {"IfNoneMatch": "*"}


def write_once(aws: "Aws", path: Path, target: Target) -> bool:
    """Upload a file, once (see `once`). Says whether it was written."""
    return once(aws, target, lambda condition: _put_file(aws, path, target, condition))


def once(aws: "Aws", target: Target, put: Callable[[Condition], None]) -> bool:
    """Write an object unless the one made of the same source is there already. Says whether it was written.

    A PUT of a segment starts a machine, so nothing is written twice: the write is conditional
    (https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html). A leftover of another source is
    replaced, if nobody else replaces it meanwhile.
    """
    condition = _IF_ABSENT
    for _ in range(_ATTEMPTS):
        try:
            put(condition)
        except ClientError as error:
            if _code(error) in _CONFLICT | _ABSENT:  # absent: the leftover to replace was removed
                condition = _IF_ABSENT
                continue
            if _code(error) not in _CHANGED:
                raise
            there = describe(aws, target.bucket, target.key)
            if there and is_made_of(there, target.source_etag):
                return False
            condition = {"IfMatch": there.etag} if there else _IF_ABSENT
            logger.info("replacing a leftover of another source", key=target.key)
        else:
            return True
    raise TransferFailed(f"s3://{target.bucket}/{target.key} is being written by somebody else")


def is_made_of(stored: StoredObject, source_etag: str) -> bool:
    """Whether an object of ours was made of the source with this ETag."""
    return stored.metadata.get(SOURCE_ETAG) == source_etag


def put_bytes(aws: "Aws", body: "bytes | BinaryIO", target: Target, condition: Condition) -> None:
    """Write an object in one request."""
    headers = {**target.headers, **condition}
    aws.s3.put_object(Bucket=target.bucket, Key=target.key, Body=body, **headers)


def put_parts(aws: "Aws", target: Target, condition: Condition, puts: Sequence[PutPart]) -> None:
    """Write an object by a multipart upload: each of `puts` sends one part, given the upload's id and its number, and
    answers with the part's ETag. A few run at once; after an error the upload is given up.
    """
    place: dict[str, Any] = {"Bucket": target.bucket, "Key": target.key}
    upload_id = aws.s3.create_multipart_upload(**place, **target.headers)["UploadId"]
    pool = ThreadPoolExecutor(_PART_UPLOADS)
    try:
        sent = [submit(pool, put, upload_id, number) for number, put in enumerate(puts, start=1)]
        parts = [{"PartNumber": number, "ETag": part.result()} for number, part in enumerate(sent, start=1)]
        end: dict[str, Any] = {"UploadId": upload_id, "MultipartUpload": {"Parts": parts}, **condition}
        aws.s3.complete_multipart_upload(**place, **end)
    except BaseException:
        pool.shutdown(cancel_futures=True)
        _abort(aws, target.bucket, target.key, upload_id)
        raise
    finally:
        pool.shutdown()


def _put_file(aws: "Aws", path: Path, target: Target, condition: Condition) -> None:
    size_bytes = path.stat().st_size
    if size_bytes < MULTIPART_THRESHOLD_BYTES:
        with path.open("rb") as body:
            put_bytes(aws, body, target, condition)
        return
    part_bytes = part_size_bytes(size_bytes)

    def put_slice(offset: int, upload_id: str, number: int) -> str:
        """Send one part, streamed from the disk."""
        with OSUtils().open_file_chunk_reader(str(path), offset, part_bytes, []) as body:
            content = cast("BinaryIO", body)  # it reads and seeks like a file
            return aws.s3.upload_part(
                Bucket=target.bucket, Key=target.key, UploadId=upload_id, PartNumber=number, Body=content
            )["ETag"]

    put_parts(aws, target, condition, [partial(put_slice, offset) for offset in range(0, size_bytes, part_bytes)])


def _abort(aws: "Aws", bucket: str, key: str, upload_id: str) -> None:
    """Give up an upload, without hiding why: it may be gone already, and a lifecycle rule removes what stays."""
    try:
        aws.s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)
    except (BotoCoreError, ClientError) as error:
        logger.warning("an incomplete upload was not removed", key=key, reason=str(error))


def remove_incomplete(aws: "Aws", bucket: str, prefix: str) -> None:
    """Abort the uploads below a prefix that nobody will complete.

    A process that died left its own; so did an answer to CreateMultipartUpload that was lost, for the SDK asked again.
    Called by the holder of the job's lease, so none of these is alive.
    """
    pages = aws.s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
    for upload in [upload for page in pages for upload in page.get("Uploads", [])]:
        logger.info("removing an incomplete upload", key=upload["Key"])
        _abort(aws, bucket, upload["Key"], upload["UploadId"])


def let_expire(aws: "Aws", bucket: str, key: str) -> None:
    """Have the output bucket's lifecycle rule remove an object, as it removes processed segments: by their tag.

    The functions may delete nothing, so that no error of ours can cost a film.
    """
    tag: TagTypeDef = {"Key": "kind", "Value": "processed-segment"}
    aws.s3.put_object_tagging(Bucket=bucket, Key=key, Tagging={"TagSet": [tag]})


def part_size_bytes(size_bytes: int) -> int:
    """The part size for an object: 16 MiB, or what 10,000 parts need
    (https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
    """
    return max(_PART_BYTES, -(-size_bytes // MAX_PARTS))


def is_changed(error: ClientError) -> bool:
    """Whether a conditional read or copy found another object than the one asked for, or none."""
    return _code(error) in _CHANGED | _ABSENT


def _code(error: ClientError) -> str:
    return error.response["Error"]["Code"]
