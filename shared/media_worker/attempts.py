"""SegmentAttempts: what segment workers are doing, and how their attempts ended.

One row per segment: its latest attempt and its last failures. The table is optional. Workers write it for people, for
`media-worker show` and for the sweep; and they read it so that a segment which was announced twice is not processed by
two workers at the same time. SegmentCompletions alone says which segments are processed.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import BotoCoreError, ClientError

from media_worker.telemetry import logger

if TYPE_CHECKING:
    from media_worker.aws import Aws

# Rows are removed by DynamoDB this long after the last write.
_TTL_S = 30 * 24 * 3600
_FAILURES_LISTED = 5
_MAX_ERROR = 2_000
# Present from the start of an attempt to its next write if the attempt before it has died. By this, the stream's filter
# finds the write that added the failure (events.yaml); heartbeats repeat the failures, and must not pass.
_PREVIOUS_ATTEMPT = "previous_attempt"
# The error of an attempt whose worker was killed.
DIED = "the worker ended without reporting an error"

_deserialize = TypeDeserializer().deserialize
_serialize = TypeSerializer().serialize


class AttemptState(str, Enum):
    """What an attempt is doing, or how it ended."""

    RUNNING = "running"
    # Stopped before its end, because its worker was; its message was returned to the queue.
    RETURNED = "returned"
    FAILED = "failed"
    DONE = "done"

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that failed."""

    attempt: int
    worker: str
    at: int
    error: str

    def to_map(self) -> dict[str, Any]:
        """The form that is stored."""
        return {"attempt": self.attempt, "worker": self.worker, "at": self.at, "error": self.error}


@dataclass(frozen=True, slots=True)
class Attempt:
    """A row: the latest attempt at a segment. Times are Unix seconds."""

    job_id: str
    segment_index: int
    attempt: int
    worker: str
    # Identifies the attempt: the message and its receive count.
    run_id: str
    state: AttemptState = AttemptState.RUNNING
    started_at: int = 0
    heartbeat_at: int = 0
    # Until then a running attempt counts as alive; its heartbeat moves this forward.
    expires_at: int = 0
    # From 0 to 1, if the command says.
    progress: float | None = None
    error: str | None = None
    plan: str | None = None
    # The last failures of this segment under this plan, the oldest first.
    failures: tuple[Failure, ...] = ()

    @property
    def message_id(self) -> str:
        """The message that the attempt belongs to."""
        return self.run_id.rpartition("/")[0]

    def is_alive(self, now_s: float) -> bool:
        """Whether a worker is processing the segment."""
        return self.state is AttemptState.RUNNING and self.expires_at > now_s

    @classmethod
    def from_item(cls, item: Mapping[str, Any]) -> "Attempt":
        """Read a row, in DynamoDB's typed form."""
        row = {name: _deserialize(value) for name, value in item.items()}
        failures = [
            Failure(int(each["attempt"]), each["worker"], int(each["at"]), each["error"])
            for each in row.get("failures", [])
        ]
        return cls(
            job_id=row["job_id"],
            segment_index=int(row["segment_index"]),
            attempt=int(row["attempt"]),
            worker=row["worker"],
            run_id=row["run_id"],
            state=AttemptState(row["state"]),
            started_at=int(row["started_at"]),
            heartbeat_at=int(row["heartbeat_at"]),
            expires_at=int(row["expires_at"]),
            progress=None if row.get("progress") is None else float(row["progress"]),
            error=row.get("error"),
            plan=row.get("plan"),
            failures=tuple(failures),
        )

    def to_item(self) -> dict[str, Any]:
        """The row, in DynamoDB's typed form."""
        row = {
            "job_id": self.job_id,
            "segment_index": self.segment_index,
            "attempt": self.attempt,
            "worker": self.worker,
            "run_id": self.run_id,
            "state": self.state.value,
            "started_at": self.started_at,
            "heartbeat_at": self.heartbeat_at,
            "expires_at": self.expires_at,
            "progress": None if self.progress is None else _decimal(self.progress),
            "error": self.error,
            "plan": self.plan,
            "failures": [failure.to_map() for failure in self.failures] or None,
            "ttl": int(time.time()) + _TTL_S,
        }
        return {name: _serialize(value) for name, value in row.items() if value is not None}


def read_attempts(aws: "Aws", job_id: str) -> list[Attempt]:
    """The attempts of a job's segments, in the order of their indexes; none without the table."""
    if (table := aws.settings.segment_attempts_table_name) is None:
        return []
    pages = aws.dynamodb.get_paginator("query").paginate(
        TableName=table,
        KeyConditionExpression="job_id = :job_id",
        ExpressionAttributeValues={":job_id": {"S": job_id}},
        ConsistentRead=True,
    )
    return [Attempt.from_item(item) for page in pages for item in page["Items"]]


def read_attempt(aws: "Aws", job_id: str, segment_index: int) -> Attempt | None:
    """The latest attempt at a segment, or None when there was none, or when there is no table."""
    if (table := aws.settings.segment_attempts_table_name) is None:
        return None
    key: Any = {"job_id": {"S": job_id}, "segment_index": {"N": str(segment_index)}}
    item = aws.dynamodb.get_item(TableName=table, Key=key, ConsistentRead=True).get("Item")
    return Attempt.from_item(item) if item else None


