"""S3: describing objects, ranged reads, parallel downloads, and writing each of our objects exactly once.

An object is written from data: `write_once(aws, target, contents, sources)`. Contents are bytes at hand and byte
ranges of the sources; ranges of other objects are copied by S3, ranges of local files are uploaded.
"""

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.exceptions import RetriesExceededError, S3DownloadFailedError, S3ValidationError, TransferNotDoneError
from s3transfer.manager import TransferManager
from s3transfer.subscribers import BaseSubscriber

from media_worker.best_effort import best_effort
from media_worker.byte_ranges import ByteRange, Content, Part, UploadedPart, coalesced, plan_parts
from media_worker.deadline import Deadline, Hold
from media_worker.errors import NotEnoughTime, SourceChanged, TransferFailed
from media_worker.telemetry import logger, submit

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import TagTypeDef

    from media_worker.aws import Aws


_MIB = 1024 * 1024
# Ranges of 16 MiB on 8 connections fill a Lambda's network. The queue of blocks that wait for the disk is kept
# short, because it is memory (100 blocks of 256 KiB; the library's default is 1,000). The threshold of 1 is for the
# ETag: only ranged requests carry it.
_DOWNLOAD = TransferConfig(multipart_threshold=1, multipart_chunksize=16 * _MIB, max_concurrency=8, max_io_queue=100)
# Part copies wait for S3 alone, so many run at once: 16, because with more of them the earlier segments are complete
# later (docs/performance.md). A part that is uploaded is in memory: fewer of these.
PARTS_AT_ONCE = 16
_UPLOADS_AT_ONCE = threading.BoundedSemaphore(4)
_READS_OF_A_PART = 8
# Reading an object from its start to its end: 8 connections of 8 MiB, like a download.
_FORWARD_BYTES = 8 * _MIB
_FORWARD_READS = 8
_READS_AT_ONCE = 32
# CompleteMultipartUpload answers 409 for a key that another process is writing: begin that upload again
# (https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html).
_ATTEMPTS = 3

_ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})
_CHANGED = frozenset({"412", "PreconditionFailed"})
_CONFLICT = frozenset({"409", "ConditionalRequestConflict"})
# The answer to a range of an object of 0 bytes.
_EMPTY = "InvalidRange"

