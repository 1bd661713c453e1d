"""The Jobs table: what a job is, and which transitions its status allows."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, get_args

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer

from media_worker.cutting import Cutting, parse_cutting
from media_worker.errors import JobMoved, LeaseLost, PermanentError
from media_worker.keys import parse_mode
from media_worker.settings import ENGINES, TRACKS, Engine, Tracks, one_of

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from media_worker.plan import Plan


# Whether the frames of processed segments are compared with the plan.
FrameCheck = Literal["auto", "any"]
FRAME_CHECKS: tuple[FrameCheck, ...] = get_args(FrameCheck)

# Which tracks of the source the segments have.
SegmentTracks = Literal["all", "video"]
SEGMENT_TRACKS: tuple[SegmentTracks, ...] = get_args(SegmentTracks)


# The most frames of context on each side of a segment.
MAX_CONTEXT_FRAMES = 1000


class JobStatus(str, Enum):
    """Where a job stands."""

    CREATED = "created"
    INGESTING = "ingesting"
    CHUNKING_IN_PROGRESS = "chunking_in_progress"
    CHUNKING_COMPLETE = "chunking_complete"
    REASSEMBLING = "reassembling"
    COMPLETED = "completed"
    FAILED = "failed"
    DELETED = "deleted"

    def __str__(self) -> str:
        return str(self.value)


# From which statuses each status can be reached. Nothing leads out of `completed` and `deleted`. A status that follows
# itself is a step resumed after a crash; one that follows `failed` is a message that was redriven.
TRANSITIONS: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.CHUNKING_IN_PROGRESS: frozenset(
        {JobStatus.CREATED, JobStatus.INGESTING, JobStatus.CHUNKING_IN_PROGRESS, JobStatus.FAILED}
    ),
    JobStatus.CHUNKING_COMPLETE: frozenset({JobStatus.CHUNKING_IN_PROGRESS}),
    # From chunking_in_progress too: if every completion is there, every segment was written, even when the chunking
    # died before it could say so.
    JobStatus.REASSEMBLING: frozenset(
        {JobStatus.CHUNKING_IN_PROGRESS, JobStatus.CHUNKING_COMPLETE, JobStatus.REASSEMBLING, JobStatus.FAILED}
    ),
    JobStatus.COMPLETED: frozenset({JobStatus.REASSEMBLING}),
    JobStatus.FAILED: frozenset(
        {
            JobStatus.CREATED,
            JobStatus.INGESTING,
            JobStatus.CHUNKING_IN_PROGRESS,
            JobStatus.CHUNKING_COMPLETE,
            JobStatus.REASSEMBLING,
            JobStatus.FAILED,
        }
    ),
}

# From which statuses a person can cancel and retry a job. Delete is possible from every status.
CANCELLABLE = frozenset(JobStatus) - {JobStatus.COMPLETED, JobStatus.DELETED}
RETRIABLE = frozenset({JobStatus.FAILED, JobStatus.COMPLETED})

# Present in the row of a cancelled job, which is `failed`. While it is there, no step may change the status: a message
# that was on its way does not revive the job. An explicit retry removes it.
CANCELLED_AT = "cancelled_at"
_NOT_CANCELLED = f"attribute_not_exists({CANCELLED_AT})"

# The end of a job's row, in Unix seconds, for DynamoDB's time to live.
EXPIRES_AT = "expires_at"
_ENDED = frozenset({JobStatus.COMPLETED, JobStatus.FAILED})
# The row of a deleted job refuses late messages. It is not needed longer than messages and their dead letters live.
_DELETED_ROW_S = 30 * 24 * 3600
_DAY_S = 24 * 3600

# The mark of the sweep on a job that it found idle (sweep.py). Every step of the job removes it.
SWEEP_IDLE = "sweep_idle"

# The chunking lease lives in the job's row; this attribute is present while the lease is held.
CHUNKING_STARTED_AT = "chunking_started_at"
_CHUNKING_LEASE = (CHUNKING_STARTED_AT, "lease_holder", "lease_expires_at", "lease_attempts")

# Which jobs each stage may mark `failed`: a job that has moved on belongs to the next stage.
CHUNKING_STATUSES = frozenset({JobStatus.CREATED, JobStatus.INGESTING, JobStatus.CHUNKING_IN_PROGRESS})
REASSEMBLY_STATUSES = frozenset({JobStatus.CHUNKING_COMPLETE, JobStatus.REASSEMBLING})

# DynamoDB allows 400 KB a row; nobody reads an error longer than this.
_MAX_ERROR = 2_000

_deserialize = TypeDeserializer().deserialize
_serialize = TypeSerializer().serialize


@dataclass(frozen=True, slots=True)
class Fence:
    """Lets only the holder of a lease write the job's row.

    A process that was paused does not know that its lease was taken over, so DynamoDB refuses its writes
    (https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html). The chunking lease is in the row, so
    its holder must be the present one. The reassembly lease is in another table: there, each write leaves the time at
    which its lease was taken, and later a write under an older lease is refused.
    """

    attribute: str
    value: str | int

    @property
    def condition(self) -> str:
        """The condition for `:fence`."""
        name = self.attribute
        if isinstance(self.value, str):
            return f"{name} = :fence"
        return f"(attribute_not_exists({name}) OR {name} <= :fence)"

    @property
    def changes(self) -> dict[str, int]:
        """The attributes that a write leaves for later ones."""
        return {} if isinstance(self.value, str) else {self.attribute: self.value}

    def is_broken_in(self, item: Mapping[str, Any]) -> bool:
        """Whether a row, in DynamoDB's typed form, belongs to another holder."""
        return self.attribute in item and _deserialize(item[self.attribute]) != self.value