def begin_attempt(aws: "Aws", attempt: Attempt) -> Attempt | None:
    """Record that an attempt is running. Returns the running attempt that is in its way, if there is one.

    An attempt that was running and is not alive any more ended without saying so: it is added to the failures.
    """
    if (table := aws.settings.segment_attempts_table_name) is None:
        return None
    before = read_attempt(aws, attempt.job_id, attempt.segment_index)
    if before and before.plan == attempt.plan and before.run_id != attempt.run_id and before.is_alive(time.time()):
        return before
    failures = failures_after(before, attempt.plan)
    item = {**attempt.to_item(), **({"failures": _serialize([each.to_map() for each in failures])} if failures else {})}
    if failures and before and before.state is AttemptState.RUNNING:
        item[_PREVIOUS_ATTEMPT] = {"S": "died"}
    condition: dict[str, Any] = (
        {
            "ConditionExpression": "run_id = :before AND expires_at = :expires_at",
            "ExpressionAttributeValues": {
                ":before": {"S": before.run_id},
                ":expires_at": {"N": str(before.expires_at)},
            },
        }
        if before
        else {"ConditionExpression": "attribute_not_exists(job_id)"}
    )
    try:
        aws.dynamodb.put_item(TableName=table, Item=item, **condition)
    except aws.dynamodb.exceptions.ConditionalCheckFailedException:
        now = read_attempt(aws, attempt.job_id, attempt.segment_index)
        return now if now and now.run_id != attempt.run_id else None
    return None


def failures_after(before: Attempt | None, plan: str | None) -> Sequence[Failure]:
    """The failures that an attempt which follows `before` inherits."""
    if before is None or before.plan != plan:
        return ()
    died = Failure(before.attempt, before.worker, before.heartbeat_at, DIED)
    failures = (*before.failures, *([died] if before.state is AttemptState.RUNNING else []))
    return failures[-_FAILURES_LISTED:]


def beat_attempt(aws: "Aws", attempt: Attempt, expires_at: int, progress: float | None) -> bool:
    """Say that an attempt is alive. Returns False when another attempt has replaced it."""
    changes: dict[str, Any] = {"heartbeat_at": int(time.time()), "expires_at": expires_at}
    if progress is not None:
        changes["progress"] = _decimal(progress)
    return _change(aws, attempt, changes)


def end_attempt(aws: "Aws", attempt: Attempt, state: AttemptState, error: str | None = None) -> Sequence[Failure]:
    """Record how an attempt ended. Returns the failures of the segment, this one included; none without the table."""
    if aws.settings.segment_attempts_table_name is None:
        return ()
    now = int(time.time())
    changes: dict[str, Any] = {"state": state.value, "heartbeat_at": now, "expires_at": now}
    if state is AttemptState.DONE:
        changes["progress"] = Decimal(1)
    failures: tuple[Failure, ...] = ()
    if error is not None:
        failure = Failure(attempt.attempt, attempt.worker, now, error[:_MAX_ERROR])
        failures = (*_earlier_failures(aws, attempt), failure)[-_FAILURES_LISTED:]
        changes |= {"error": failure.error, "failures": [each.to_map() for each in failures]}
    _change(aws, attempt, changes)
    return failures


def end_running_attempt(aws: "Aws", job_id: str, segment_index: int) -> None:
    """Record that the attempt at a processed segment is done: its worker died after the completion."""
    attempt = read_attempt(aws, job_id, segment_index)
    if attempt and attempt.state is AttemptState.RUNNING:
        end_attempt(aws, attempt, AttemptState.DONE)


def _earlier_failures(aws: "Aws", attempt: Attempt) -> Sequence[Failure]:
    try:
        found = read_attempt(aws, attempt.job_id, attempt.segment_index)
    except (BotoCoreError, ClientError) as error:
        logger.warning("Attempt not read", event="attempt_not_read", job_id=attempt.job_id, reason=str(error))
        return ()
    return found.failures if found and found.run_id == attempt.run_id else ()


def _change(aws: "Aws", attempt: Attempt, changes: Mapping[str, Any]) -> bool:
    """Write to the attempt's row. Returns False when another attempt has replaced it.

    A table that cannot be written must not stop work that costs thousands of times more: the error is logged.
    """
    if (table := aws.settings.segment_attempts_table_name) is None:
        return True
    try:
        aws.dynamodb.update_item(
            TableName=table,
            Key={"job_id": {"S": attempt.job_id}, "segment_index": {"N": str(attempt.segment_index)}},
            UpdateExpression="SET "
            + ", ".join(f"#{name} = :{name}" for name in changes)
            + f" REMOVE {_PREVIOUS_ATTEMPT}",
            ConditionExpression="run_id = :run_id",
            ExpressionAttributeNames={f"#{name}": name for name in changes},
            ExpressionAttributeValues={f":{name}": _serialize(value) for name, value in changes.items()}
            | {":run_id": {"S": attempt.run_id}},
        )
    except aws.dynamodb.exceptions.ConditionalCheckFailedException:
        return False
    except (BotoCoreError, ClientError) as error:
        logger.warning("Attempt not recorded", event="attempt_not_recorded", job_id=attempt.job_id, reason=str(error))
    return True


def _decimal(progress: float) -> Decimal:
    return Decimal(f"{progress:.4f}")
