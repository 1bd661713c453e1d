"""SegmentCompletions and ReassemblyTriggered: which processed segments exist, and requesting the join once."""

import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from media_worker.errors import BadSegment
from media_worker.jobs import Job, JobStatus, now_s, read_job
from media_worker.keys import OutputSegmentKey, parse_output_segment_key
from media_worker.lease import TRIGGER_TTL_S
from media_worker.messages import build_reassembly_body
from media_worker.telemetry import logger

if TYPE_CHECKING:
    from media_worker.aws import Aws


# How long to wait for another sender to mark its message as sent, before it is presumed dead and we send ourselves.
_SENDER_GRACE_S = 5.0
_SENDER_POLL_S = 0.25
_RUNS_LISTED = 10

# The statuses in which the last completion makes the job ready to be joined. Before them, the chunking itself looks
# when it ends. A failed job is joined too: all its segments were written and processed, and a message that this run
# has sent already is not sent again.
_TRIGGERED_FROM = frozenset({JobStatus.CHUNKING_COMPLETE, JobStatus.FAILED})


@dataclass(frozen=True, slots=True)
class Completion:
    """A row of SegmentCompletions: one processed segment and its location."""

    segment_index: int
    output_s3_uri: str
    completed_at: Decimal = Decimal(0)
    source_etag: str | None = None

    def is_of_source(self, job: Job) -> bool:
        """Whether it was made from the job's present source. One that does not say so was, unless it is older."""
        if self.source_etag is not None:
            return self.source_etag == job.source_etag
        return job.source_since is None or self.completed_at >= job.source_since

    def location(self, job_id: str, output_bucket: str) -> tuple[str, str]:
        """Bucket and key of the processed segment.

        Raises:
            BadSegment: the row names another location than the contract's.
        """
        bucket, _, key = self.output_s3_uri.removeprefix("s3://").partition("/")
        if parse_output_segment_key(bucket, key) != OutputSegmentKey(output_bucket, job_id, self.segment_index):
            raise BadSegment(
                f"segment {self.segment_index}: its completion points to {self.output_s3_uri!r}, "
                f"not to s3://{output_bucket}/jobs/{job_id}/segments/{self.segment_index}.mp4"
            )
        return bucket, key


def read_completions(aws: "Aws", job_id: str) -> list[Completion]:
    """All completions of a job, every page, in the order of their indexes."""
    pages = aws.dynamodb.get_paginator("query").paginate(
        TableName=aws.settings.segment_completions_table_name,
        KeyConditionExpression="job_id = :job_id",
        ExpressionAttributeValues={":job_id": {"S": job_id}},
        ProjectionExpression="segment_index, output_s3_uri, completed_at, source_etag",
        ConsistentRead=True,
    )
    return [
        Completion(
            int(item["segment_index"]["N"]),
            item["output_s3_uri"]["S"],
            Decimal(item.get("completed_at", {}).get("N", "0")),
            item.get("source_etag", {}).get("S"),
        )
        for page in pages
        for item in page["Items"]
    ]


def current_completions(aws: "Aws", job: Job) -> list[Completion]:
    """The completions of the job's present source: those of one that was replaced do not count."""
    return [completion for completion in read_completions(aws, job.job_id) if completion.is_of_source(job)]


def is_processed(aws: "Aws", *, job_id: str, segment_index: int, source_etag: str | None) -> bool:
    """Whether a segment of exactly this source has a completion, so that a duplicate message need not be worked on.

    To have a segment processed again, remove its row from SegmentCompletions.
    """
    item = aws.dynamodb.get_item(
        TableName=aws.settings.segment_completions_table_name,
        Key={"job_id": {"S": job_id}, "segment_index": {"N": str(segment_index)}},
        ConsistentRead=True,
    ).get("Item", {})
    return source_etag is not None and item.get("source_etag", {}).get("S") == source_etag


def record_segment(
    aws: "Aws", *, job_id: str, segment_index: int, output_s3_uri: str, source_etag: str | None = None
) -> None:
    """Record that a segment is processed, and request the reassembly when it was the last one.

    `source_etag` is the metadata `source-etag` of the segment that was worked on. With it, a worker that is still busy
    with a replaced source does no harm.

    Safe to repeat, and correct when two last segments finish at the same moment or before the chunking has ended.
    Call it after the processed segment was uploaded.
    """
    job = read_job(aws, job_id)
    item: dict[str, Any] = {
        "job_id": {"S": job_id},
        "segment_index": {"N": str(segment_index)},
        "output_s3_uri": {"S": output_s3_uri},
        "completed_at": {"N": str(now_s())},
    }
    if source_etag is not None:
        item["source_etag"] = {"S": source_etag}
    if job and job.total_segments is not None:
        item["total_segments"] = {"N": str(job.total_segments)}
    aws.dynamodb.put_item(TableName=aws.settings.segment_completions_table_name, Item=item)
    trigger_if_complete(aws, job_id)


