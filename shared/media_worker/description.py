"""Everything about one job, for a person: its plan, its segments and who works on them, its timeline, its cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from media_worker.attempts import Attempt, AttemptState, read_attempts
from media_worker.completions import Completion, current_completions
from media_worker.errors import BadPlan, MediaWorkerError, NoSuchJob
from media_worker.jobs import Job, JobStatus, now_s, plain_row, read_job, read_row
from media_worker.keys import build_final_key, build_segment_prefix, build_source_key, parse_segment_key
from media_worker.mp4 import Mp4Error, presented_video, read_movie
from media_worker.plan import Plan, read_plan
from media_worker.prices import Cost, Usage, estimate
from media_worker.s3 import StoredObject, describe, read_range
from media_worker.verification import describe_tracks

if TYPE_CHECKING:
    from media_worker.aws import Aws

_ALL_WRITTEN = frozenset({JobStatus.CHUNKING_COMPLETE, JobStatus.REASSEMBLING, JobStatus.COMPLETED})
_AT_WORK = frozenset(JobStatus) - {JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.DELETED}


# Planned: not written yet. Waiting: written, and no worker has it. Failed: its latest attempt failed.
SegmentState = Literal["planned", "waiting", "running", "failed", "done"]


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment of a job. Frames and times are those of the plan; None for a job that other software planned."""

    index: int
    state: SegmentState
    frames: int | None = None
    start_s: float | None = None
    duration_s: float | None = None
    completed_at: int | None = None
    attempt: Attempt | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a job, at a Unix second."""

    at: int
    what: str


@dataclass(frozen=True, slots=True)
class Description:
    """Everything about one job. Times are Unix seconds."""

    job: Job
    # The attributes of the job's row.
    row: Mapping[str, Any]
    # None: it does not exist, or not any more.
    source: StoredObject | None
    final: StoredObject | None
    plan: Plan | None
    segments: tuple[Segment, ...]
    timeline: tuple[Event, ...]
    # Seconds until the last segment is processed, if that can be told.
    remaining_s: int | None
    cost: Cost

    @property
    def processed(self) -> int:
        """How many segments are processed."""
        return sum(segment.state == "done" for segment in self.segments)


def describe_job(aws: "Aws", job_id: str) -> Description:
    """Everything about a job.

    Raises:
        NoSuchJob: there is no such job.
        PermanentError: the job's row cannot be used.
    """
    job = read_job(aws, job_id)
    if job is None:
        raise NoSuchJob(f"there is no job {job_id!r}")
    row, now, settings = read_row(aws, job_id), now_s(), aws.settings
    source = describe(aws, settings.input_bucket_name, build_source_key(job_id))
    final = describe(aws, settings.output_bucket_name, build_final_key(job_id))
    completions, plan = current_completions(aws, job), _plan_of(aws, job)
    segments = describe_segments(job, plan, completions, read_attempts(aws, job_id), _written_segments(aws, job), now)
    return Description(
        job=job,
        row=row,
        source=source,
        final=final,
        plan=plan,
        segments=segments,
        timeline=_timeline(row, _read_trigger(aws, job_id), completions),
        remaining_s=remaining_s(job, completions, [each for each in segments if each.attempt], now),
        cost=estimate(_usage(row, source, segments, final, now)),
    )


# Segments -------------------------------------------------------------------------------------------------------------


def describe_segments(
    job: Job,
    plan: Plan | None,
    completions: Sequence[Completion],
    attempts: Sequence[Attempt],
    written: frozenset[int],
    now: int,
) -> tuple[Segment, ...]:
    """The state of each segment. Pure."""
    done = {completion.segment_index: int(completion.completed_at) for completion in completions}
    latest = {attempt.segment_index: attempt for attempt in attempts}
    planned = plan.segments if plan else [None] * (job.total_segments or 0)
    return tuple(
        Segment(
            index=index,
            state=_state_of(latest.get(index), now, is_done=index in done, is_written=index in written),
            frames=each.frames if each else None,
            start_s=float(each.start_s) if each else None,
            duration_s=float(each.duration_s) if each else None,
            completed_at=done.get(index),
            attempt=latest.get(index),
        )
        for index, each in enumerate(planned)
    )


def _state_of(attempt: Attempt | None, now: int, *, is_done: bool, is_written: bool) -> SegmentState:
    if is_done:
        return "done"
    if attempt and attempt.is_alive(now):
        return "running"
    # A running attempt that is not alive has no heartbeat any more: its worker is lost.
    if attempt and attempt.state in {AttemptState.FAILED, AttemptState.RUNNING}:
        return "failed"
    return "waiting" if is_written else "planned"


def _written_segments(aws: "Aws", job: Job) -> frozenset[int]:
    """The segments that exist or existed. While the source is being split, that is looked up in S3."""
    if job.status in _ALL_WRITTEN:
        return frozenset(range(job.total_segments or 0))
    if job.total_segments is None:
        return frozenset()
    bucket = aws.settings.input_bucket_name
    pages = aws.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=build_segment_prefix(job.job_id))
    keys = [parse_segment_key(bucket, each["Key"]) for page in pages for each in page.get("Contents", [])]
    return frozenset(key.segment_index for key in keys if key and key.total_segments == job.total_segments)


def _plan_of(aws: "Aws", job: Job) -> Plan | None:
    if job.plan is None or job.status is JobStatus.DELETED:
        return None
    try:
        return read_plan(aws, job)
    except BadPlan:
        return None  # it has expired, or the source is just being planned again


# Time -----------------------------------------------------------------------------------------------------------------


def remaining_s(job: Job, completions: Sequence[Completion], running: Sequence[Segment], now: int) -> int | None:
    """Seconds until the last segment is processed, at the rate of the present run. Pure.

    None: no segment was processed in this run yet, so there is no rate; or the job has ended.
    """
    started = job.run_started_at
    if job.status not in _AT_WORK or job.total_segments is None or started is None:
        return None
    earlier = sum(int(completion.completed_at) < started for completion in completions)
    in_work = sum(each.attempt.progress or 0.0 for each in running if each.attempt and each.state == "running")
    done, wanted = len(completions) - earlier + in_work, job.total_segments - earlier
    if done <= 0:
        return None
    return max(0, round((now - started) * (wanted - done) / done))


def _timeline(
    row: Mapping[str, Any], trigger: Mapping[str, Any], completions: Sequence[Completion]
) -> tuple[Event, ...]:
    times = sorted(int(completion.completed_at) for completion in completions)
    happened = [
        (row.get("created_at"), "job created"),
        (row.get("retried_at"), "retried"),
        (row.get("run_started_at"), "work started"),
        (times[0] if times else None, "first segment processed"),
        (times[-1] if len(times) > 1 else None, f"{len(times)} segments processed"),
        (trigger.get("triggered_at"), "join requested"),
        (trigger.get("reassembly_started_at"), "join started"),
        (row.get("completed_at"), "completed"),
        (row.get("failed_at"), "cancelled" if "cancelled_at" in row else "failed"),
        (row.get("deleted_at"), "deleted"),
    ]
    return tuple(sorted((Event(int(at), what) for at, what in happened if at), key=lambda event: event.at))


def _read_trigger(aws: "Aws", job_id: str) -> dict[str, Any]:
    key = {"job_id": {"S": job_id}}
    return plain_row(
        aws.dynamodb.get_item(TableName=aws.settings.reassembly_triggered_table_name, Key=key, ConsistentRead=True).get(
            "Item", {}
        )
    )


# Cost -----------------------------------------------------------------------------------------------------------------


def _usage(
    row: Mapping[str, Any],
    source: StoredObject | None,
    segments: Sequence[Segment],
    final: StoredObject | None,
    now: int,
) -> Usage:
    steps = [step for name in ("chunking_steps", "reassembly_steps") for step in (row.get(name) or {}).values()]
    return Usage(
        step_seconds=[float(step.get("seconds", 0)) for step in steps],
        source_bytes=source.size_bytes if source else int(row.get("source_file_size_bytes", 0)),
        segments=len(segments),
        processed=sum(segment.state == "done" for segment in segments),
        has_final=final is not None,
        age_s=max(0, now - int(row.get("created_at", now))),
    )


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


@dataclass(frozen=True, slots=True)
class SourceSummary:
    """What a source holds: its tracks, such as `vide/avc1`, its duration and its presented frames."""

    tracks: tuple[str, ...]
    duration_s: float
    frames: int


def summarize_source(aws: "Aws", source: StoredObject) -> SourceSummary | None:
    """What a source holds, by its index in S3, or None when it is not an MP4 whose index can be read."""
    try:
        movie = read_movie(partial(read_range, aws, source), source.size_bytes)
        video = presented_video(movie)
    except (Mp4Error, MediaWorkerError):
        return None
    return SourceSummary(describe_tracks(movie), float(video.duration_s), video.frames)
