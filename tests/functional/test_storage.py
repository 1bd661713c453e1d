"""S3: objects are written once, whole, at sizes around the limits, and read as the version that was described."""

import hashlib
import io
import threading
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.exceptions import ClientError
from media_worker.byte_ranges import UPLOAD_PART_BYTES, ByteRange
from media_worker.deadline import Deadline
from media_worker.errors import SourceChanged, TransferFailed
from media_worker.jobs import JobStatus
from media_worker.s3 import (
    PLAN,
    StoredObject,
    Target,
    describe,
    download,
    downloads,
    write_once,
)

from tests.functional.logs import Logs
from tests.functional.stack import INPUT, OUTPUT, Stack
from tests.media import look
from tests.media.clips import ffmpeg

MIB = 1024 * 1024
KEY = "jobs/job-1/final.mp4"


def make_file(path: Path, size_bytes: int) -> Path:
    """A file whose content does not repeat in step with parts or blocks."""
    block = hashlib.shake_256(b"media-worker").digest(1_000_003)
    with path.open("wb") as file:
        while (left := size_bytes - file.tell()) > 0:
            file.write(block[:left])
    return path


def put(stack: Stack, path: Path, plan: str = "plan-1") -> bool:
    return write_once(stack.aws, Target(OUTPUT, KEY, (PLAN, plan)), [ByteRange(0, 0, path.stat().st_size)], [path])


def download_to(stack: Stack, stored: StoredObject, path: Path) -> None:
    with downloads(stack.aws) as manager:
        download(manager, stored, path, Deadline(stack.context))


def described(stack: Stack) -> StoredObject:
    stored = describe(stack.aws, OUTPUT, KEY)
    assert stored
    return stored


def open_uploads(stack: Stack) -> int:
    return len(stack.aws.s3.list_multipart_uploads(Bucket=OUTPUT).get("Uploads", []))


@pytest.mark.parametrize(
    ("size_bytes", "parts"),
    [
        (1, 0),
        (UPLOAD_PART_BYTES - 1, 0),
        (UPLOAD_PART_BYTES, 0),
        (UPLOAD_PART_BYTES + 1, 2),
        (2 * UPLOAD_PART_BYTES, 2),
        (2 * UPLOAD_PART_BYTES + 1, 3),
        (104 * MIB + 12_345, 14),
    ],
)
def test_a_file_is_uploaded_and_downloaded_whole(stack: Stack, tmp_path: Path, size_bytes: int, parts: int) -> None:
    """A small file is one PUT, a large one a multipart upload; the bytes are the same."""
    path = make_file(tmp_path / "file", size_bytes)
    assert put(stack, path)
    stored = described(stack)
    assert stored.size_bytes == size_bytes
    assert stored.metadata == {"plan": "plan-1"}
    assert stored.etag.partition("-")[2] == (str(parts) if parts else "")
    assert stack.aws.s3.head_object(Bucket=OUTPUT, Key=KEY)["ContentType"] == "video/mp4"
    assert open_uploads(stack) == 0

    download_to(stack, stored, tmp_path / "downloaded")
    with path.open("rb") as before, (tmp_path / "downloaded").open("rb") as after:
        assert hashlib.file_digest(after, "sha256").digest() == hashlib.file_digest(before, "sha256").digest()


def test_a_final_over_100_mb_is_complete(stack: Stack, tmp_path: Path) -> None:
    """Every frame of the processed segments is in it, and the audio has no gap."""
    segment = tmp_path / "segment.mp4"
    # A constant bit rate with padding: a large file in a short time.
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=size=192x108:rate=25:duration=3", "-f", "lavfi", "-i", "sine=duration=3"),
        *("-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-pix_fmt", "yuv420p", "-c:a", "aac"),
        *("-b:v", "100M", "-minrate", "100M", "-maxrate", "100M", "-bufsize", "20M"),
        *("-x264-params", "nal-hrd=cbr:filler=1", str(segment)),
    )
    stack.add_job(status={"S": "chunking_complete"}, total_segments={"N": "3"})
    for index in range(3):
        stack.put_processed(index, segment.read_bytes())
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.COMPLETED, stack.job().error

    final = stack.save_final(tmp_path / "final.mp4")
    assert final.stat().st_size > 100_000_000
    assert described(stack).etag.partition("-")[2] != ""
    frames = [frame.content for frame in look.decoded_frames(segment)]
    assert [frame.content for frame in look.decoded_frames(final)] == frames * 3
    audio = [packet.presented_at_s for packet in look.packets(final, "a:0")]
    packet_s = Fraction(1024, 44100)
    assert max(later - earlier for earlier, later in pairwise(audio)) < 2 * packet_s, "there is a gap"
    assert abs(audio[-1] + packet_s - 9) < packet_s
    assert look.is_fast_start(final)


