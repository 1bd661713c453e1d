"""What a person does to a job: cancel, retry, delete. The command line and the web page only call these.

Each operation writes the job's status first, with a condition, and may be repeated: what is done already stays as it
is. They need more rights than the functions have, because they delete objects.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from media_worker import jobs
from media_worker.completions import current_completions, describe_ranges, read_completions, trigger_if_complete
from media_worker.cutting import CUT_ATTRIBUTES
from media_worker.earlier_runs import delete_earlier_trigger
from media_worker.errors import JobMoved, NoSuchJob, OperationRefused, SettingsError, TransferFailed
from media_worker.jobs import RETRIABLE, FrameCheck, Job, JobStatus, now_s, read_job
from media_worker.keys import (
    build_final_key,
    build_output_segment_key,
    build_segment_key,
    build_segment_prefix,
    build_source_key,
    parse_output_segment_key,
)
from media_worker.messages import build_object_created_body
from media_worker.s3 import PLAN, abort_incomplete_uploads, describe
from media_worker.telemetry import logger

if TYPE_CHECKING:
    from decimal import Decimal

    from media_worker.aws import Aws
    from media_worker.settings import Engine, Tracks

_HEADS_AT_ONCE = 16
_MESSAGES_AT_ONCE = 10
_ROWS_AT_ONCE = 25
_WRITE_ATTEMPTS = 8
_LEASE_POLL_S = 0.5
# How long `delete` waits for a function to notice that its job is deleted. It looks every two seconds.
_FUNCTION_STOPS_S = 20.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an operation did. `detail` is a sentence for a person, without the job's id."""

    job_id: str
    status: JobStatus
    # False: there was nothing to do.
    changed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class NewSettings:
    """Settings that a retry gives to the job. None keeps what the job has."""

    segment_duration_s: "Decimal | None" = None
    engine: "Engine | None" = None
    frame_check: "FrameCheck | None" = None
    tracks: "Tracks | None" = None

    @property
    def need_new_plan(self) -> bool:
        """Whether the source must be planned again: other settings split it elsewhere."""
        return self.segment_duration_s is not None or self.engine is not None

    def attributes(self) -> dict[str, Any]:
        """The attributes of the job row that they set."""
        named = {
            "segment_duration_sec": self.segment_duration_s,
            "engine": self.engine,
            "frame_check": self.frame_check,
            "tracks": self.tracks,
        }
        return {name: value for name, value in named.items() if value is not None}


_KEEP = NewSettings()


# Cancel ---------------------------------------------------------------------------------------------------------------


def cancel_job(aws: "Aws", job_id: str, by: str) -> Outcome:
    """Stop a job: it becomes `failed` with the error `cancelled by ...`, until an explicit retry.

    No step begins on it any more, and workers return or drop its segments. What is processed stays.

    Raises:
        NoSuchJob: there is no such job.
        OperationRefused: the job is completed or deleted.
    """
    job = _known_job(aws, job_id)
    if job.cancelled_at is None:
        try:
            jobs.cancel(aws, job, by)
        except JobMoved:
            job = _known_job(aws, job_id)
        else:
            logger.info("Job cancelled", event="job_cancelled", job_id=job_id, by=by)
            return Outcome(job_id, JobStatus.FAILED, changed=True, detail=f"is cancelled; it was {job.status}")
    if job.cancelled_at is None:
        raise OperationRefused(f"job {job_id} is {job.status}: it cannot be cancelled")
    return Outcome(job_id, job.status, changed=False, detail="was cancelled already")


# Retry ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Remaining:
    """What a new run has to do: the segments without a completion, and those of them that exist."""

    unprocessed: frozenset[int]
    existing: frozenset[int]
    is_planned: bool

    @property
    def is_split(self) -> bool:
        """Whether no segment has to be written any more."""
        return self.is_planned and self.existing == self.unprocessed