# Metadata of every object that we write: the digest of the plan it belongs to. Jobs planned by other software have no
# plan; their objects carry the ETag of the source instead.
PLAN = "plan"
SOURCE_ETAG = "source-etag"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as HEAD describes it. The ETag is without its quotes."""

    bucket: str
    key: str
    size_bytes: int
    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    # Unix seconds.
    modified_at: float = field(default=0, compare=False)
    # Its first bytes, if they were read with the description.
    start: bytes = field(default=b"", compare=False, repr=False)

    @property
    def uri(self) -> str:
        """`s3://bucket/key`."""
        return f"s3://{self.bucket}/{self.key}"


# Where the byte ranges of a new object come from.
Source: TypeAlias = StoredObject | Path


@dataclass(frozen=True, slots=True)
class Target:
    """Where a new object goes, and what it is made from.

    `identity` is a metadata entry, such as ("plan", digest). `replaces` is the ETag of an object of the same identity
    that is to be overwritten.
    """

    bucket: str
    key: str
    identity: tuple[str, str]
    metadata: Mapping[str, str] = field(default_factory=dict)
    replaces: str | None = None
    # The lease under which the object is written.
    hold: Hold | None = None
    # An existing object of the same identity is overwritten if it is older than this, in Unix seconds.
    not_before: float = 0

    def is_met_by(self, existing: StoredObject | None) -> bool:
        """Whether this object is there already."""
        return (
            existing is not None and has_identity(existing, self.identity) and existing.modified_at >= self.not_before
        )

    @property
    def address(self) -> dict[str, Any]:
        """Bucket and key as request parameters."""
        return {"Bucket": self.bucket, "Key": self.key}

    @property
    def headers(self) -> dict[str, Any]:
        """Content type and metadata as request parameters."""
        return {"ContentType": "video/mp4", "Metadata": {**self.metadata, self.identity[0]: self.identity[1]}}


def describe(aws: "Aws", bucket: str, key: str) -> StoredObject | None:
    """What S3 knows about an object, or None when it is absent."""
    try:
        head = aws.s3.head_object(Bucket=bucket, Key=key)
    except ClientError as error:
        if _code(error) in _ABSENT:
            return None
        raise
    etag, modified_at = head["ETag"].strip('"'), head["LastModified"].timestamp()
    return StoredObject(bucket, key, head["ContentLength"], etag, head["Metadata"], modified_at)


def describe_with_start(aws: "Aws", bucket: str, key: str, start_bytes: int) -> StoredObject | None:
    """Like `describe`, with the object's first bytes, which `read_range` then has at hand: one request instead of two.

    Raises:
        TransferFailed: S3 broke off the transfer.
    """
    try:
        answer = aws.s3.get_object(Bucket=bucket, Key=key, Range=f"bytes=0-{start_bytes - 1}")
        start = answer["Body"].read()
    except ClientError as error:
        if _code(error) == _EMPTY:
            return describe(aws, bucket, key)
        if _code(error) in _ABSENT:
            return None
        raise
    except BotoCoreError as error:
        raise TransferFailed(f"s3://{bucket}/{key} could not be read: {error}") from error
    size_bytes = int(answer["ContentRange"].rpartition("/")[2])
    etag, modified_at = answer["ETag"].strip('"'), answer["LastModified"].timestamp()
    return StoredObject(bucket, key, size_bytes, etag, answer["Metadata"], modified_at, start)


def has_identity(stored: StoredObject, identity: tuple[str, str]) -> bool:
    """Whether one of our objects was made from this."""
    return stored.metadata.get(identity[0]) == identity[1]


# Reading -------------------------------------------------------------------------------------------------------------


def read_range(aws: "Aws", source: StoredObject, offset: int, length: int) -> bytes:
    """Some bytes of an object, of exactly the version that was described.

    Raises:
        SourceChanged: the object was replaced or removed.
        TransferFailed: S3 broke off the transfer, or the object ends earlier.
    """
    if offset + length <= len(source.start):
        return source.start[offset : offset + length]
    try:
        answer = aws.s3.get_object(
            Bucket=source.bucket,
            Key=source.key,
            Range=f"bytes={offset}-{offset + length - 1}",
            IfMatch=f'"{source.etag}"',
        )
        content = answer["Body"].read()
    except ClientError as error:
        if _is_changed(error):
            raise SourceChanged(f"{source.uri} was replaced or removed while it was being read") from error
        raise
    except BotoCoreError as error:
        raise TransferFailed(f"{source.uri} could not be read: {error}") from error
    if len(content) != length:
        raise TransferFailed(f"{source.uri} returned {len(content)} of {length} bytes from offset {offset}")
    return content


def read_ranges(aws: "Aws", source: StoredObject, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Several byte ranges (offset, length) of an object, read at the same time; like `read_range` for each."""
    if len(ranges) == 1:
        return [read_range(aws, source, *ranges[0])]
    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        reads = [submit(pool, read_range, aws, source, *each) for each in ranges]
        return [read.result() for read in reads]


def read_object(aws: "Aws", bucket: str, key: str) -> tuple[bytes, str] | None:
    """The bytes and the ETag of a small object, or None when it is absent."""
    try:
        answer = aws.s3.get_object(Bucket=bucket, Key=key)
        return answer["Body"].read(), answer["ETag"].strip('"')
    except ClientError as error:
        if _code(error) in _ABSENT:
            return None
        raise
    except BotoCoreError as error:
        raise TransferFailed(f"s3://{bucket}/{key} could not be read: {error}") from error