# Written once


@pytest.mark.parametrize("size_bytes", [1000, UPLOAD_PART_BYTES + 1])
def test_an_existing_object_is_not_written_again(stack: Stack, tmp_path: Path, size_bytes: int) -> None:
    """An object made from the same source stays."""
    assert put(stack, make_file(tmp_path / "first", size_bytes))
    before = described(stack)
    assert not put(stack, make_file(tmp_path / "second", size_bytes + 1))
    assert described(stack) == before
    assert open_uploads(stack) == 0


@pytest.mark.parametrize("size_bytes", [1000, UPLOAD_PART_BYTES + 1])
def test_an_object_of_another_source_is_replaced(stack: Stack, tmp_path: Path, size_bytes: int) -> None:
    """The replacement is conditional on its ETag."""
    put(stack, make_file(tmp_path / "first", size_bytes), "other")
    assert put(stack, make_file(tmp_path / "second", size_bytes + 1))
    assert described(stack).size_bytes == size_bytes + 1
    assert described(stack).metadata == {"plan": "plan-1"}


class Answers:
    """Answers of S3 that a test injects in front of moto: (status, code), or None for moto's own."""

    def __init__(self, stack: Stack, *operations: str) -> None:
        self.of: list[tuple[int, str] | None] = []
        self.conditions: list[dict[str, str]] = []
        for operation in operations:
            stack.aws.s3.meta.events.register(f"before-call.s3.{operation}", self._answer)

    def _answer(self, model: Any, params: dict[str, Any], **_: Any) -> Any:
        headers = params["headers"]
        self.conditions.append({name: str(headers[name]) for name in ("If-Match", "If-None-Match") if name in headers})
        answer = self.of.pop(0) if self.of else None
        if answer is None:
            return None
        status, code = answer
        response = AWSResponse("https://s3", status, HTTPHeaders(), io.BytesIO())
        return response, {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}


