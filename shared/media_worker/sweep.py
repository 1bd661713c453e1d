"""The sweep: marks unfinished jobs `failed` that nothing can continue any more.

A function marks a job `failed` after its last attempt, and a segment worker after its last failure. Some failures leave
no trace: a message expires; it reaches the dead-letter queue because each of its receives was used up without the
function running (throttled or failing starts); a worker is killed in its last attempt; a queue is purged. On a
schedule, the sweep looks at unfinished jobs that have

    no lease                        chunking's in the Jobs row, reassembly's in ReassemblyTriggered
    no running attempt              a row of SegmentAttempts with a heartbeat
    no deliverable message          it is in the dead-letter queue, or its queue is empty, or it has expired

SQS cannot say whether a queue holds a certain message, and a receive uses up one of its receives, so the queues are
not read, only their depth is. Depths are approximate. So a job must be found idle in the same state twice, several
minutes apart: the first sweep marks the row, and any step of the job removes the mark. A job that was failed too early
goes on all the same when its message is delivered after all.

It finds jobs by the index `status-created_at` and scans no table. It requests a reassembly that was never requested.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from media_worker.attempts import DIED, Attempt, AttemptState, end_attempt, read_attempts
from media_worker.best_effort import best_effort
from media_worker.completions import (
    current_completions,
    describe_ranges,
    is_complete,
    read_trigger,
    trigger_if_complete,
)
from media_worker.deadline import Deadline
from media_worker.errors import JobMoved, LeaseLost, MediaWorkerError, MessageError
from media_worker.jobs import (
    CHUNKING_STATUSES,
    REASSEMBLY_STATUSES,
    SWEEP_IDLE,
    Fence,
    Job,
    JobStatus,
    fail_job,
    now_s,
    plain_row,
)
from media_worker.keys import build_segment_key, build_source_key
from media_worker.messages import ChunkRequest, parse_chunking_body, parse_reassembly_body, parse_segment_body
from media_worker.queues import (
    DeadLetter,
    QueueState,
    RedrivePolicy,
    read_dead_letters,
    read_queue_state,
    read_redrive_policy,
)
from media_worker.s3 import describe
from media_worker.telemetry import Handler, count, instrumented, log_keys, logger

if TYPE_CHECKING:
    from media_worker.aws import Aws

# How long a job must have been idle before it is suspected, and then before it is failed. Together longer than the
# visibility timeout of the functions' queues (960 s), and much longer than the minute after which SQS's counts are
# usually right. AWS does not promise that minute, so a job is looked at twice:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-monitoring-using-cloudwatch.html
IDLE_S = 960
CONFIRM_S = 480
# A job without a source waits for its upload, and is looked at for this long after its creation.
_WAITS_FOR_UPLOAD_S = 30 * 24 * 3600
# A message in flight may outlive its retention period by one visibility timeout, and is sent some time after the job's
# last change.
_EXPIRY_MARGIN_S = 36 * 3600
# The clocks of S3 and SQS are assumed to agree within this; AWS states no limit.
_SKEW_S = 60
_SECONDS_FOR_A_JOB = 10.0
_INDEX = "status-created_at"

# In place of a segment's index, for messages that are about a whole job.
_NO_SEGMENT = -1

Stage = Literal["chunking", "segments", "reassembly"]


@dataclass(frozen=True, slots=True)
class Loss:
    """Why no message can continue a job, for a person; and the attempts that died without saying so."""

    reason: str
    died: tuple[Attempt, ...] = ()


@dataclass(slots=True)
class Swept:
    """What a sweep has done."""

    jobs: int = 0
    suspected: int = 0
    failed: int = 0

    def report(self) -> dict[str, int]:
        """The counts, for the log and as the function's answer."""
        return {"jobs": self.jobs, "suspected": self.suspected, "failed": self.failed}


def build_sweep_handler(aws: "Aws") -> Handler:
    """The handler of the schedule's event."""
    return instrumented(lambda _event, context: sweep(aws, Deadline(context)).report())


def sweep(aws: "Aws", deadline: Deadline) -> Swept:
    """Look at all unfinished jobs. What the time does not allow is left to the next sweep."""
    count("Sweeps")
    queues, swept = _Queues(aws), Swept()
    for status in (*CHUNKING_STATUSES, *REASSEMBLY_STATUSES):
        for job_id in _job_ids(aws, status):
            if deadline.remaining_s() < _SECONDS_FOR_A_JOB:
                logger.warning("Sweep stopped: the time is used up", event="sweep_stopped", jobs=swept.jobs)
                return swept
            with log_keys(job_id=job_id), best_effort("Job not examined", "job_not_examined"):
                swept.jobs += 1
                _examine(aws, queues, job_id, swept)
    count("JobsSwept", swept.jobs)
    logger.info("Sweep done", event="sweep_done", jobs=swept.jobs, suspected=swept.suspected, failed=swept.failed)
    return swept


