"""One attempt at one segment, from its download to its completion.

    with segment:                                    # segment.input is downloaded
        upscale(segment.input, segment.output)

The body writes `segment.output`. Then the output is checked, uploaded and recorded. If the body raises an error, that
is recorded, and the message is returned to the queue. Meanwhile a heartbeat hides the message, and notices when the
segment is not wanted any more.
"""

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from boto3.exceptions import S3UploadFailedError
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from media_worker.attempts import Attempt, AttemptState, beat_attempt, begin_attempt, end_attempt
from media_worker.completions import is_processed, record_segment, require_current_plan
from media_worker.deadline import Deadline
from media_worker.errors import MediaWorkerError, NothingToDo, RetryableError, StaleSegment
from media_worker.interruption import Host
from media_worker.jobs import Job, JobStatus, fail_job, read_job
from media_worker.keys import SegmentKey, build_output_segment_key
from media_worker.s3 import PLAN, StoredObject, describe, download, downloads
from media_worker.segment_cache import SegmentCache
from media_worker.segment_output import ExpectedOutput, check_output, upload_output
from media_worker.segment_queue import MAX_HIDDEN_S, Delivery, SegmentQueue
from media_worker.stopping import Halted, Stopping
from media_worker.telemetry import logger
from media_worker.workdir import work_directory

if TYPE_CHECKING:
    from media_worker.aws import Aws

OnFailure: TypeAlias = Literal["fail", "skip", "pass-through"]