def chunking_fence(holder: str) -> Fence:
    """The fence of a chunking lease."""
    return Fence("lease_holder", holder)


def reassembly_fence(taken_at: int) -> Fence:
    """The fence of a reassembly lease that was taken at this time, in Unix seconds."""
    return Fence("reassembly_lease_taken_at", taken_at)


@dataclass(frozen=True, slots=True)
class Job:
    """A row of the Jobs table, as far as we use it."""

    job_id: str
    status: JobStatus
    mode: str
    total_segments: int | None = None
    segment_duration_s: Fraction | None = None
    engine: Engine | None = None
    source_etag: str | None = None
    # The digest of the job's plan. None: not planned yet, or planned by other software.
    plan: str | None = None
    # Unix seconds at which the present plan replaced another one.
    replanned_at: int | None = None
    frame_check: FrameCheck = "auto"
    # Where the final's audio comes from. None: the stack's setting.
    tracks: Tracks | None = None
    segment_tracks: SegmentTracks = "all"
    # Frames that each segment also presents before its first and after its last one.
    context_frames: int = 0
    # Cut times, a number of segments, or a maximum duration, as far as the row has them.
    cutting: Cutting = field(default_factory=Cutting)
    # Unix seconds at which the present run of the job began: a redriven job starts a new run.
    run_started_at: int | None = None
    error: str | None = None
    # Something that the user should know, such as why there is a single segment.
    notice: str | None = None
    # Unix seconds at which a person cancelled the job. None: not cancelled, or retried since.
    cancelled_at: int | None = None
    # Unix seconds at which segments were chosen to be processed again. While present, an earlier final does not count.
    segments_retried_at: int | None = None

    def can_become(self, status: JobStatus) -> bool:
        """Whether a step may set this status."""
        return self.cancelled_at is None and self.status in TRANSITIONS[status]

    @classmethod
    def from_item(cls, item: Mapping[str, Any]) -> "Job":
        """Read a row, in DynamoDB's typed form.

        Raises:
            PermanentError: an attribute that we need is missing or does not meet the contract.
        """
        row = plain_row(item)
        try:
            return cls(
                job_id=row["job_id"],
                status=JobStatus(row["status"]),
                mode=parse_mode(row["mode"]),
                total_segments=_integer(row.get("total_segments")),
                segment_duration_s=_positive(row.get("segment_duration_sec")),
                engine=one_of(ENGINES, row["engine"]) if row.get("engine") else None,
                source_etag=row.get("source_etag"),
                plan=row.get("plan"),
                replanned_at=_integer(row.get("replanned_at")),
                frame_check=one_of(FRAME_CHECKS, row.get("frame_check") or "auto"),
                tracks=one_of(TRACKS, row["tracks"]) if row.get("tracks") else None,
                segment_tracks=one_of(SEGMENT_TRACKS, row.get("segment_tracks") or "all"),
                context_frames=_context_frames(row.get("context_frames")),
                cutting=parse_cutting(row),
                run_started_at=_integer(row.get("run_started_at")),
                error=row.get("error"),
                notice=row.get("notice"),
                cancelled_at=_integer(row.get(CANCELLED_AT)),
                segments_retried_at=_integer(row.get("segments_retried_at")),
            )
        except (KeyError, ValueError, TypeError, ArithmeticError) as error:
            raise PermanentError(f"the job's row cannot be used: {type(error).__name__}: {error}") from error