def read_forward(aws: "Aws", source: StoredObject) -> Generator[bytes]:
    """All bytes of an object in order, by ranged requests in parallel.

    It reads ahead further the longer it goes on, so that a reader who needs the beginning only costs little. At most
    64 MiB wait in memory.

    Raises:
        SourceChanged: the object was replaced or removed.
        TransferFailed: S3 broke off the transfer.
    """
    offsets = iter(range(0, source.size_bytes, _FORWARD_BYTES))
    waiting: deque[Future[bytes]] = deque()
    pool = ThreadPoolExecutor(_FORWARD_READS)
    try:
        for ahead in chain(range(1, _FORWARD_READS), repeat(_FORWARD_READS)):
            for offset in islice(offsets, ahead - len(waiting)):
                length = min(_FORWARD_BYTES, source.size_bytes - offset)
                waiting.append(submit(pool, read_range, aws, source, offset, length))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def downloads(aws: "Aws") -> Iterator[TransferManager]:
    """The threads that `download` uses."""
    with TransferManager(aws.s3, _DOWNLOAD) as manager:
        yield manager


def download(manager: TransferManager, stored: StoredObject, path: Path, deadline: Deadline) -> None:
    """Download an object to a file in parallel ranges, of exactly the version that was described.

    Raises:
        SourceChanged: the object was replaced or removed.
        NotEnoughTime: the invocation's time ran out; the transfer was cancelled.
        TransferFailed: S3 broke off the transfer.
    """
    finished = _Finished(stored)
    future = manager.download(stored.bucket, stored.key, str(path), subscribers=[finished])
    if not finished.event.wait(deadline.remaining_s()):
        future.cancel()
        raise NotEnoughTime(f"the time ran out while {stored.uri} was being downloaded")
    try:
        future.result()
    except S3DownloadFailedError as error:  # s3transfer raises this for 412
        raise SourceChanged(f"{stored.uri} was replaced while it was being read") from error
    except ClientError as error:
        if _code(error) in _ABSENT:
            raise SourceChanged(f"{stored.uri} was removed while it was being read") from error
        raise
    except (BotoCoreError, RetriesExceededError, S3ValidationError, TransferNotDoneError) as error:
        raise TransferFailed(f"{stored.uri} could not be downloaded: {error}") from error


class _Finished(BaseSubscriber):
    """Tells s3transfer the size and ETag, so that it need not ask S3, and sets an event at the end."""

    def __init__(self, stored: StoredObject) -> None:
        self._stored = stored
        self.event = threading.Event()

    def on_queued(self, future: Any, **_: Any) -> None:
        future.meta.provide_transfer_size(self._stored.size_bytes)
        future.meta.provide_object_etag(f'"{self._stored.etag}"')

    def on_done(self, future: Any, **_: Any) -> None:
        del future
        self.event.set()


# Writing -------------------------------------------------------------------------------------------------------------


def write_once(
    aws: "Aws",
    target: Target,
    contents: Sequence[Content],
    sources: Sequence[Source] = (),
    *,
    look_first: bool = False,
    pool: Executor | None = None,
) -> bool:
    """Write an object unless the one with the same identity exists already. Says whether it was written.

    Each PUT of a segment triggers a worker, so the write is conditional and nothing is written twice
    (https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html). An object with another identity is
    replaced, and so is one that `target` names or that is too old, unless another process replaces it at the same time.
    With `look_first` the object is looked for before anything is transferred: a retry is likely to find it. Writes that
    share a `pool` have their parts transferred in the order of the calls.

    Raises:
        SourceChanged: a source object was replaced or removed.
        TransferFailed: another process is writing the same object.
        LeaseLost: the object may have been written by the invocation that has taken over the lease.
        TooManyParts: S3 does not allow that many parts.
    """
    existing = describe(aws, target.bucket, target.key) if look_first else None
    if target.is_met_by(existing):
        return False
    parts = plan_parts(contents, frozenset(n for n, source in enumerate(sources) if isinstance(source, Path)))
    condition: dict[str, Any] = {"IfMatch": target.replaces} if target.replaces else _replacing(target, existing)
    for _ in range(_ATTEMPTS):
        try:
            with nullcontext(pool) if pool else ThreadPoolExecutor(PARTS_AT_ONCE) as executor:
                _write(aws, target, parts, sources, condition, executor)
        except ClientError as error:
            if _code(error) in _CONFLICT | _ABSENT:  # absent: the object to be replaced was removed
                condition = {"IfNoneMatch": "*"}
                continue
            if _code(error) not in _CHANGED:
                raise
            existing = describe(aws, target.bucket, target.key)
            if target.is_met_by(existing):
                return False
            condition = _replacing(target, existing)
        else:
            return True
    raise TransferFailed(f"s3://{target.bucket}/{target.key} is being written by another process")


