"""SegmentCompletions and ReassemblyTriggered: which processed segments exist, and requesting the join once."""

import os
import random
import socket
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

from media_worker.errors import BadSegment, StaleSegment, TransferFailed
from media_worker.jobs import Job, JobStatus, now_s, read_job
from media_worker.keys import MAX_SEGMENTS, OutputSegmentKey, parse_output_segment_key
from media_worker.messages import build_reassembly_body
from media_worker.telemetry import logger

if TYPE_CHECKING:
    from media_worker.aws import Aws


# A row of ReassemblyTriggered is not needed longer than messages and their dead letters live.
TRIGGER_TTL_S = 30 * 24 * 3600
# A sender that has not marked its message as sent for so long is presumed dead. Shorter than the visibility timeouts
# of the functions' queues and of the worker kit's default: the next delivery of the dead sender's message sends it, and
# if there is none, the sweep does.
SENDER_GRACE_S = 10
_RUNS_LISTED = 10
# Rows on the pages of a search for a gap: the first is small, because a job that is far from done has many gaps.
_PAGE_ROWS = (8, 32, 128, 512)

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
    # The digest of the plan that the segment belongs to. None: the worker did not say.
    plan: str | None = None

    def counts_for(self, job: Job) -> bool:
        """Whether it belongs to the job's present plan. One that names no plan does, unless the plan is newer."""
        if self.plan is not None:
            return self.plan == job.plan
        return job.replanned_at is None or self.completed_at >= job.replanned_at

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
    return list(_read_from(aws, job_id, 0))


def _read_from(
    aws: "Aws", job_id: str, begin: int, last: int = MAX_SEGMENTS, pages: Sequence[int | None] = (None,)
) -> Iterator[Completion]:
    """The completions from index `begin` to `last`, read page by page as they are needed. `pages` limits the number of
    rows on each page; its last limit holds for all that follow.
    """
    query: Any = {
        "TableName": aws.settings.segment_completions_table_name,
        "KeyConditionExpression": "job_id = :job_id AND segment_index BETWEEN :begin AND :last",
        "ExpressionAttributeValues": {
            ":job_id": {"S": job_id},
            ":begin": {"N": str(begin)},
            ":last": {"N": str(last)},
        },
        "ProjectionExpression": "segment_index, output_s3_uri, completed_at, #plan",
        "ExpressionAttributeNames": {"#plan": "plan"},
        "ConsistentRead": True,
    }
    for limit in chain(pages, repeat(pages[-1])):
        query |= {"Limit": limit} if limit else {}
        answer = aws.dynamodb.query(**query)
        yield from map(_from_item, answer["Items"])
        if "LastEvaluatedKey" not in answer:
            return
        query["ExclusiveStartKey"] = answer["LastEvaluatedKey"]


def _from_item(item: Mapping[str, Any]) -> Completion:
    return Completion(
        int(item["segment_index"]["N"]),
        item["output_s3_uri"]["S"],
        Decimal(item.get("completed_at", {}).get("N", "0")),
        item.get("plan", {}).get("S"),
    )


def is_complete(aws: "Aws", job: Job) -> bool:
    """Whether every segment of the job's present plan has its completion, and no other segment has one.

    Every worker asks this after every segment, so it must not read every row, nor count them: DynamoDB bills a count
    like a read (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Query.Other.html). It reads from a
    random index on, and stops at the first gap. Over a whole job of n segments that reads about n log n rows, where
    counting reads n * n / 2.
    """
    if not (total := job.total_segments):
        return False
    begin = random.randrange(total)  # noqa: S311  # spreads the reads, protects nothing
    return _has_run(aws, job, begin, total) and _has_run(aws, job, 0, begin)


def _has_run(aws: "Aws", job: Job, begin: int, end: int) -> bool:
    """Whether the completions from `begin` to before `end` are all there and belong to the present plan. A run to the
    last segment must end there: no row may follow.
    """
    expected = begin
    last = MAX_SEGMENTS if end == job.total_segments else end - 1
    for completion in _read_from(aws, job.job_id, begin, last, _PAGE_ROWS) if last >= begin else ():
        if completion.segment_index != expected or not completion.counts_for(job):
            return False
        expected += 1
    return expected == end


def current_completions(aws: "Aws", job: Job) -> list[Completion]:
    """The completions of the job's present plan: those of a plan that was replaced do not count."""
    return [completion for completion in read_completions(aws, job.job_id) if completion.counts_for(job)]


def is_processed(aws: "Aws", *, job_id: str, segment_index: int, plan: str | None) -> bool:
    """Whether a segment of exactly this plan has a completion, so that a duplicate message need not be worked on.

    To have a segment processed again, remove its row from SegmentCompletions.
    """
    item = aws.dynamodb.get_item(
        TableName=aws.settings.segment_completions_table_name,
        Key={"job_id": {"S": job_id}, "segment_index": {"N": str(segment_index)}},
        ConsistentRead=True,
    ).get("Item", {})
    return plan is not None and item.get("plan", {}).get("S") == plan


def require_current_plan(job: Job | None, plan: str | None) -> None:
    """Refuse work on a segment that does not count any more. Workers call this before they upload.

    Raises:
        StaleSegment: the job is gone, deleted or completed, or has another plan than the segment.
    """
    if job is None or job.status in {JobStatus.DELETED, JobStatus.COMPLETED}:
        raise StaleSegment(f"the job is {job.status if job else 'gone'}: its segments are not needed any more")
    if plan is not None and plan != job.plan:
        raise StaleSegment(f"job {job.job_id} was planned again: the segment belongs to plan {plan}, not {job.plan}")