def read_job(aws: "Aws", job_id: str) -> Job | None:
    """The job, read consistently, or None when there is no such row."""
    response = aws.dynamodb.get_item(
        TableName=aws.settings.jobs_table_name, Key={"job_id": {"S": job_id}}, ConsistentRead=True
    )
    return Job.from_item(response["Item"]) if "Item" in response else None


def read_row(aws: "Aws", job_id: str) -> dict[str, Any]:
    """All attributes of a job's row as plain values; empty when there is no such row."""
    key = {"job_id": {"S": job_id}}
    response = aws.dynamodb.get_item(TableName=aws.settings.jobs_table_name, Key=key, ConsistentRead=True)
    return plain_row(response.get("Item", {}))


def plain_row(item: Mapping[str, Any]) -> dict[str, Any]:
    """A row in DynamoDB's typed form as plain values."""
    return {name: _deserialize(value) for name, value in item.items()}


# The functions that take a fence raise JobMoved if the job's status does not allow the step, and LeaseLost if another
# invocation has taken over the lease.


def begin_chunking(aws: "Aws", job: Job, fence: Fence | None = None) -> None:
    """Set `chunking_in_progress`. A new run records its start; a resumed one keeps it."""
    new_run = job.status is not JobStatus.CHUNKING_IN_PROGRESS
    started = {"run_started_at": _next_run(job)} if new_run else {}
    _move(aws, job.job_id, JobStatus.CHUNKING_IN_PROGRESS, _Change(started, ("error",)), fence=fence)


def record_plan(aws: "Aws", job: Job, plan: "Plan", fence: Fence | None = None) -> Job:
    """Write what every segment's key depends on, and the plan's digest, before the first segment is written. Returns
    the job with it.

    If the job had another plan, record when it was replaced: completions from before that do not name their plan
    belong to the old one and must not be joined.
    """
    attributes: dict[str, Any] = {
        "total_segments": len(plan.segments),
        "source_etag": plan.source.etag,
        "plan": plan.digest,
        "frames": plan.frames,
    }
    if plan.segment_duration_s is not None:
        attributes["segment_duration_sec"] = _exact(plan.segment_duration_s)
    if job.plan not in {None, plan.digest} or job.source_etag not in {None, plan.source.etag}:
        attributes["replanned_at"] = now_s()
    if plan.notice:
        attributes["notice"] = plan.notice
    change = _Change(attributes, () if plan.notice else ("notice",))
    return Job.from_item(_move(aws, job.job_id, JobStatus.CHUNKING_IN_PROGRESS, change, fence=fence))


def finish_chunking(aws: "Aws", job_id: str, steps: Mapping[str, Any], fence: Fence | None = None) -> None:
    """Set `chunking_complete`, with the seconds and bytes of each step. The same write ends the lease."""
    _move(aws, job_id, JobStatus.CHUNKING_COMPLETE, _Change({"chunking_steps": steps}, _CHUNKING_LEASE), fence=fence)


def begin_reassembly(aws: "Aws", job_id: str, fence: Fence | None = None) -> None:
    """Set `reassembling`."""
    _move(aws, job_id, JobStatus.REASSEMBLING, _Change({}, ("error",)), fence=fence)


def finish_reassembly(
    aws: "Aws", job_id: str, steps: Mapping[str, Any], tracks_used: str, fence: Fence | None = None
) -> None:
    """Set `completed`, with the time, the seconds and bytes of each step, and where the audio came from."""
    done = {"completed_at": now_s(), "reassembly_steps": steps, "tracks_used": tracks_used}
    _move(aws, job_id, JobStatus.COMPLETED, _Change(done, ("error", "segments_retried_at")), fence=fence)


def fail_job(
    aws: "Aws",
    job_id: str,
    error: str,
    statuses: frozenset[JobStatus] | None = None,
    *,
    ends_chunking_lease: bool = False,
    fence: Fence | None = None,
) -> bool:
    """Set `failed` and the reason, unless the job is absent, completed or deleted. Says whether it was set.

    With `statuses`, only from these: a stage must not fail a job that has moved on to the next stage. The holder of
    the chunking lease ends it in the same write, so that the table's stream shows one change.
    """
    attributes = {"error": error[:_MAX_ERROR], "failed_at": now_s()}
    ended = _CHUNKING_LEASE if ends_chunking_lease else ()
    try:
        _move(aws, job_id, JobStatus.FAILED, _Change(attributes, ended), only_from=statuses, fence=fence)
    except JobMoved:
        return False
    return True