def retry_job(aws: "Aws", job_id: str, segments: Iterable[int] = (), settings: NewSettings = _KEEP) -> Outcome:
    """Let a failed job go on where it stopped, or process chosen segments of a failed or completed job again.

    Work that is done is not repeated: segments that exist are announced again, not written again, and segments that
    are processed are announced only if they are chosen or their objects have expired. Settings that split the source
    elsewhere remove the job's plan, so that everything is done again. An earlier final stays until the new one is
    complete.

    Raises:
        NoSuchJob: there is no such job.
        OperationRefused: the job's status does not allow it, or something that the retry needs does not exist any more.
        SettingsError: the settings name no segment queue.
    """
    job, chosen = _known_job(aws, job_id), frozenset(segments)
    _require_segment_queue(aws)
    if job.status not in RETRIABLE:
        if job.status is JobStatus.DELETED:
            raise OperationRefused(f"job {job_id} is deleted: submit its source again")
        return Outcome(job_id, job.status, changed=False, detail=f"is {job.status}: it does not need a retry")
    _require_sensible(job, chosen, settings)
    if settings.need_new_plan:
        return _retry_with_new_plan(aws, job, settings)
    _choose_segments(aws, job, chosen)
    remaining = _look_for_remaining(aws, job)
    if not remaining.is_split:
        _require_source(aws, job, remaining)
    attributes = settings.attributes() | ({"segments_retried_at": now_s()} if remaining.unprocessed else {})
    to = JobStatus.CHUNKING_COMPLETE if remaining.is_split else JobStatus.CREATED
    _begin_retry(aws, job, to, attributes)
    announced = announce_segments(aws, job, sorted(remaining.existing))
    if not remaining.is_split:
        _request_chunking(aws, job_id)
        return Outcome(job_id, to, changed=True, detail=f"is split again; {_announced(announced)}")
    if remaining.unprocessed:
        return Outcome(job_id, to, changed=True, detail=f"is retried: {_announced(announced)}")
    trigger_if_complete(aws, job_id)
    return Outcome(job_id, to, changed=True, detail="is retried: all segments are processed, the join was requested")


def resend_segments(aws: "Aws", job_id: str) -> Outcome:
    """Announce the segments that have no completion again, of a job that is still waiting for them or has failed.

    Messages may have expired, or were removed from the queue. A second message about a segment that a worker is
    processing does no harm.

    Raises:
        NoSuchJob: there is no such job.
        OperationRefused: the job is not split yet, or has ended, or segments do not exist any more.
        SettingsError: the settings name no segment queue.
        TransferFailed: SQS refused messages.
    """
    job = _known_job(aws, job_id)
    if job.status is JobStatus.FAILED:
        return retry_job(aws, job_id)
    if job.status is not JobStatus.CHUNKING_COMPLETE:
        raise OperationRefused(f"job {job_id} is {job.status}: it does not wait for segments")
    remaining = _look_for_remaining(aws, job)
    if lost := sorted(remaining.unprocessed - remaining.existing):
        raise OperationRefused(f"segments {describe_ranges(lost)} of job {job_id} do not exist any more: retry the job")
    # Before the messages are sent: dead letters from before this time do not count any more.
    jobs.record_resend(aws, job_id)
    announced = announce_segments(aws, job, sorted(remaining.existing))
    if not announced:
        trigger_if_complete(aws, job_id)
    return Outcome(
        job_id, job.status, changed=bool(announced), detail=f"waits for its segments: {_announced(announced)}"
    )


def _require_sensible(job: Job, chosen: frozenset[int], settings: NewSettings) -> None:
    """Check what is asked for against the job."""
    if chosen and settings.need_new_plan:
        raise OperationRefused(
            "chosen segments belong to the present plan: retry either these segments, or the whole job with other "
            "settings"
        )
    if unknown := sorted(index for index in chosen if index >= (job.total_segments or 0)):
        have = f"has {job.total_segments} segments (0 to {(job.total_segments or 0) - 1})"
        raise OperationRefused(
            f"job {job.job_id} {have if job.total_segments else 'has no segments yet'}: there is no segment "
            f"{describe_ranges(unknown)}"
        )
    if job.status is JobStatus.COMPLETED and not chosen and not settings.need_new_plan:
        raise OperationRefused(f"job {job.job_id} is completed: name the segments to process again, or other settings")