def _job_ids(aws: "Aws", status: JobStatus) -> Iterator[str]:
    """The jobs in a status, the oldest first. A new status needs a moment to reach the index."""
    waits = status in {JobStatus.CREATED, JobStatus.INGESTING}
    query: Any = {
        "TableName": aws.settings.jobs_table_name,
        "IndexName": _INDEX,
        "KeyConditionExpression": "#status = :status AND created_at >= :since",
        "ExpressionAttributeNames": {"#status": "status"},
        "ExpressionAttributeValues": {
            ":status": {"S": status.value},
            ":since": {"N": str(now_s() - _WAITS_FOR_UPLOAD_S if waits else 0)},
        },
        "ProjectionExpression": "job_id",
    }
    for page in aws.dynamodb.get_paginator("query").paginate(**query):
        for item in page["Items"]:
            yield item["job_id"]["S"]


def _examine(aws: "Aws", queues: "_Queues", job_id: str, swept: Swept) -> None:
    """Read a job consistently; suspect it, fail it, or clear it of suspicion."""
    item = aws.dynamodb.get_item(
        TableName=aws.settings.jobs_table_name, Key={"job_id": {"S": job_id}}, ConsistentRead=True
    ).get("Item", {})
    try:
        job, row = Job.from_item(item), plain_row(item)
        loss = _LOSS_IN.get(job.status, _no_loss)(queues, job, row)
    except MediaWorkerError as error:
        logger.warning("Job not examined", event="job_not_examined", reason=str(error))
        return
    mark = str(row.get(SWEEP_IDLE, ""))
    if loss is None:
        if mark:
            _set_mark(aws, job, None)
        return
    since_s, _, signature = mark.partition(":")
    if signature != (present := _signature(job, row, loss)):
        swept.suspected += 1
        _set_mark(aws, job, f"{now_s()}:{present}")
        logger.warning("No message can continue the job, it seems", event="job_suspected", reason=loss.reason)
    elif now_s() - int(since_s) >= CONFIRM_S:
        swept.failed += _fail(aws, job, loss, mark)


def _signature(job: Job, row: Mapping[str, Any], loss: Loss) -> str:
    """Differs when anything about the job has changed."""
    state = (job.status, job.run_started_at, job.plan, row.get("lease_attempts"), row.get("retried_at"), loss.reason)
    return hashlib.sha256(repr(state).encode()).hexdigest()[:16]


def _set_mark(aws: "Aws", job: Job, mark: str | None) -> None:
    """Write or remove the mark of a suspected job, if its status is still the same."""
    values = {":status": {"S": job.status.value}, **({":mark": {"S": mark}} if mark else {})}
    try:
        aws.dynamodb.update_item(
            TableName=aws.settings.jobs_table_name,
            Key={"job_id": {"S": job.job_id}},
            UpdateExpression=f"SET {SWEEP_IDLE} = :mark" if mark else f"REMOVE {SWEEP_IDLE}",
            ConditionExpression="#status = :status",
            ExpressionAttributeNames={"#status": "status"},
            ExpressionAttributeValues=values,
        )
    except aws.dynamodb.exceptions.ConditionalCheckFailedException:
        logger.info("Job has moved on", event="job_moved")


def _fail(aws: "Aws", job: Job, loss: Loss, mark: str) -> bool:
    """Set the job `failed`, if it still has the mark: every step of the job removes it.

    Dead attempts are recorded first: if this sweep dies in between, the next one still finds the job. The stream of
    SegmentAttempts then has the failures for which `Segment Failed` is sent.
    """
    for attempt in loss.died:
        end_attempt(aws, attempt, AttemptState.FAILED, DIED)
    try:
        failed = fail_job(aws, job.job_id, loss.reason, frozenset({job.status}), fence=Fence(SWEEP_IDLE, mark))
    except (JobMoved, LeaseLost):
        return False
    if failed:
        count("JobsFailed")
        logger.error("Job failed", event="job_failed", failure="NoMessageLeft", reason=loss.reason)
    return failed


# What can still come --------------------------------------------------------------------------------------------------