@contextmanager
def failing_job(
    aws: "Aws", job_id: str, *, ends_chunking_lease: bool = False, fence: Fence | None = None
) -> Iterator[None]:
    """Set the job `failed` when the body raises a PermanentError, which is raised again."""
    try:
        yield
    except PermanentError as error:
        fail_job(aws, job_id, str(error), ends_chunking_lease=ends_chunking_lease, fence=fence)
        raise


def _next_run(job: Job) -> int:
    """The start of a new run. It identifies the run, so two runs must not have the same."""
    return max(now_s(), (job.run_started_at or 0) + 1)


def now_s() -> int:
    """Unix seconds."""
    return int(time.time())


@dataclass(frozen=True, slots=True)
class _Change:
    """What a transition does to the other attributes of the row."""

    sets: Mapping[str, Any]
    removes: tuple[str, ...] = ()


# What a person does to a job ------------------------------------------------------------------------------------------


def cancel(aws: "Aws", job: Job, by: str) -> None:
    """Set `failed`, so that neither a step nor a message that is on its way changes the status again.

    Raises:
        JobMoved: the job is completed, deleted or cancelled already.
    """
    error = f"cancelled by {by}"
    if job.status is JobStatus.FAILED and job.error:
        error += f"; it had failed before: {job.error}"
    attributes = {"error": error[:_MAX_ERROR], "failed_at": now_s(), CANCELLED_AT: now_s()}
    _move(aws, job.job_id, JobStatus.FAILED, _Change(attributes), only_from=CANCELLABLE)


def begin_retry(aws: "Aws", job: Job, to: JobStatus, attributes: Mapping[str, Any], remove: Sequence[str] = ()) -> None:
    """Start a new run of a failed or completed job at `created` or `chunking_complete`.

    Raises:
        JobMoved: the job's status has changed since it was read.
    """
    changes = {"status": to.value, "run_started_at": _next_run(job), "retried_at": now_s(), **attributes}
    ended = ("error", "failed_at", "completed_at", CANCELLED_AT, EXPIRES_AT, SWEEP_IDLE, "lease_attempts", *remove)
    _write(aws, job.job_id, _Change(changes, ended), RETRIABLE & {job.status})


def record_resend(aws: "Aws", job_id: str) -> None:
    """Record that segments of a job that waits for them are announced again.

    Raises:
        JobMoved: the job does not wait for segments any more.
    """
    waits = JobStatus.CHUNKING_COMPLETE
    change = _Change({"status": waits.value, "retried_at": now_s()}, (SWEEP_IDLE,))
    _write(aws, job_id, change, frozenset({waits}), _NOT_CANCELLED)


def mark_deleted(aws: "Aws", job_id: str) -> None:
    """Set `deleted`. Without a plan in the row, a worker that is still busy cannot record its segment.

    Raises:
        JobMoved: there is no such job.
    """
    now = now_s()
    changes = {"status": JobStatus.DELETED.value, "deleted_at": now, EXPIRES_AT: now + _DELETED_ROW_S}
    _write(aws, job_id, _Change(changes, ("plan",)), frozenset(JobStatus))


class StatusCheck:
    """Reads a job's status again while a step goes on, at most once per interval.

    A step that takes minutes notices in this way that the job was cancelled or deleted.
    """

    def __init__(self, aws: "Aws", job_id: str, status: JobStatus, interval_s: float = 2.0) -> None:
        self._aws, self._job_id, self._status, self._interval_s = aws, job_id, status, interval_s
        self._next_at = time.monotonic() + interval_s

    def require(self) -> None:
        """Check the status if that is due.

        Raises:
            JobMoved: the job has another status by now.
        """
        if time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + self._interval_s
        job = read_job(self._aws, self._job_id)
        if job is None or job.status is not self._status:
            raise JobMoved(f"job {self._job_id} is {job.status if job else 'unknown'}: stopped before the next segment")