def _retry_with_new_plan(aws: "Aws", job: Job, settings: NewSettings) -> Outcome:
    """Everything again. Without `plan` in its row, the source is planned as if for the first time."""
    if describe(aws, aws.settings.input_bucket_name, build_source_key(job.job_id)) is None:
        raise OperationRefused(f"the source of job {job.job_id} does not exist any more: submit it again")
    _delete_completions(aws, job.job_id, [each.segment_index for each in read_completions(aws, job.job_id)])
    # Completions that third-party workers write without a plan belong to the old plan if they are older than this.
    attributes = {**settings.attributes(), "replanned_at": now_s()}
    removed: tuple[str, ...] = ("plan", "total_segments", "notice", "segments_retried_at")
    if settings.segment_duration_s is not None:
        removed += CUT_ATTRIBUTES
    _begin_retry(aws, job, JobStatus.CREATED, attributes, removed)
    _request_chunking(aws, job.job_id)
    return Outcome(job.job_id, JobStatus.CREATED, changed=True, detail="is planned and split again")


def _choose_segments(aws: "Aws", job: Job, chosen: frozenset[int]) -> None:
    """Remove the completions of the segments that have to be processed again.

    This comes before the status changes: while all completions are there, whoever looks might request the join.
    """
    processed = {each.segment_index for each in current_completions(aws, job)}
    lost = processed - _stored_segments(aws, job.job_id) - chosen
    if lost and chosen:
        raise OperationRefused(
            f"the join needs all segments, but the processed segments {describe_ranges(sorted(lost))} do not exist any "
            "more: retry these too"
        )
    _delete_completions(aws, job.job_id, sorted((processed & chosen) | lost))


def _look_for_remaining(aws: "Aws", job: Job) -> _Remaining:
    source = describe(aws, aws.settings.input_bucket_name, build_source_key(job.job_id))
    is_replaced = source is not None and job.source_etag not in {None, source.etag}
    if job.total_segments is None or is_replaced:
        return _Remaining(frozenset(), frozenset(), is_planned=False)
    processed = {each.segment_index for each in current_completions(aws, job)}
    unprocessed = [index for index in range(job.total_segments) if index not in processed]

    def exists(index: int) -> bool:
        segment = describe(aws, aws.settings.input_bucket_name, _segment_key(job, index))
        return segment is not None and segment.metadata.get(PLAN, job.plan) == job.plan

    with ThreadPoolExecutor(_HEADS_AT_ONCE) as pool:
        existing = [index for index, found in zip(unprocessed, pool.map(exists, unprocessed), strict=True) if found]
    return _Remaining(frozenset(unprocessed), frozenset(existing), is_planned=True)


def _require_source(aws: "Aws", job: Job, remaining: _Remaining) -> None:
    if describe(aws, aws.settings.input_bucket_name, build_source_key(job.job_id)) is None:
        missing = sorted(remaining.unprocessed - remaining.existing)
        what = f"segments {describe_ranges(missing)} have to be written again" if missing else "it has to be split"
        raise OperationRefused(f"{what}, but the source of job {job.job_id} does not exist: submit it again")


def _begin_retry(
    aws: "Aws", job: Job, to: JobStatus, attributes: Mapping[str, Any], remove: Sequence[str] = ()
) -> None:
    try:
        jobs.begin_retry(aws, job, to, attributes, remove)
    except JobMoved as error:
        raise OperationRefused(f"{error}; another process changed it at the same time") from error
    delete_earlier_trigger(aws, _known_job(aws, job.job_id))
    logger.info("Job retried", event="job_retried", job_id=job.job_id, status=str(to))