@dataclass
class _Queues:
    """The three queues and their dead-letter queues, each read once in a sweep, when it is needed."""

    aws: "Aws"
    _states: dict[Stage, QueueState] = field(default_factory=dict)
    _policies: dict[Stage, RedrivePolicy | None] = field(default_factory=dict)
    _letters: dict[Stage, dict[tuple[str, int], float]] = field(default_factory=dict)

    def url(self, stage: Stage) -> str:
        """The URL of a stage's queue."""
        settings = self.aws.settings
        return {
            "chunking": settings.chunking_queue_url,
            "segments": settings.segment_queue_url or "",
            "reassembly": settings.reassembly_queue_url,
        }[stage]

    def state(self, stage: Stage) -> QueueState:
        """The depth of a stage's queue."""
        if stage not in self._states:
            self._states[stage] = read_queue_state(self.aws, self.url(stage))
        return self._states[stage]

    def policy(self, stage: Stage) -> RedrivePolicy | None:
        """The redrive policy of a stage's queue."""
        if stage not in self._policies:
            self._policies[stage] = read_redrive_policy(self.aws, self.url(stage))
        return self._policies[stage]

    def receives(self, stage: Stage) -> str:
        """How often a dead letter was received, in words."""
        policy = self.policy(stage)
        return f"{policy.max_receive_count} times" if policy else "too often"

    def letters(self, stage: Stage) -> Mapping[tuple[str, int], float]:
        """The dead letters of a stage: by job and segment, when the newest was sent."""
        if stage not in self._letters:
            found: dict[tuple[str, int], float] = {}
            policy = self.policy(stage)
            for letter in read_dead_letters(self.aws, policy.dead_letters_url) if policy else []:
                for about in _subjects(self.aws, stage, letter):
                    found[about] = max(found.get(about, 0.0), letter.sent_at_s)
            self._letters[stage] = found
        return self._letters[stage]

    def loss(self, stage: Stage, job: Job, *, sent_s: float, alive_s: float) -> str | None:
        """What became of the message that was sent at `sent_s` or later and leads the job on; None if it can still
        come. `alive_s` is the job's last sign of life. Both are Unix seconds.
        """
        if now_s() - alive_s < IDLE_S:
            return None
        if self.letters(stage).get((job.job_id, _NO_SEGMENT), -1.0) >= sent_s - _SKEW_S:
            return f"was received {self.receives(stage)} without success and is in the dead-letter queue"
        return self.absence(stage, alive_s)

    def absence(self, stage: Stage, alive_s: float) -> str | None:
        """Why no message of that age can be in the queue, in words; None if there may be one."""
        state = self.state(stage)
        if state.is_empty:
            return "is not in its queue any more, nor in the dead-letter queue: it has expired, or was removed"
        if now_s() - alive_s > state.retention_s + _EXPIRY_MARGIN_S:
            return f"has expired: its queue keeps messages for {state.retention_s // 86400} days"
        return None


def _subjects(aws: "Aws", stage: Stage, letter: DeadLetter) -> list[tuple[str, int]]:
    """The jobs and segments that a message is about; none if it cannot be understood."""
    bucket = aws.settings.input_bucket_name
    try:
        if stage == "chunking":
            requests = parse_chunking_body(letter.body, bucket)
            return [(request.job_id, _NO_SEGMENT) for request in requests if isinstance(request, ChunkRequest)]
        if stage == "segments":
            return [(key.job_id, key.segment_index) for key in parse_segment_body(letter.body, bucket)]
        return [(request.job_id, _NO_SEGMENT) for request in parse_reassembly_body(letter.body)]
    except MessageError:
        return []


# What each stage needs ------------------------------------------------------------------------------------------------


def _chunking_loss(queues: _Queues, job: Job, row: Mapping[str, Any]) -> Loss | None:
    """A job that is not split yet needs the message about its source."""
    if _is_leased(row):
        return None
    aws = queues.aws
    source = describe(aws, aws.settings.input_bucket_name, build_source_key(job.job_id))
    if source is None and job.status is not JobStatus.CHUNKING_IN_PROGRESS:
        return None  # it waits for its upload
    sent_s = max(source.modified_at if source else 0.0, float(row.get("retried_at", 0)))
    if what := queues.loss(
        "chunking", job, sent_s=sent_s, alive_s=max(sent_s, job.run_started_at or 0, _lease_end(row))
    ):
        return Loss(
            f"the source was not split: the message about it {what}. `media-worker retry {job.job_id}` sends it again"
        )
    return None