def _replacing(target: Target, existing: StoredObject | None) -> dict[str, Any]:
    """The condition under which an object that was found is replaced, or one that is absent is written.

    Raises:
        LeaseLost: the object may have been written by the invocation that has taken over the lease.
    """
    if existing is None:
        return {"IfNoneMatch": "*"}
    if target.hold:  # after the look: what a successor has written is never replaced
        target.hold.require()
    logger.info("Replacing an object of another plan or run", event="object_replaced", key=target.key)
    return {"IfMatch": existing.etag}


def put_document(aws: "Aws", bucket: str, key: str, body: bytes, hold: Hold) -> None:
    """Write a small JSON object, in place of the one that is there. It is looked for only if S3 refuses to write a new
    one: most jobs have none.

    Raises:
        LeaseLost: the object that is there may be that of the invocation that has taken over the lease.
        TransferFailed: another process wrote it at the same time.
    """
    condition: dict[str, Any] = {"IfNoneMatch": "*"}
    for _ in range(2):
        try:
            aws.s3.put_object(Bucket=bucket, Key=key, Body=body, ContentType="application/json", **condition)
        except ClientError as error:
            if _code(error) not in _CHANGED | _CONFLICT | _ABSENT:
                raise
        else:
            return
        found = read_object(aws, bucket, key)
        if found and found[0] == body:
            return  # of an earlier attempt, or our own: the SDK repeats a call whose answer was lost
        hold.require()  # after the look: what a successor has written is never replaced
        condition = {"IfMatch": found[1]} if found else {"IfNoneMatch": "*"}
    raise TransferFailed(f"s3://{bucket}/{key} was written by another process at the same time")


def _write(
    aws: "Aws",
    target: Target,
    parts: Sequence[Part],
    sources: Sequence[Source],
    condition: dict[str, Any],
    pool: Executor,
) -> None:
    """One conditional write: a single PUT when one uploaded part is all there is, else a multipart upload."""
    if len(parts) == 1 and isinstance(parts[0], UploadedPart):
        with _UPLOADS_AT_ONCE:
            body = _assemble(aws, parts[0], sources)
            aws.s3.put_object(**target.address, Body=body, **{**target.headers, **condition})
        return
    upload: dict[str, Any] = {
        **target.address,
        "UploadId": aws.s3.create_multipart_upload(**target.address, **target.headers)["UploadId"],
    }
    sent: list[Future[str]] = []
    try:
        sent += [
            submit(pool, _send_part, aws, part, sources, {**upload, "PartNumber": number})
            for number, part in enumerate(parts, start=1)
        ]
        etags: list[Any] = [{"PartNumber": number, "ETag": part.result()} for number, part in enumerate(sent, start=1)]
        aws.s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": etags}, **condition)
    except BaseException:
        for part in sent:
            part.cancel()
        wait(sent)  # a part that arrives after the abort would stay
        _abort(aws, target.bucket, target.key, upload["UploadId"])
        raise


def _send_part(aws: "Aws", part: Part, sources: Sequence[Source], address: dict[str, Any]) -> str:
    """Upload one part, or have S3 copy it. Returns its ETag."""
    if isinstance(part, UploadedPart):
        with _UPLOADS_AT_ONCE:
            return aws.s3.upload_part(**address, Body=_assemble(aws, part, sources))["ETag"]
    source = sources[part.range.source]
    assert isinstance(source, StoredObject)  # ranges of local files are never copied parts
    try:
        copied = aws.s3.upload_part_copy(
            **address,
            CopySource={"Bucket": source.bucket, "Key": source.key},
            CopySourceRange=f"bytes={part.range.offset}-{part.range.end - 1}",
            CopySourceIfMatch=f'"{source.etag}"',
        )
    except ClientError as error:
        # Not the condition on the target: here it is the source that has changed.
        if _is_changed(error):
            raise SourceChanged(f"{source.uri} was replaced or removed while it was being copied") from error
        raise
    return copied["CopyPartResult"]["ETag"]