def _announced(indexes: Sequence[int]) -> str:
    if not indexes:
        return "no segment had to be announced"
    return f"segment{'s' if len(indexes) > 1 else ''} {describe_ranges(indexes)} announced again"


def _request_chunking(aws: "Aws", job_id: str) -> None:
    """Announce the source, as S3 does after an upload."""
    body = build_object_created_body(aws.settings.input_bucket_name, build_source_key(job_id))
    aws.sqs.send_message(QueueUrl=aws.settings.chunking_queue_url, MessageBody=body)


def announce_segments(aws: "Aws", job: Job, indexes: Sequence[int]) -> Sequence[int]:
    """Send a message for each of these segments to the workers, as S3 does when a segment is written.

    Raises:
        SettingsError: the settings name no segment queue.
        TransferFailed: SQS refused messages.
    """
    url = _require_segment_queue(aws)
    bucket = aws.settings.input_bucket_name
    for batch in _batches(indexes, _MESSAGES_AT_ONCE):
        entries: Any = [
            {"Id": str(index), "MessageBody": build_object_created_body(bucket, _segment_key(job, index))}
            for index in batch
        ]
        refused = aws.sqs.send_message_batch(QueueUrl=url, Entries=entries).get("Failed", [])
        if refused:
            names = ", ".join(f"{each['Id']} ({each.get('Message', each['Code'])})" for each in refused)
            raise TransferFailed(f"segments of job {job.job_id} could not be announced: {names}")
    return indexes


def _require_segment_queue(aws: "Aws") -> str:
    if aws.settings.segment_queue_url is None:
        raise SettingsError("SEGMENT_QUEUE_URL is not set: it is needed to announce segments")
    return aws.settings.segment_queue_url


def _segment_key(job: Job, index: int) -> str:
    return build_segment_key(job.job_id, index, job.total_segments or 0, job.mode)


# Delete ---------------------------------------------------------------------------------------------------------------


def delete_job(aws: "Aws", job_id: str, *, keep_final: bool = False, wait_s: float = _FUNCTION_STOPS_S) -> Outcome:
    """Delete a job's objects, completions, trigger and attempts. A row with the status `deleted` refuses late messages.

    If a function is working on the job, wait up to `wait_s` until it has noticed, so that it writes no object after
    the others are deleted.

    Raises:
        NoSuchJob: there is no such job.
        TransferFailed: S3 or DynamoDB refused to delete something.
    """
    before = _known_job(aws, job_id)
    jobs.mark_deleted(aws, job_id)
    give_up_at = time.monotonic() + wait_s
    while (is_busy := _is_leased(aws, job_id)) and time.monotonic() < give_up_at:
        time.sleep(_LEASE_POLL_S)
    objects = delete_objects(aws, job_id, keep_final=keep_final)
    _delete_rows_of_segments(aws, job_id)
    aws.dynamodb.delete_item(TableName=aws.settings.reassembly_triggered_table_name, Key={"job_id": {"S": job_id}})
    logger.info("Job deleted", event="job_deleted", job_id=job_id, objects=objects, final_kept=keep_final)
    changed = objects > 0 or before.status is not JobStatus.DELETED
    detail = f"is deleted, with {objects} object{'' if objects == 1 else 's'}{'; its final was kept' * keep_final}"
    if is_busy:
        detail += "; a function is still working on it: what that writes expires, or delete the job once more"
    return Outcome(job_id, JobStatus.DELETED, changed, detail if changed else "was deleted already")


def delete_objects(aws: "Aws", job_id: str, *, keep_final: bool = False) -> int:
    """Delete a job's source, plan, segments, processed segments and final. Returns the number of objects.

    Raises:
        TransferFailed: S3 refused to delete some.
    """
    settings, final = aws.settings, build_final_key(job_id)
    deleted = 0
    for bucket, prefix in (
        (settings.input_bucket_name, build_source_key(job_id)),
        (settings.input_bucket_name, build_segment_prefix(job_id)),
        (settings.output_bucket_name, final.rpartition("/")[0] + "/"),
    ):
        abort_incomplete_uploads(aws, bucket, prefix, time.time())  # the job is deleted: nobody may complete one
        for page in _list_keys(aws, bucket, prefix):
            keys = [key for key in page if not (keep_final and key == final)]
            if keys:
                _delete_keys(aws, bucket, keys)
                deleted += len(keys)
    return deleted