def _split_loss(queues: _Queues, job: Job, row: Mapping[str, Any]) -> Loss | None:
    """A job that is split needs the messages about its unprocessed segments, then the one about its reassembly."""
    aws = queues.aws
    if job.total_segments is None:
        return None  # split by other software
    if not is_complete(aws, job):
        return _segments_loss(queues, job, row) if aws.settings.segment_queue_url else None
    return None if trigger_if_complete(aws, job.job_id) else _reassembly_loss(queues, job, row)


def _segments_loss(queues: _Queues, job: Job, row: Mapping[str, Any]) -> Loss | None:
    """The messages about unprocessed segments. What costs most is read last: most jobs have messages in the queue."""
    sent_s = max(float(row.get("retried_at", 0)), job.run_started_at or 0)
    letters = {index: at for (job_id, index), at in queues.letters("segments").items() if job_id == job.job_id}
    if not letters and queues.absence("segments", sent_s) is None:
        return None
    completions = current_completions(queues.aws, job)
    attempts = {attempt.segment_index: attempt for attempt in read_attempts(queues.aws, job.job_id)}
    alive_s = max(
        [sent_s]
        + [float(completion.completed_at) for completion in completions]
        + [attempt.heartbeat_at for attempt in attempts.values()]
    )
    if now_s() - alive_s < IDLE_S or any(attempt.is_alive(now_s()) for attempt in attempts.values()):
        return None
    missing = sorted(set(range(job.total_segments or 0)) - {completion.segment_index for completion in completions})
    unfinished = {index: attempts[index] for index in missing if index in attempts}
    for index in missing:
        if index in letters and _is_about_present_segment(queues, job, index, letters[index], row):
            what = f"was received {queues.receives('segments')} without success and is in the dead-letter queue"
            return _segment_loss(job, f"segment {index} was", f"its message {what}", index, unfinished)
    if absence := queues.absence("segments", alive_s):
        which = f"segments {describe_ranges(missing)} were" if len(missing) > 1 else f"segment {missing[0]} was"
        return _segment_loss(job, which, f"the message {absence}", missing[0], unfinished)
    return None


def _segment_loss(job: Job, which: str, what: str, index: int, unfinished: Mapping[int, Attempt]) -> Loss:
    attempt = unfinished.get(index)
    error = f" The last attempt on {attempt.worker} ended with: {attempt.error}." if attempt and attempt.error else ""
    return Loss(
        f"{which} not processed: {what}.{error} `media-worker retry {job.job_id}` announces it again",
        tuple(each for each in unfinished.values() if each.state is AttemptState.RUNNING),
    )


def _is_about_present_segment(queues: _Queues, job: Job, index: int, sent_s: float, row: Mapping[str, Any]) -> bool:
    """Whether a dead letter is the newest announcement of a segment: it was neither written nor announced later."""
    key = build_segment_key(job.job_id, index, job.total_segments or 0, job.mode)
    segment = describe(queues.aws, queues.aws.settings.input_bucket_name, key)
    return sent_s >= max(segment.modified_at if segment else 0.0, float(row.get("retried_at", 0))) - _SKEW_S


def _reassembly_loss(queues: _Queues, job: Job, row: Mapping[str, Any]) -> Loss | None:
    """A job whose segments are processed needs the message about its reassembly."""
    trigger = plain_row(read_trigger(queues.aws, job.job_id))
    if _is_leased(trigger):
        return None
    sent_s = max(float(trigger.get("triggered_at", 0)), float(row.get("retried_at", 0)))
    alive_s = max(sent_s, float(trigger.get("sent_at", 0)), float(trigger.get("reassembly_started_at", 0)))
    if what := queues.loss("reassembly", job, sent_s=sent_s, alive_s=alive_s):
        return Loss(
            f"the segments were not joined: the message about it {what}. `media-worker retry {job.job_id}` sends it "
            "again"
        )
    return None


def _no_loss(queues: _Queues, job: Job, row: Mapping[str, Any]) -> None:
    """The job has ended since the index was read."""


_LOSS_IN: Mapping[JobStatus, Callable[[_Queues, Job, Mapping[str, Any]], Loss | None]] = {
    **dict.fromkeys(CHUNKING_STATUSES, _chunking_loss),
    JobStatus.CHUNKING_COMPLETE: _split_loss,
    JobStatus.REASSEMBLING: _reassembly_loss,
}


def _is_leased(row: Mapping[str, Any]) -> bool:
    return _lease_end(row) > now_s()


def _lease_end(row: Mapping[str, Any]) -> float:
    return float(row.get("lease_expires_at", 0))
