"""Submitting a job: its row in the Jobs table first, then the upload, which starts the chunking. And removing a job."""

import contextlib
import re
import shlex
import time
import uuid
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from boto3.dynamodb.types import TypeSerializer
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from media_worker.aws import Aws
from media_worker.jobs import FrameCheck, JobStatus, SegmentTracks, read_row
from media_worker.keys import DEFAULT_MODE, build_source_key
from media_worker.operations import delete_objects
from media_worker.settings import Engine, Tracks

from media_worker_cli.cut_times import read_cut_times
from media_worker_cli.errors import UploadBroken, UsageError
from media_worker_cli.uploading import upload

_serialize = TypeSerializer().serialize
_MAX_SLUG_CHARS = 40


@dataclass(frozen=True, slots=True)
class Submission:
    """A source and the options of its job. For an option that is None, the stack's setting applies."""

    job_id: str
    source: Path
    mode: str = DEFAULT_MODE
    engine: Engine | None = None
    segment_duration_s: Decimal | None = None
    frame_check: FrameCheck | None = None
    tracks: Tracks | None = None
    segment_tracks: SegmentTracks | None = None
    context_frames: int | None = None
    segments: int | None = None
    cut_times_s: tuple[Decimal, ...] | None = None
    cut_tolerance_s: Decimal | None = None
    max_segment_duration_s: Decimal | None = None

    @classmethod
    def of(cls, arguments: Namespace) -> "Submission":
        """The job of the command line: a new one, or the one to resume.

        Raises:
            UsageError: the file with the cut times cannot be used, or two options contradict each other.
        """
        _check_durations(arguments)
        job_id = getattr(arguments, "resume", None) or new_job_id(arguments.source)
        return cls(
            job_id,
            arguments.source,
            arguments.mode,
            arguments.engine,
            arguments.segment_seconds,
            arguments.frame_check,
            arguments.tracks,
            arguments.segment_tracks,
            arguments.context_frames,
            arguments.segments,
            read_cut_times(arguments.cut_times) if arguments.cut_times else None,
            arguments.cut_tolerance,
            arguments.max_segment_seconds,
        )


def _check_durations(arguments: Namespace) -> None:
    if arguments.cut_tolerance is not None and arguments.cut_times is None:
        raise UsageError("--cut-tolerance has no meaning without --cut-times")
    longest, shortest = arguments.max_segment_seconds, arguments.segment_seconds
    if longest is not None and shortest is not None and longest < shortest:
        raise UsageError("--max-segment-seconds is less than --segment-seconds: a segment lasts at least that long")


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
    upload_source(aws, submission, on_bytes)


def upload_source(aws: Aws, submission: Submission, on_bytes: Callable[[int], None]) -> None:
    """Upload a job's source, or the parts of it that are missing.

    Raises:
        UploadBroken: says how to resume. So does the KeyboardInterrupt.
    """
    bucket, key = aws.settings.input_bucket_name, build_source_key(submission.job_id)
    try:
        upload(aws, submission.source, bucket, key, on_bytes)
    except (Boto3Error, BotoCoreError, ClientError, KeyboardInterrupt) as error:
        words = ["media-worker", "submit", str(submission.source), "--resume", submission.job_id]
        advice = f"resume the upload with `{shlex.join(words)}`, and --stack if you gave it"
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"interrupted: {advice}") from error
        raise UploadBroken(f"the upload broke off ({error}): {advice}") from error


def require_resumable(aws: Aws, submission: Submission) -> None:
    """Check that the job waits for this source.

    Raises:
        UsageError: there is no such job, it has begun already, or it is for a file of another size.
    """
    row = require_same_source(aws, submission)
    if row["status"] != JobStatus.CREATED:
        raise UsageError(f"job {submission.job_id} is {row['status']}: its source was uploaded")


def require_same_source(aws: Aws, submission: Submission) -> Mapping[str, Any]:
    """The row of a job that is for this source.

    Raises:
        UsageError: there is no such job, or it is for a file of another size.
    """
    row = read_row(aws, submission.job_id)
    if not row:
        raise UsageError(f"there is no job {submission.job_id!r}: give the source without --resume")
    size_bytes, expected = submission.source.stat().st_size, row.get("source_file_size_bytes")
    if expected is not None and int(expected) != size_bytes:
        raise UsageError(
            f"{submission.source} has {size_bytes} bytes, but job {submission.job_id} is for a file of {expected} "
            "bytes: give it without --resume"
        )
    return row


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
    chosen = {
        "engine": submission.engine,
        "segment_duration_sec": submission.segment_duration_s,
        "frame_check": submission.frame_check,
        "tracks": submission.tracks,
        "segment_tracks": submission.segment_tracks,
        "context_frames": submission.context_frames,
        "segments": submission.segments,
        "cut_times_s": submission.cut_times_s and list(submission.cut_times_s),
        "cut_tolerance_sec": submission.cut_tolerance_s,
        "max_segment_duration_sec": submission.max_segment_duration_s,
    }
    return row | {name: value for name, value in chosen.items() if value is not None}


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
    delete_objects(aws, job_id)