def _delete_keys(aws: "Aws", bucket: str, keys: Sequence[str]) -> None:
    objects: Any = [{"Key": key} for key in keys]
    errors = aws.s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True}).get("Errors", [])
    if errors:
        raise TransferFailed(
            f"{len(errors)} objects in {bucket} could not be deleted, such as {errors[0].get('Key')}: "
            f"{errors[0].get('Message')}"
        )


def _list_keys(aws: "Aws", bucket: str, prefix: str) -> Iterator[list[str]]:
    """The keys below a prefix, one list for each page."""
    for page in aws.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        if keys := [found["Key"] for found in page.get("Contents", [])]:
            yield keys


def _stored_segments(aws: "Aws", job_id: str) -> set[int]:
    """The indexes of the processed segments that exist in the output bucket."""
    bucket = aws.settings.output_bucket_name
    prefix = build_output_segment_key(job_id, 0).rpartition("/")[0] + "/"
    parsed = (parse_output_segment_key(bucket, key) for page in _list_keys(aws, bucket, prefix) for key in page)
    return {each.segment_index for each in parsed if each}


def _is_leased(aws: "Aws", job_id: str) -> bool:
    """Whether a function holds the lease of the job's chunking or reassembly."""
    tables = (aws.settings.jobs_table_name, aws.settings.reassembly_triggered_table_name)
    rows = (
        aws.dynamodb.get_item(TableName=table, Key={"job_id": {"S": job_id}}, ConsistentRead=True).get("Item", {})
        for table in tables
    )
    return any(int(row.get("lease_expires_at", {}).get("N", "0")) > now_s() for row in rows)


def _delete_rows_of_segments(aws: "Aws", job_id: str) -> None:
    settings = aws.settings
    for table in filter(None, (settings.segment_completions_table_name, settings.segment_attempts_table_name)):
        pages = aws.dynamodb.get_paginator("query").paginate(
            TableName=table,
            KeyConditionExpression="job_id = :job_id",
            ExpressionAttributeValues={":job_id": {"S": job_id}},
            ProjectionExpression="segment_index",
            ConsistentRead=True,
        )
        _delete_rows(aws, table, job_id, [int(item["segment_index"]["N"]) for page in pages for item in page["Items"]])


def _delete_completions(aws: "Aws", job_id: str, indexes: Sequence[int]) -> None:
    _delete_rows(aws, aws.settings.segment_completions_table_name, job_id, indexes)


def _delete_rows(aws: "Aws", table: str, job_id: str, indexes: Sequence[int]) -> None:
    """Delete rows of a table that has one per segment.

    Raises:
        TransferFailed: DynamoDB was too busy for some.
    """
    for batch in _batches(indexes, _ROWS_AT_ONCE):
        keys = [{"job_id": {"S": job_id}, "segment_index": {"N": str(index)}} for index in batch]
        requests: Any = {table: [{"DeleteRequest": {"Key": key}} for key in keys]}
        for attempt in range(_WRITE_ATTEMPTS):
            requests = aws.dynamodb.batch_write_item(RequestItems=requests).get("UnprocessedItems", {})
            if not requests:
                break
            time.sleep(0.05 * 2**attempt)
        else:
            raise TransferFailed(f"rows of job {job_id} in {table} were not deleted: DynamoDB is too busy, try again")


def _batches(indexes: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    return (indexes[start : start + size] for start in range(0, len(indexes), size))


def _known_job(aws: "Aws", job_id: str) -> Job:
    job = read_job(aws, job_id)
    if job is None:
        raise NoSuchJob(f"there is no job {job_id!r}")
    return job
