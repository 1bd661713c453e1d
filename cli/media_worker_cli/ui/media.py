"""Source, final and segments of a job for the browser's player: ranged reads of S3, passed on as they arrive.

The browser never talks to S3, so the page's policy needs no other host, the buckets need no CORS rule, and no signed
URL ends up in a history (docs/decisions/0025-the-page.md).
"""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from botocore.exceptions import ClientError
from media_worker.keys import build_final_key, build_source_key, is_job_id
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from media_worker_cli.errors import UsageError

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from media_worker.settings import Settings

_BLOCK_BYTES = 256 * 1024
_RANGE = re.compile(r"bytes=(\d{1,18}-\d{0,18}|-\d{1,18})")
_MISSING = {"404", "NoSuchKey"}

# What can be played: the bucket and the function that builds the key.
_KINDS: "Mapping[str, tuple[Callable[[Settings], str], Callable[[str], str]]]" = {
    "source": (lambda settings: settings.input_bucket_name, build_source_key),
    "final": (lambda settings: settings.output_bucket_name, build_final_key),
}


async def answer_media(aws: "Aws", job_id: str, kind: str, wanted: str | None, *, is_download: bool) -> Response:
    """The bytes that the player asked for. `wanted` is the Range header.

    Raises:
        UsageError: there is no such kind of object, or the job id is none.
    """
    if kind not in _KINDS or not is_job_id(job_id):
        raise UsageError(f"there is no {kind!r} of job {job_id!r}")
    bucket_of, build_key = _KINDS[kind]
    request: dict[str, Any] = {"Bucket": bucket_of(aws.settings), "Key": build_key(job_id)}
    if wanted and _RANGE.fullmatch(wanted):  # other forms, such as several ranges, may be ignored: the whole is sent
        request["Range"] = wanted
    try:
        found = await run_in_threadpool(aws.s3.get_object, **request)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in _MISSING:
            return JSONResponse({"error": f"job {job_id} has no {kind}"}, HTTPStatus.NOT_FOUND)
        if code == "InvalidRange":
            return Response(status_code=HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
        raise
    return _respond(found, f"{job_id}-{kind}.mp4" if is_download else None)


def _respond(found: Mapping[str, Any], name: str | None) -> Response:
    headers = {
        "accept-ranges": "bytes",
        "content-length": str(found["ContentLength"]),
        "etag": found["ETag"],
        "cache-control": "private, no-cache",
    }
    status = HTTPStatus.OK
    if content_range := found.get("ContentRange"):
        headers["content-range"], status = content_range, HTTPStatus.PARTIAL_CONTENT
    if name:
        headers["content-disposition"] = f"attachment; filename*=UTF-8''{quote(name, safe='')}"
    # The stored content type is whatever the uploader said. With `nosniff`, this one makes it a video and nothing else.
    return StreamingResponse(_blocks(found["Body"]), status, headers, media_type="video/mp4")


async def _blocks(body: Any) -> AsyncIterator[bytes]:
    """The body, block by block. A player that has enough breaks off: then the connection to S3 is closed."""
    try:
        while block := await run_in_threadpool(body.read, _BLOCK_BYTES):
            yield block
    finally:
        body.close()