def record_segment(aws: "Aws", *, job_id: str, segment_index: int, output_s3_uri: str, plan: str | None = None) -> None:
    """Record that a segment is processed, and request the reassembly when it was the last one.

    `plan` is the metadata `plan` of the segment that was worked on. With it, a worker that is still busy with a
    segment of a replaced plan does no harm.

    Safe to repeat, and correct when two last segments finish at the same moment or before the chunking has ended.
    Call it after the processed segment was uploaded.

    Raises:
        StaleSegment: the segment belongs to a plan that was replaced, or the job is deleted.
    """
    job = read_job(aws, job_id)
    if job and job.status is JobStatus.DELETED:
        raise StaleSegment("the job is deleted: its segments are not needed any more")
    item: dict[str, Any] = {
        "job_id": {"S": job_id},
        "segment_index": {"N": str(segment_index)},
        "output_s3_uri": {"S": output_s3_uri},
        "completed_at": {"N": str(now_s())},
    }
    if job and job.total_segments is not None:
        item["total_segments"] = {"N": str(job.total_segments)}
    if plan is None:
        aws.dynamodb.put_item(TableName=aws.settings.segment_completions_table_name, Item=item)
    else:
        require_current_plan(job, plan)
        _put_if_current(aws, {**item, "plan": {"S": plan}})
    trigger_if_complete(aws, job_id)


def _put_if_current(aws: "Aws", item: dict[str, Any]) -> None:
    """Write a completion if the job still has its plan, in one transaction: a stale row must not replace a good one."""
    check: Any = {
        "TableName": aws.settings.jobs_table_name,
        "Key": {"job_id": item["job_id"]},
        "ConditionExpression": "#plan = :plan",
        "ExpressionAttributeNames": {"#plan": "plan"},
        "ExpressionAttributeValues": {":plan": item["plan"]},
    }
    put: Any = {"TableName": aws.settings.segment_completions_table_name, "Item": item}
    try:
        aws.dynamodb.transact_write_items(TransactItems=[{"ConditionCheck": check}, {"Put": put}])
    except aws.dynamodb.exceptions.TransactionCanceledException as error:
        reasons: Any = error.response.get("CancellationReasons", [])
        if any(reason.get("Code") == "ConditionalCheckFailed" for reason in reasons):
            raise StaleSegment("the job was planned again while the segment was being processed") from error
        raise TransferFailed(f"the completion was not written: {error}") from error


def trigger_if_complete(aws: "Aws", job_id: str) -> bool:
    """Request the reassembly if the chunking has ended and every completion is there. Says whether it was sent now.

    Returns at once: a worker on a GPU must not wait for other workers.

    Two writers race here: one writes the status `chunking_complete`, the other the last completion. Both write first
    and then read consistently, so the later one sees both.
    """
    job = read_job(aws, job_id)
    if job is None or job.status not in _TRIGGERED_FROM or job.cancelled_at or not is_complete(aws, job):
        return False
    sender = _sender()
    if not (_create_trigger(aws, job, sender) or _shall_send(aws, job_id, sender)):
        return False
    request_reassembly(aws, job)
    return True


def request_reassembly(aws: "Aws", job: Job) -> None:
    """Send the message, and mark that in the job's row. A message too many does no harm."""
    aws.sqs.send_message(QueueUrl=aws.settings.reassembly_queue_url, MessageBody=build_reassembly_body(job.job_id))
    _mark_sent(aws, job.job_id)
    total = job.total_segments
    logger.info("Reassembly requested", event="reassembly_requested", job_id=job.job_id, total_segments=total)


def _create_trigger(aws: "Aws", job: Job, sender: str) -> bool:
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
                "sender": {"S": sender},
            },
            # A row written by another tracker does not name its run; its time tells, except within the same second.
            ConditionExpression="attribute_not_exists(job_id) OR run_started_at <> :run AND "
            "(attribute_exists(run_started_at) OR triggered_at < :run)",
            ExpressionAttributeValues={":run": {"N": str(job.run_started_at or 0)}},
        )
    except aws.dynamodb.exceptions.ConditionalCheckFailedException:
        return False
    return True


def _sender() -> str:
    """A name for this thread, which must recognize its own row when it repeats the step after an unanswered write."""
    return f"{socket.gethostname()}/{os.getpid()}/{threading.get_ident()}"


def _shall_send(aws: "Aws", job_id: str, sender: str) -> bool:
    """Whether the message is to be sent although the row exists: nothing was marked as sent, and no join is at work.

    The row may be our own: the SDK repeats a call whose answer was lost, and is refused then. Another creator may be
    about to send, so it gets a moment. A row that a join has left behind was created by that: a message sent by hand
    came before the segments were processed.
    """
    row = read_trigger(aws, job_id)
    if not row or "sent_at" in row or "reassembly_started_at" in row:
        return False
    if row.get("sender") == {"S": sender}:
        return True
    if "lease_attempts" not in row and now_s() - int(row["triggered_at"]["N"]) < SENDER_GRACE_S:
        return False
    logger.warning("Reassembly triggered but never sent: sending it", event="reassembly_resent", job_id=job_id)
    return True


def read_trigger(aws: "Aws", job_id: str) -> Mapping[str, Any]:
    """The job's row in ReassemblyTriggered, in DynamoDB's typed form; empty if there is none."""
    table = aws.settings.reassembly_triggered_table_name
    return aws.dynamodb.get_item(TableName=table, Key={"job_id": {"S": job_id}}, ConsistentRead=True).get("Item", {})


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
        f"{label} {describe_ranges(numbers)}"
        for label, numbers in (("missing", missing), ("unexpected", unexpected), ("twice", twice))
        if numbers
    ]
    return f"of {total_segments} segments: " + "; ".join(parts) if parts else None


def describe_ranges(numbers: Sequence[int]) -> str:
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