@pytest.fixture(params=[1000, UPLOAD_PART_BYTES + 1], ids=["put", "parts"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_file(tmp_path / "file", request.param)


def test_a_conflict_repeats_the_upload(stack: Stack, file: Path) -> None:
    """409: somebody wrote the same key at the same time, and may have failed."""
    answers = Answers(stack, "PutObject", "CompleteMultipartUpload")
    answers.of = [(409, "ConditionalRequestConflict"), None]
    assert put(stack, file)
    assert answers.conditions == [{"If-None-Match": "*"}] * 2
    assert described(stack).size_bytes == file.stat().st_size
    assert open_uploads(stack) == 0


def test_a_lasting_conflict_is_retried_later(stack: Stack, file: Path) -> None:
    """After three conflicts the message is returned to the queue."""
    answers = Answers(stack, "PutObject", "CompleteMultipartUpload")
    answers.of = [(409, "ConditionalRequestConflict")] * 3
    with pytest.raises(TransferFailed, match=f"s3://{OUTPUT}/{KEY} is being written by another process"):
        put(stack, file)
    assert open_uploads(stack) == 0


def test_an_object_that_is_removed_before_its_replacement(stack: Stack, tmp_path: Path, file: Path) -> None:
    """The replacement is written without it."""
    put(stack, make_file(tmp_path / "other", 10), "other")
    etag = described(stack).etag
    answers = Answers(stack, "PutObject", "CompleteMultipartUpload")
    answers.of = [(412, "PreconditionFailed"), (404, "NoSuchKey"), None]

    def remove(**_: Any) -> None:
        stack.aws.s3.delete_object(Bucket=OUTPUT, Key=KEY)

    stack.aws.s3.meta.events.register("after-call.s3.HeadObject", remove)
    assert put(stack, file)
    assert answers.conditions == [{"If-None-Match": "*"}, {"If-Match": etag}, {"If-None-Match": "*"}]


def test_another_error_is_raised(stack: Stack, file: Path) -> None:
    """An unknown error code is raised, and the upload is aborted."""
    Answers(stack, "PutObject", "CompleteMultipartUpload").of = [(403, "AccessDenied")]
    with pytest.raises(ClientError, match="AccessDenied"):
        put(stack, file)
    assert open_uploads(stack) == 0


def test_a_failed_part_aborts_the_upload(stack: Stack, tmp_path: Path) -> None:
    """No part and no object is left."""
    answers = Answers(stack, "UploadPart")
    answers.of = [None, (403, "AccessDenied"), *[None] * 20]
    with pytest.raises(ClientError, match="AccessDenied"):
        put(stack, make_file(tmp_path / "file", 6 * UPLOAD_PART_BYTES))
    assert open_uploads(stack) == 0
    assert describe(stack.aws, OUTPUT, KEY) is None


def test_a_failed_abort_does_not_hide_the_error(stack: Stack, tmp_path: Path, logs: Logs) -> None:
    """A lifecycle rule removes the incomplete upload."""
    Answers(stack, "CompleteMultipartUpload").of = [(403, "AccessDenied")]
    Answers(stack, "AbortMultipartUpload").of = [(404, "NoSuchUpload")]
    with pytest.raises(ClientError, match="AccessDenied"):
        put(stack, make_file(tmp_path / "file", UPLOAD_PART_BYTES + 1))
    assert "NoSuchUpload" in logs.one("upload_not_aborted")["reason"]


def test_a_forbidden_object_is_not_absent(stack: Stack) -> None:
    """403 is not 404."""
    Answers(stack, "HeadObject").of = [(403, "403")]
    with pytest.raises(ClientError, match="403"):
        describe(stack.aws, OUTPUT, KEY)
    assert describe(stack.aws, OUTPUT, "elsewhere") is None


# Downloading


@pytest.mark.parametrize("size_bytes", [1000, UPLOAD_PART_BYTES + 1])
def test_a_replaced_object_is_not_downloaded(stack: Stack, tmp_path: Path, size_bytes: int) -> None:
    """At any size, the download has the version that was described or fails."""
    put(stack, make_file(tmp_path / "file", size_bytes))
    stored = described(stack)
    stack.aws.s3.put_object(Bucket=OUTPUT, Key=KEY, Body=bytes(size_bytes))
    with pytest.raises(SourceChanged, match="was replaced while it was being read"):
        download_to(stack, stored, tmp_path / "downloaded")
    assert not (tmp_path / "downloaded").exists()


def test_a_removed_object_is_a_changed_source(stack: Stack, tmp_path: Path) -> None:
    """The next attempt reports that it does not exist."""
    with pytest.raises(SourceChanged, match="was removed while it was being read"):
        download_to(stack, StoredObject(OUTPUT, KEY, 1000, "x"), tmp_path / "downloaded")


def test_another_download_error_is_raised(stack: Stack, tmp_path: Path) -> None:
    """An unknown error code is raised unchanged."""
    Answers(stack, "GetObject").of = [(403, "AccessDenied")]
    with pytest.raises(ClientError, match="AccessDenied"):
        download_to(stack, StoredObject(OUTPUT, KEY, 1000, "x"), tmp_path / "downloaded")


class BrokenBody(io.RawIOBase):
    """A connection that is reset."""

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        yield b""

    def read(self, *_: Any) -> bytes:
        raise ConnectionResetError("connection reset by peer")


def test_a_connection_that_keeps_breaking_is_retried_later(stack: Stack, tmp_path: Path) -> None:
    """After the retries of s3transfer, the error names the object."""
    put(stack, make_file(tmp_path / "file", 1000))
    stored = described(stack)

    def cut(parsed: dict[str, Any], **_: Any) -> None:
        parsed["Body"] = BrokenBody()

    stack.aws.s3.meta.events.register("after-call.s3.GetObject", cut)
    with pytest.raises(TransferFailed, match=f"{stored.uri} could not be downloaded"):
        download_to(stack, stored, tmp_path / "downloaded")


def test_concurrent_writes_write_one_object(stack: Stack, tmp_path: Path) -> None:
    """One of them says that it wrote the object, the others that it existed."""
    path = make_file(tmp_path / "file", 1000)
    written: list[bool] = []
    threads = [threading.Thread(target=lambda: written.append(put(stack, path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(written) == [False, False, False, True]
    assert stack.aws.s3.list_objects_v2(Bucket=INPUT)["KeyCount"] == 0
