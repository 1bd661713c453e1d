"""Events: each end of a job and each failed attempt at a segment, sent to EventBridge's default bus.

A function reads the streams of Jobs and SegmentAttempts, so whoever writes the row (a function, the sweep, a segment
worker, a person, other software) sends nothing itself and cannot forget to. Lambda delivers a record of the stream
again until the function has succeeded, for up to 24 hours: docs/decisions/0023-events-come-from-the-streams.md
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any

from media_worker.errors import TransferFailed
from media_worker.jobs import JobStatus, plain_row
from media_worker.keys import build_final_key
from media_worker.telemetry import logger

SOURCE = "media-worker"
# Raised when an attribute of `detail` is removed or changes its meaning. New attributes do not raise it.
SCHEMA_VERSION = "1"

_ENDS = {JobStatus.COMPLETED.value: "Job Completed", JobStatus.FAILED.value: "Job Failed"}
# https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html
_ENTRIES_AT_ONCE = 10
# What EventBridge refuses is sent again after these pauses, before the whole batch is delivered again.
_PAUSES_S = (0.2, 1.0)

_Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """An event, before it is an entry of PutEvents."""

    detail_type: str
    # Unix seconds.
    at_s: float
    detail: Mapping[str, Any]

    def to_entry(self) -> dict[str, Any]:
        """The entry of PutEvents."""
        return {
            "Source": SOURCE,
            "DetailType": self.detail_type,
            "Time": datetime.fromtimestamp(self.at_s, timezone.utc),
            "Detail": json.dumps(self.detail, default=_number),
        }


def build_events_handler(bus: Any, *, stack: str, output_bucket: str) -> Callable[[Mapping[str, Any], Any], None]:
    """The handler of the tables' streams. `bus` is the client of EventBridge.

    An error makes Lambda deliver the batch again.
    """

    def handle(event: Mapping[str, Any], _context: Any) -> None:
        events = [each for record in event["Records"] for each in events_of(record, stack, output_bucket)]
        for start in range(0, len(events), _ENTRIES_AT_ONCE):
            _send(bus, events[start : start + _ENTRIES_AT_ONCE])
        for each in events:
            logger.info("Event sent", event="event_sent", detail_type=each.detail_type, job_id=each.detail["job_id"])

    return handle


def events_of(record: Mapping[str, Any], stack: str, output_bucket: str) -> list[Event]:
    """The events that a change of a row stands for; none for most. Pure.

    A row that cannot be understood is logged and skipped: repeating it would hold up all others.
    """
    try:
        change = record["dynamodb"]
        new, old = plain_row(change.get("NewImage", {})), plain_row(change.get("OldImage", {}))
        common = {"schema_version": SCHEMA_VERSION, "stack": stack, "event_id": record["eventID"]}
        if "segment_index" in new:
            return list(_segment_events(new, old, common))
        return list(_job_events(new, old, common, output_bucket))
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        logger.exception("Change not understood", event="change_not_understood", reason=str(error))
        return []


def _job_events(new: _Row, old: _Row, common: _Row, output_bucket: str) -> Iterator[Event]:
    """A job has ended if its status has become `completed` or `failed`."""
    status = new.get("status")
    if status not in _ENDS or old.get("status") == status:
        return
    is_completed = status == JobStatus.COMPLETED.value
    ended_at = new.get("completed_at" if is_completed else "failed_at") or int(time.time())
    detail = {
        **common,
        "job_id": new["job_id"],
        "status": status,
        "error": None if is_completed else new.get("error"),
        "final_uri": f"s3://{output_bucket}/{build_final_key(new['job_id'])}" if is_completed else None,
        "segments": new.get("total_segments"),
        "frames": new.get("frames"),
        "seconds": {stage: _seconds(new.get(f"{stage}_steps")) for stage in ("chunking", "reassembly")},
        "cancelled": "cancelled_at" in new,
        "created_at": new.get("created_at"),
        "ended_at": ended_at,
    }
    yield Event(_ENDS[status], float(ended_at), detail)


def _seconds(steps: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any]:
    return {name: step["seconds"] for name, step in (steps or {}).items()}


def _segment_events(new: _Row, old: _Row, common: _Row) -> Iterator[Event]:
    """The failures that the row did not have before."""
    for failure in _added(new.get("failures", ()), old.get("failures", ())):
        detail = {
            **common,
            "event_id": f"{common['event_id']}/{failure['attempt']}",
            "job_id": new["job_id"],
            "status": "failed",
            "error": failure["error"],
            "segment_index": new["segment_index"],
            "attempt": failure["attempt"],
            "worker": failure["worker"],
            "failed_at": failure["at"],
        }
        yield Event("Segment Failed", float(failure["at"]), detail)


def _added(now: Iterable[_Row], before: Iterable[_Row]) -> list[_Row]:
    known = list(before)
    return [each for each in now if each not in known]


def _send(bus: Any, events: Sequence[Event]) -> None:
    """Send up to ten events.

    Raises:
        TransferFailed: EventBridge refused some repeatedly.
    """
    entries = [event.to_entry() for event in events]
    for pause_s in (*_PAUSES_S, None):
        answers = bus.put_events(Entries=entries)["Entries"]
        refused = [pair for pair in zip(entries, answers, strict=True) if "ErrorCode" in pair[1]]
        if not refused:
            return
        entries = [entry for entry, _ in refused]
        if pause_s is not None:
            time.sleep(pause_s)
    answer = refused[0][1]
    raise TransferFailed(f"{len(refused)} events were refused: {answer['ErrorCode']} {answer.get('ErrorMessage', '')}")


def _number(value: Any) -> int | float:
    """A number of DynamoDB, for JSON."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    raise TypeError(f"{type(value).__name__} cannot be sent")