# Metadata of a processed segment: the message that announced the segment. The next delivery of that message finds by
# it the output of an attempt that died between the upload and the completion.
MESSAGE_ID = "message-id"
# The statuses in which a job waits for its segments.
WAITING_STATUSES = frozenset(
    {JobStatus.CREATED, JobStatus.INGESTING, JobStatus.CHUNKING_IN_PROGRESS, JobStatus.CHUNKING_COMPLETE}
)
# A running attempt counts as dead a little before its message can be received again: after this part of that time.
_ALIVE_PART = 0.9
# The output may have cost hours: a failed upload is repeated after these pauses, before the attempt fails.
_SAVE_PAUSES_S = (2.0, 10.0, 30.0)
_REFUSED = frozenset(
    {
        *("AccessDenied", "AccessDeniedException", "403", "ExpiredToken", "ExpiredTokenException"),
        *("InvalidAccessKeyId", "InvalidClientTokenId", "SignatureDoesNotMatch", "UnrecognizedClientException"),
        *("KMS.AccessDeniedException", "KMSAccessDeniedException", "AWS.SimpleQueueService.NonExistentQueue"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentOptions:
    """How segments are processed."""

    # A message is hidden for so long; the heartbeat extends that.
    visibility_s: int = 90
    heartbeat_s: float = 25.0
    # What to do when the last attempt at a segment has failed: the job fails; or the segment is left out, so that the
    # others are finished first; or the unprocessed segment is used instead.
    on_failure: OnFailure = "fail"
    # The tag by which a lifecycle rule removes processed segments: that of the settings, another one, or none.
    expiry_tag: tuple[str, str] | Literal["settings"] | None = "settings"
    # A message is returned for so long after the first failure, for twice that after the second, and so on.
    retry_delay_s: int = 15
    max_retry_delay_s: int = 300


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What all attempts of a worker share."""

    aws: "Aws"
    name: str
    queue: SegmentQueue
    cache: SegmentCache
    work_root: Path
    host: Host
    options: SegmentOptions
    stopping: Stopping


class HaltKind(Enum):
    """Why an attempt ends before its work is done, and whether its message is returned or deleted."""

    # The worker stops. The message is returned at once.
    STOPPED = "stopped"
    # The job has ended or was planned again, or the segment is processed. The message is deleted.
    UNWANTED = "unwanted"
    # Another attempt has replaced this one. The message is left alone.
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class Halt:
    """Why an attempt ends before its work is done: for the program, and for a person."""

    kind: HaltKind
    reason: str


class Ending(str, Enum):
    """How an attempt ended."""

    PROCESSED = "processed"
    FAILED = "failed"
    RETURNED = "returned"
    DROPPED = "dropped"

    def __str__(self) -> str:
        return str(self.value)


class Segment(AbstractContextManager["Segment"]):
    """A segment to process; see the module's docstring."""

    def __init__(
        self, context: WorkerContext, delivery: Delivery, key: SegmentKey, stored: StoredObject, job: Job
    ) -> None:
        self.job_id = key.job_id
        self.index = key.segment_index
        self.total = key.total_segments
        self.mode = key.mode
        self.attempt = delivery.receive_count
        self.plan = stored.metadata.get(PLAN)
        # What the plan says of the segment. None: other software wrote it, and did not say.
        self.frames = _integer(stored.metadata.get("frames"))
        self.first_frame = _integer(stored.metadata.get("first-frame"))
        self.start_s = _fraction(stored.metadata.get("start-seconds"))
        self.duration_s = _fraction(stored.metadata.get("duration-seconds"))
        # Frames that the input presents before and after these. The output must not have them.
        self.context_before = _integer(stored.metadata.get("context-before")) or 0
        self.context_after = _integer(stored.metadata.get("context-after")) or 0
        # Frames per second, if all frames last equally long.
        self.fps = _fraction(stored.metadata.get("frame-rate"))
        # The segment, and where the processed segment is expected.
        self.input = Path()
        self.output = Path()
        # From 0 to 1, if the body reports it.
        self.progress: float | None = None
        self.started_at = time.monotonic()
        self.ending: Ending | None = None
        # What ended the attempt, if it was not processed.
        self.error: str | None = None
        self._context, self._delivery, self._stored, self._job = context, delivery, stored, job
        self._record = self._new_record()
        self._halt: Halt | None = None
        self._ended = threading.Event()
        self._heart: threading.Thread | None = None
        self._cleanup = ExitStack()

    # For the body ----------------------------------------------------------------------------------------------------

    def report(self, *, frame: int | None = None, progress: float | None = None) -> None:
        """Report the progress: the number of frames that are done, or a number from 0 to 1."""
        if frame is not None and self.frames:
            progress = frame / self.frames
        if progress is not None:
            self.progress = min(1.0, max(0.0, progress))

    @property
    def halt(self) -> Halt | None:
        """Why the processing has to end now, or None."""
        if self._halt is None and (reason := self._context.stopping.reason) is not None:
            return Halt(HaltKind.STOPPED, reason)
        return self._halt

    def check(self) -> None:
        """End the body if the worker stops or the segment is not wanted any more.

        In the main thread this happens by itself; a body in another thread calls it now and then.

        Raises:
            Halted: do not catch it.
        """
        if halt := self.halt:
            raise Halted(halt.reason)

    def __enter__(self) -> "Segment":  # noqa: PYI034 - Self needs Python 3.11
        self._context.stopping.enter_body(self.check)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Record how the body ended. Errors end here, so that the worker goes on; Ctrl-C and `exit` do not."""
        try:
            self._context.stopping.leave_body()
            self._end(error)
        except (BotoCoreError, ClientError, MediaWorkerError) as failure:
            # The message is hidden for a while, and is then received again.
            self._delivery.is_settled = True
            self._log("End of the attempt not recorded", "end_not_recorded", reason=str(failure))
        finally:
            self.close()
        return isinstance(error, (Halted, Exception))

    def _end(self, error: BaseException | None) -> None:
        if error is None:
            self._save()
        elif isinstance(error, Exception) and self.halt is None:
            self.fail(error)
        else:
            self.end_early(self.halt or Halt(HaltKind.STOPPED, type(error).__name__))

    # Begin -----------------------------------------------------------------------------------------------------------

    def begin(self) -> bool:
        """Claim the segment and download it. Returns False if another worker is processing it."""
        if other := begin_attempt(self._context.aws, self._record):
            self._leave_to(other)
            return False
        self._heart = threading.Thread(target=self._keep_alive, name=f"heartbeat-{self.index}", daemon=True)
        self._heart.start()
        directory = self._cleanup.enter_context(work_directory(self._context.work_root))
        self.input, self.output = directory / "input.mp4", directory / "output.mp4"
        downloaded = self._context.cache.fetch(self._stored, self.input, self._download)
        self._log("Segment started", "segment_started", downloaded=downloaded, bytes=self._stored.size_bytes)
        return True

    def close(self) -> None:
        """Stop the heartbeat and remove the files. A segment whose body did not run is returned to the queue."""
        if self.ending is None and not self._delivery.is_settled:
            self.end_early(self.halt or Halt(HaltKind.STOPPED, "the segment was not processed"))
        self._stop_heartbeat()
        self._cleanup.close()

    def _new_record(self) -> Attempt:
        now = int(time.time())
        return Attempt(
            job_id=self.job_id,
            segment_index=self.index,
            attempt=self.attempt,
            worker=self._context.name,
            run_id=self._delivery.run_id,
            started_at=now,
            heartbeat_at=now,
            expires_at=self._expires_at(),
            plan=self.plan,
        )

    def _leave_to(self, other: Attempt) -> None:
        """Another worker is processing the segment. S3 and SQS may announce it more than once.

        The other's message is in the queue until its attempt has ended, so a second message is not needed. A second
        delivery of the same message is hidden until the other attempt would count as dead.
        """
        self.ending, self.error = Ending.DROPPED, f"{other.worker} is processing it"
        if other.message_id == self._delivery.message_id:
            self._context.queue.return_message(self._delivery, self._context.options.visibility_s)
        else:
            self._context.queue.delete(self._delivery)
        self._log("Segment left to another worker", "segment_left", other=other.worker)

    def _download(self, stored: StoredObject, path: Path) -> None:
        with downloads(self._context.aws) as manager:
            download(manager, stored, path, Deadline(_NoDeadline()))

    # Heartbeat -------------------------------------------------------------------------------------------------------

    def _keep_alive(self) -> None:
        while not self._ended.wait(self._context.options.heartbeat_s):
            try:
                halt = self._beat()
            except (BotoCoreError, ClientError) as error:
                self._log("Heartbeat failed", "heartbeat_failed", reason=str(error))
                continue
            if halt:
                self._halt = halt
                self._context.stopping.interrupt()
                return

    def _stop_heartbeat(self) -> None:
        """Called before the message is returned: a heartbeat after that would hide it again."""
        self._ended.set()
        if self._heart:
            self._heart.join()

    def _beat(self) -> Halt | None:
        """Say that the attempt is alive, and look whether it is still wanted."""
        if not self._context.queue.extend(self._delivery):
            # Its work may still be the first to end, so it goes on unless another attempt has replaced it.
            self._log("Message not hidden any more", "message_lost")
        if not beat_attempt(self._context.aws, self._record, self._expires_at(), self.progress):
            return Halt(HaltKind.REPLACED, "another worker has taken over the segment")
        self._context.host.protect(protected=True)
        if reason := why_unwanted(self._context.aws, read_job(self._context.aws, self.job_id), self.index, self.plan):
            return Halt(HaltKind.UNWANTED, reason)
        return None

    def _expires_at(self) -> int:
        return int(time.time() + self._context.options.visibility_s * _ALIVE_PART)

    # End -------------------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Check, upload and record the output. It counts even when the worker is stopping: it is nearly done."""
        if self._halt:
            self.end_early(self._halt)
            return
        try:
            context = self.context_before + self.context_after
            expected = ExpectedOutput(self.frames, self.duration_s, self.fps, context)
            check_output(self.output, expected, self._job.frame_check)
            self._repeatedly(lambda: self._upload(self.output))
        except NothingToDo as error:
            self.end_early(Halt(HaltKind.UNWANTED, str(error)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the attempt has failed
            self.fail(error)
        else:
            self._finish("Segment processed", "segment_processed")

    def _upload(self, path: Path) -> None:
        """Upload a file as the processed segment, and write the completion and the trigger.

        Raises:
            StaleSegment: the job has ended or was planned again.
        """
        aws, key = self._context.aws, build_output_segment_key(self.job_id, self.index)
        job = read_job(aws, self.job_id)
        require_current_plan(job, self.plan)
        if job is None or job.status not in WAITING_STATUSES:
            raise StaleSegment(f"the job is {job.status if job else 'gone'}")
        metadata = {MESSAGE_ID: self._delivery.message_id} | ({PLAN: self.plan} if self.plan else {})
        tag = self._context.options.expiry_tag
        upload_output(aws, path, key, metadata, aws.settings.expiry_tag if tag == "settings" else tag)
        uri = f"s3://{aws.settings.output_bucket_name}/{key}"
        record_segment(aws, job_id=self.job_id, segment_index=self.index, output_s3_uri=uri, plan=self.plan)

    def _repeatedly(self, save: Callable[[], None]) -> None:
        for pause_s in _SAVE_PAUSES_S:
            try:
                save()
            except (BotoCoreError, ClientError, RetryableError, S3UploadFailedError) as error:
                if is_refused(error):
                    raise
                self._log("Saving failed: repeating it", "save_failed", reason=str(error))
                time.sleep(pause_s)
            else:
                return
        save()

    def _finish(self, message: str, event: str) -> None:
        self.ending = Ending.PROCESSED
        self._stop_heartbeat()
        end_attempt(self._context.aws, self._record, AttemptState.DONE, self.error)
        self._acknowledge()
        self._log(message, event, seconds=round(time.monotonic() - self.started_at, 3))

    def end_early(self, halt: Halt) -> None:
        """End the attempt before its work is done."""
        self.error = halt.reason
        self._stop_heartbeat()
        if halt.kind is HaltKind.STOPPED:
            self.ending = Ending.RETURNED
            end_attempt(self._context.aws, self._record, AttemptState.RETURNED)
            if self._context.queue.is_last_attempt(self._delivery):
                self._context.queue.requeue(self._delivery)  # an interruption is not a failure: the count starts again
            else:
                self._context.queue.return_message(self._delivery, 0)
            self._log("Segment returned to the queue", "segment_returned", reason=halt.reason)
            return
        self.ending = Ending.DROPPED
        if halt.kind is HaltKind.UNWANTED:
            end_attempt(self._context.aws, self._record, AttemptState.RETURNED)
            self._acknowledge()
        else:
            self._delivery.is_settled = True
        self._log("Segment dropped", "segment_dropped", reason=halt.reason)

    def _acknowledge(self) -> None:
        """Nothing is left to do for this segment."""
        self._context.cache.remove(self._stored)
        if not self._delivery.has_more:
            self._context.queue.delete(self._delivery)

    def fail(self, error: Exception) -> None:
        """Record that the attempt failed. After the last attempt, the job fails or goes on without the segment."""
        if is_refused(error):
            # A worker without access would fail every job: it stops.
            self._context.stopping.stop(f"AWS refuses access: {error}", error)
            self.end_early(Halt(HaltKind.STOPPED, str(error)))
            return
        self.ending, self.error = Ending.FAILED, describe_error(error)
        failures = end_attempt(self._context.aws, self._record, AttemptState.FAILED, self.error)
        self._log("Segment failed", "segment_failed", reason=self.error)
        if not self._context.queue.is_last_attempt(self._delivery):
            self._stop_heartbeat()
            self._context.queue.return_message(self._delivery, self._retry_delay_s())
            return
        number = len(failures) or self.attempt
        times = f"{number} time{'' if number == 1 else 's'}"
        self._give_up(f"segment {self.index} failed {times} on {self._context.name}: {self.error}")

    def _retry_delay_s(self) -> int:
        options = self._context.options
        return int(min(options.retry_delay_s * 2 ** min(self.attempt - 1, 10), options.max_retry_delay_s))

    def _give_up(self, reason: str) -> None:
        """Do what `on_failure` says after the last attempt. The message goes to the dead-letter queue."""
        on_failure = self._context.options.on_failure
        if on_failure == "pass-through" and self._pass_through():
            return
        if on_failure == "fail" and fail_job(self._context.aws, self.job_id, reason, WAITING_STATUSES):
            logger.error("Job failed", event="job_failed", job_id=self.job_id, reason=reason)
        if on_failure == "skip":
            self._log("Segment left out", "segment_skipped", reason=reason)
        self._stop_heartbeat()
        if self._context.queue.has_dead_letter_queue:
            self._context.queue.return_message(self._delivery, 0)
        else:
            self._context.queue.delete(self._delivery)

    def _pass_through(self) -> bool:
        """Use the unprocessed segment. Returns False if that failed too."""
        try:
            self._repeatedly(lambda: self._upload(self.input))
        except Exception as error:  # noqa: BLE001 - whatever it is, the segment is given up
            self._log("Unprocessed segment not used", "pass_through_failed", reason=describe_error(error))
            return False
        self._finish("Unprocessed segment used", "segment_passed_through")
        return True

    def _log(self, message: str, event: str, **keys: Any) -> None:
        where: dict[str, Any] = {"job_id": self.job_id, "segment_index": self.index, "attempt": self.attempt}
        logger.info(message, event=event, worker=self._context.name, **where, **keys)


def why_unwanted(aws: "Aws", job: Job | None, segment_index: int, plan: str | None) -> str | None:
    """Why a segment need not be processed, or None."""
    try:
        require_current_plan(job, plan)
    except StaleSegment as error:
        return str(error)
    if job is None or job.status not in WAITING_STATUSES:
        return f"the job is {job.status if job else 'gone'}"
    if is_processed(aws, job_id=job.job_id, segment_index=segment_index, plan=plan):
        return "the segment is processed"
    return None


def adopt_upload(aws: "Aws", delivery: Delivery, key: SegmentKey, plan: str | None) -> bool:
    """Record the output that an earlier delivery of the same message uploaded, before its worker died.

    Returns whether there was one. A message that announces the segment again has another id: the segment is then
    processed again.
    """
    bucket, target = aws.settings.output_bucket_name, build_output_segment_key(key.job_id, key.segment_index)
    if delivery.receive_count == 1 or (found := describe(aws, bucket, target)) is None:
        return False
    if found.metadata.get(MESSAGE_ID) != delivery.message_id or found.metadata.get(PLAN) != plan:
        return False
    record_segment(aws, job_id=key.job_id, segment_index=key.segment_index, output_s3_uri=found.uri, plan=plan)
    return True


def is_refused(error: BaseException) -> bool:
    """Whether AWS refuses this worker's credentials or permissions."""
    if isinstance(error, NoCredentialsError):
        return True
    cause = error if isinstance(error, ClientError) else error.__cause__ or error.__context__
    return isinstance(cause, ClientError) and cause.response["Error"]["Code"] in _REFUSED


def describe_error(error: Exception) -> str:
    """An error for a person: our own errors say it all, others need their class."""
    return str(error) if isinstance(error, RetryableError) else f"{type(error).__name__}: {error}"


class _NoDeadline:
    """A context for the transfers of a worker: as long as SQS can hide the message."""

    def get_remaining_time_in_millis(self) -> int:
        return MAX_HIDDEN_S * 1000


def _integer(text: str | None) -> int | None:
    return None if text is None else int(text)


def _fraction(text: str | None) -> Fraction | None:
    return None if text is None else Fraction(text)
