"""Submitting a job: its row in the Jobs table first, then the upload, which starts the chunking. And removing a job."""

import contextlib
import re
import time
import uuid
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from boto3.dynamodb.types import TypeSerializer
from media_worker.aws import Aws
from media_worker.jobs import JobStatus
from media_worker.keys import Mode, build_source_key
from media_worker.settings import Engine

from media_worker_cli.errors import UsageError

_serialize = TypeSerializer().serialize
_MAX_SLUG_CHARS = 40


@dataclass(frozen=True, slots=True)
class Submission:
    """A source and the options of its job. For an option that is None, the stack's setting applies."""

    job_id: str
    source: Path
    mode: Mode = "sbs"
    engine: Engine | None = None
    segment_duration_s: Decimal | None = None

    @classmethod
    def of(cls, arguments: Namespace) -> "Submission":
        """A new job with the options of the command line."""
        job_id = new_job_id(arguments.source)
        return cls(job_id, arguments.source, arguments.mode, arguments.engine, arguments.segment_seconds)


def require_source(path: Path) -> None:
    """Check that the source can be read.

    Raises:
        UsageError: it is missing, a directory, or not readable.
    """
    try:
        with path.open("rb"):
            return
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def new_job_id(source: Path) -> str:
    """A unique job id that begins with the name of the source."""
    slug = re.sub(r"[^a-z0-9]+", "-", source.stem.lower())[:_MAX_SLUG_CHARS].strip("-")
    return f"{slug or 'video'}-{uuid.uuid4().hex[:8]}"


def submit(aws: Aws, submission: Submission, on_bytes: Callable[[int], None]) -> None:
    """Write the job's row, then upload the source. `on_bytes` is called with the size of each uploaded block."""
    now = int(time.time())
    row = build_row(submission, now, submission.source.stat().st_size)
    aws.dynamodb.put_item(
        TableName=aws.settings.jobs_table_name,
        Item={name: _serialize(value) for name, value in row.items()},
        ConditionExpression="attribute_not_exists(job_id)",
    )
    aws.s3.upload_file(
        str(submission.source),
        aws.settings.input_bucket_name,
        build_source_key(submission.job_id),
        ExtraArgs={"ContentType": "video/mp4"},
        Callback=on_bytes,
    )


def build_row(submission: Submission, now_s: int, size_bytes: int) -> dict[str, Any]:
    """The row of a new job. `now_s` is in Unix seconds."""
    row: dict[str, Any] = {
        "job_id": submission.job_id,
        "mode": submission.mode,
        "status": JobStatus.CREATED.value,
        "created_at": now_s,
        "uploaded_at": now_s,
        "title": submission.source.name,
        "source_file_size_bytes": size_bytes,
    }
    if submission.engine:
        row["engine"] = submission.engine
    if submission.segment_duration_s:
        row["segment_duration_sec"] = submission.segment_duration_s
    return row


def remove_job(aws: Aws, job_id: str) -> None:
    """Delete a job's objects and set its row to `deleted`. A failed job stays `failed`.

    The status is written first, so that functions which still work on the job stop at their next step.
    """
    statuses = {":deleted": JobStatus.DELETED, ":failed": JobStatus.FAILED}
    with contextlib.suppress(aws.dynamodb.exceptions.ConditionalCheckFailedException):
        aws.dynamodb.update_item(
            TableName=aws.settings.jobs_table_name,
            Key={"job_id": {"S": job_id}},
            UpdateExpression="SET #status = :deleted",
            ConditionExpression="attribute_exists(job_id) AND #status <> :failed",
            ExpressionAttributeNames={"#status": "status"},
            ExpressionAttributeValues={name: {"S": status.value} for name, status in statuses.items()},
        )
    settings = aws.settings
    for bucket, prefix in (
        (settings.input_bucket_name, f"input/{job_id}/"),
        (settings.input_bucket_name, f"segments/{job_id}/"),
        (settings.output_bucket_name, f"jobs/{job_id}/"),
    ):
        for keys in _list_keys(aws, bucket, prefix):
            aws.s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True})


def _list_keys(aws: Aws, bucket: str, prefix: str) -> Iterator[list[str]]:
    """The keys below a prefix, one list for each page."""
    for page in aws.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        if keys := [found["Key"] for found in page.get("Contents", [])]:
            yield keys