def _assemble(aws: "Aws", part: UploadedPart, sources: Sequence[Source]) -> bytes:
    """The bytes of a part. Neighbouring ranges are read together, and all reads run in parallel."""
    wanted = {content for content in part.contents if isinstance(content, ByteRange)}
    reads = coalesced(wanted)
    found: dict[ByteRange, bytes] = {}

    def read(request: ByteRange, inside: Sequence[ByteRange]) -> None:
        body = _read(aws, sources[request.source], request)
        for each in inside:  # copies, so that the gaps do not stay in memory
            found[each] = body[each.offset - request.offset : each.end - request.offset]

    with ThreadPoolExecutor(_READS_OF_A_PART) as pool:
        for done in [submit(pool, read, *each) for each in _members(reads, wanted)]:
            done.result()
    return b"".join(content if isinstance(content, bytes) else found[content] for content in part.contents)


def _members(reads: Sequence[ByteRange], wanted: Iterable[ByteRange]) -> list[tuple[ByteRange, list[ByteRange]]]:
    """Each request with the ranges that it reads."""
    starts = [(each.source, each.offset) for each in reads]
    members: list[list[ByteRange]] = [[] for _ in reads]
    for each in wanted:
        members[bisect_right(starts, (each.source, each.offset)) - 1].append(each)
    return list(zip(reads, members, strict=True))


def _read(aws: "Aws", source: Source, wanted: ByteRange) -> bytes:
    if isinstance(source, StoredObject):
        return read_range(aws, source, wanted.offset, wanted.length)
    with source.open("rb") as file:
        file.seek(wanted.offset)
        return file.read(wanted.length)


def _abort(aws: "Aws", bucket: str, key: str, upload_id: str) -> None:
    """Abort an upload, best effort: it may be gone already, and a lifecycle rule removes what stays."""
    with best_effort("Incomplete upload not aborted", "upload_not_aborted", key=key):
        aws.s3.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload_id)


def abort_incomplete_uploads(aws: "Aws", bucket: str, prefix: str, until_s: float) -> None:
    """Abort the uploads below a prefix that nobody will complete, best effort.

    A process that died leaves its own; so does a lost answer to CreateMultipartUpload, because the SDK asks again.
    Only the holder of the job's lease calls this, with the time at which the lease expires: uploads that were begun
    later are those of its successor. A lifecycle rule removes what stays.
    """
    with best_effort("Incomplete uploads not listed", "uploads_not_listed", prefix=prefix):
        pages = aws.s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix)
        for upload in [upload for page in pages for upload in page.get("Uploads", [])]:
            if upload["Initiated"].timestamp() < until_s:
                logger.info("Aborting an incomplete upload", event="upload_aborted", key=upload["Key"])
                _abort(aws, bucket, upload["Key"], upload["UploadId"])


def let_expire(aws: "Aws", bucket: str, key: str) -> None:
    """Tag an object so that the output bucket's lifecycle rule removes it, as it removes processed segments.

    Best effort, like all cleanup. The functions have no right to delete, so that no bug can delete a video.
    """
    tag_key, tag_value = aws.settings.expiry_tag
    tag: TagTypeDef = {"Key": tag_key, "Value": tag_value}
    with best_effort("Object not tagged to expire", "expiry_not_set", key=key):
        aws.s3.put_object_tagging(Bucket=bucket, Key=key, Tagging={"TagSet": [tag]})


def _is_changed(error: ClientError) -> bool:
    return _code(error) in _CHANGED | _ABSENT


def _code(error: ClientError) -> str:
    return error.response["Error"]["Code"]