def _move(
    aws: "Aws",
    job_id: str,
    to: JobStatus,
    change: _Change,
    *,
    only_from: frozenset[JobStatus] | None = None,
    fence: Fence | None = None,
) -> Mapping[str, Any]:
    """The conditional write behind every transition of a step. It also sets or removes the end of the row's life.
    Returns the row with it, in DynamoDB's typed form.

    Raises:
        JobMoved: the row is absent, cancelled, or in a status from which `to` cannot be reached.
        LeaseLost: another invocation has taken over the lease.
    """
    allowed = TRANSITIONS[to] if only_from is None else only_from & TRANSITIONS[to]
    sets, removes = {"status": to.value, **change.sets}, (*change.removes, SWEEP_IDLE)
    if days := aws.settings.job_expiration_days:
        if to in _ENDED:
            sets[EXPIRES_AT] = now_s() + days * _DAY_S
        else:
            removes = (*removes, EXPIRES_AT)
    return _write(aws, job_id, _Change(sets, removes), allowed, _NOT_CANCELLED, fence)


def _write(
    aws: "Aws",
    job_id: str,
    change: _Change,
    allowed: frozenset[JobStatus],
    condition: str | None = None,
    fence: Fence | None = None,
) -> Mapping[str, Any]:
    """Set a status and other attributes, if the row has one of the allowed statuses and the condition holds. Returns
    the row with them.

    Raises:
        JobMoved: it has not.
        LeaseLost: another invocation has taken over the lease.
    """
    changes = {**change.sets, **(fence.changes if fence else {})}
    names = {f"#{name}": name for name in (*changes, *change.removes)}
    values = {f":{name}": _serialize(value) for name, value in changes.items()}
    values |= {f":from_{status}": {"S": status.value} for status in allowed}
    update = "SET " + ", ".join(f"#{name} = :{name}" for name in changes)
    if change.removes:
        update += " REMOVE " + ", ".join(f"#{name}" for name in change.removes)
    conditions = [f"#status IN ({', '.join(f':from_{status}' for status in sorted(allowed))})"]
    if condition:
        conditions.append(condition)
    if fence:
        conditions.append(fence.condition)
        values[":fence"] = _serialize(fence.value)
    try:
        return aws.dynamodb.update_item(
            TableName=aws.settings.jobs_table_name,
            Key={"job_id": {"S": job_id}},
            UpdateExpression=update,
            ConditionExpression=" AND ".join(conditions),
            ExpressionAttributeNames=names,
            ExpressionAttributeValues=values,
            ReturnValues="ALL_NEW",
            ReturnValuesOnConditionCheckFailure="ALL_OLD",
        )["Attributes"]
    except aws.dynamodb.exceptions.ConditionalCheckFailedException as error:
        item: Mapping[str, Any] = error.response.get("Item", {})  # type: ignore[assignment]
        found = _status_found(item)
        wanted = changes["status"]
        if found == wanted and not (fence and fence.is_broken_in(item)):
            return item  # our own write: the SDK repeats a call whose answer was lost
        if fence and found in allowed:
            raise LeaseLost(f"job {job_id} is being worked on elsewhere: it was not set {wanted}") from error
        raise JobMoved(f"job {job_id} is {found}: it cannot become {wanted}") from error


def _status_found(item: Mapping[str, Any]) -> str:
    """The status in the row that a conditional write was refused for, in words."""
    if CANCELLED_AT in item:
        return "cancelled"
    return str(item["status"]["S"]) if "status" in item else "unknown"


def _integer(value: Any) -> int | None:
    if value is None:
        return None
    if value != int(value):
        raise ValueError(f"{value} is not a whole number")
    return int(value)


def _context_frames(value: Any) -> int:
    frames = _integer(value) or 0
    if not 0 <= frames <= MAX_CONTEXT_FRAMES:
        raise ValueError(f"context_frames is {value}: it must be from 0 to {MAX_CONTEXT_FRAMES}")
    return frames


def _positive(value: Any) -> Fraction | None:
    """Seconds as an exact number; the row may hold them as a number or as text."""
    if value is None:
        return None
    seconds = Fraction(value)
    if seconds <= 0:
        raise ValueError(f"segment_duration_sec is {value}: it must be more than 0")
    return seconds


def _exact(value: Fraction) -> Decimal | str:
    """A fraction as a number when that is exact, as text (`2/3`) when not: rounded, a retry might cut elsewhere."""
    number = Decimal(value.numerator) / Decimal(value.denominator)
    return number if Fraction(number) == value else str(value)