def trigger_if_complete(aws: "Aws", job_id: str) -> bool:
    """Request the reassembly if the chunking has ended and every completion is there. Says whether it was sent now.

    Two writers race here: one writes the status `chunking_complete`, the other the last completion. Both write first
    and then read consistently, so the later one sees both.
    """
    job = read_job(aws, job_id)
    if job is None or job.status not in _TRIGGERED_FROM or job.total_segments is None:
        return False
    indexes = [completion.segment_index for completion in current_completions(aws, job)]
    if describe_gaps(indexes, job.total_segments):
        return False
    if not (_create_trigger(aws, job) or _sender_is_lost(aws, job_id)):
        return False
    aws.sqs.send_message(QueueUrl=aws.settings.reassembly_queue_url, MessageBody=build_reassembly_body(job_id))
    _mark_sent(aws, job_id)
    logger.info("Reassembly requested", event="reassembly_requested", job_id=job_id, total_segments=job.total_segments)
    return True


def _create_trigger(aws: "Aws", job: Job) -> bool:
    """Create the job's row, or replace the one of an earlier run. Says whether this call wrote it."""
    now = now_s()
    try:
        aws.dynamodb.put_item(
            TableName=aws.settings.reassembly_triggered_table_name,
            Item={
                "job_id": {"S": job.job_id},
                "triggered_at": {"N": str(now)},
                "ttl": {"N": str(now + TRIGGER_TTL_S)},
                "run_started_at": {"N": str(job.run_started_at or 0)},
            },
            # A row written by another tracker does not name its run; its time tells, except within the same second.
            ConditionExpression="attribute_not_exists(job_id) OR run_started_at <> :run AND "
            "(attribute_exists(run_started_at) OR triggered_at < :run)",
            ExpressionAttributeValues={":run": {"N": str(job.run_started_at or 0)}},
        )
    except aws.dynamodb.exceptions.ConditionalCheckFailedException:
        return False
    return True


def _sender_is_lost(aws: "Aws", job_id: str) -> bool:
    """Whether the row's creator died before it sent: during the wait nothing was marked as sent and no join began."""
    deadline = time.monotonic() + _SENDER_GRACE_S
    while True:
        row = aws.dynamodb.get_item(
            TableName=aws.settings.reassembly_triggered_table_name,
            Key={"job_id": {"S": job_id}},
            ConsistentRead=True,
        ).get("Item", {})
        if "sent_at" in row or "reassembly_started_at" in row:
            return False
        if time.monotonic() >= deadline:
            logger.warning("Reassembly triggered but never sent: sending it", event="reassembly_resent", job_id=job_id)
            return True
        time.sleep(_SENDER_POLL_S)


def _mark_sent(aws: "Aws", job_id: str) -> None:
    aws.dynamodb.update_item(
        TableName=aws.settings.reassembly_triggered_table_name,
        Key={"job_id": {"S": job_id}},
        UpdateExpression="SET sent_at = :now",
        ExpressionAttributeValues={":now": {"N": str(now_s())}},
    )


def describe_gaps(indexes: Collection[int], total_segments: int) -> str | None:
    """How a set of segment indexes differs from 0..total-1, in words; None when it does not."""
    expected = range(total_segments)
    missing = sorted(set(expected) - set(indexes))
    unexpected = sorted(index for index in set(indexes) if index not in expected)
    twice = sorted(index for index, count in Counter(indexes).items() if count > 1)
    parts = [
        f"{label} {_ranges(numbers)}"
        for label, numbers in (("missing", missing), ("unexpected", unexpected), ("twice", twice))
        if numbers
    ]
    return f"of {total_segments} segments: " + "; ".join(parts) if parts else None


def _ranges(numbers: Sequence[int]) -> str:
    """Sorted numbers for a person: `3, 7-9`, and no more than a few runs of them."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    more = len(runs) - _RUNS_LISTED
    listed = [str(first) if first == last else f"{first}-{last}" for first, last in runs[:_RUNS_LISTED]]
    return ", ".join(listed) + (f" and {more} more runs" if more > 0 else "")
