"""The segment worker kit: receive segments, process them, upload and record the results.

    from media_worker.worker import Worker

    worker = Worker.connect(os.environ)
    for segment in worker.segments():
        with segment:
            upscale(segment.input, segment.output)

or, from a shell, `media-worker work -- python upscale.py {input} {output}`.

A message is hidden for 90 seconds, and a heartbeat extends that while the segment is processed. So when the worker is
killed, another one receives the segment within 90 seconds. SIGTERM, SIGINT and the notices of EC2 and ECS end the
processing and return the message at once. An error is recorded and the message is returned; after the last attempt the
job becomes `failed` with the reason. It needs Python 3.10 and boto3.
"""

import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from media_worker.attempts import end_running_attempt
from media_worker.aws import Aws
from media_worker.completions import is_processed, trigger_if_complete
from media_worker.errors import MessageError, SettingsError
from media_worker.interruption import Host
from media_worker.jobs import read_job
from media_worker.keys import SegmentKey, build_segment_key
from media_worker.messages import parse_segment_body
from media_worker.s3 import PLAN, describe
from media_worker.segment_cache import SegmentCache
from media_worker.segment_queue import Delivery, SegmentQueue
from media_worker.settings import Settings
from media_worker.stopping import NOTICE_POLL_S, Halted, Stopping
from media_worker.telemetry import logger
from media_worker.worker_segment import (
    Ending,
    Segment,
    SegmentOptions,
    WorkerContext,
    adopt_upload,
    describe_error,
    is_refused,
    why_unwanted,
)

if TYPE_CHECKING:
    from media_worker.s3 import StoredObject

__all__ = ["Halted", "Segment", "SegmentOptions", "Worker", "WorkerOptions"]

_GIB = 1024**3
# Also how long an idle worker takes to stop.
_LONG_POLL_S = 5
_PAUSE_AFTER_ERROR_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """How a worker runs."""

    # Stop after one segment.
    once: bool = False
    # Stop when there was nothing to do for so long.
    idle_exit_s: float | None = None
    # In logs and in errors. Default: the name of the ECS task, of the EC2 instance, or of the host.
    name: str | None = None
    # For segments and outputs; on a disk with room for them.
    directory: Path = field(default_factory=lambda: Path(tempfile.gettempdir()) / "media-worker-segments")
    # The most that downloaded segments take which wait for another attempt.
    cache_bytes: int = 10 * _GIB
    notice_poll_s: float = NOTICE_POLL_S
    segment: SegmentOptions = field(default_factory=SegmentOptions)


class Worker:
    """Receives segments and yields them; see the module's docstring. Several threads may iterate over `segments`."""

    def __init__(self, aws: Aws, host: Host, options: WorkerOptions | None = None) -> None:
        """Read the redrive policy of the queue, and ask the host for its name.

        Raises:
            SettingsError: SEGMENT_QUEUE_URL is not set.
        """
        self.options = options or WorkerOptions()
        if (queue_url := aws.settings.segment_queue_url) is None:
            raise SettingsError("SEGMENT_QUEUE_URL is not set")
        (self.options.directory / "work").mkdir(parents=True, exist_ok=True)
        self._context = WorkerContext(
            aws=aws,
            name=self.options.name or host.identify(),
            queue=SegmentQueue.open(aws, queue_url, self.options.segment.visibility_s),
            cache=SegmentCache(self.options.directory / "cache", self.options.cache_bytes),
            work_root=self.options.directory / "work",
            host=host,
            options=self.options.segment,
            stopping=Stopping(),
        )
        self._active: dict[int, Segment] = {}
        self._idle_since = time.monotonic()
        self._lock = threading.Lock()
        self._is_attended = False
        # How the segments ended, in that order.
        self.endings: list[Ending] = []

    @classmethod
    def connect(cls, environ: Mapping[str, str], options: WorkerOptions | None = None) -> "Worker":
        """A worker for the stack that the environment describes.

        Raises:
            SettingsError: the environment does not describe a stack.
        """
        return cls(Aws.connect(Settings.from_environment(environ)), Host.of(environ), options)

    @property
    def name(self) -> str:
        """What names the worker in logs and errors."""
        return self._context.name

    @property
    def active(self) -> tuple[Segment, ...]:
        """The segments that are being processed."""
        with self._lock:
            return tuple(self._active.values())

    @property
    def stop_reason(self) -> str | None:
        """Why the worker stops, or None."""
        return self._context.stopping.reason

    @property
    def error(self) -> Exception | None:
        """What made the worker stop, if that was an error."""
        return self._context.stopping.error

    def stop(self, reason: str, error: Exception | None = None) -> None:
        """Take no more segments, and return those that are being processed. `error` is why, if it is one."""
        self._context.stopping.stop(reason, error)

    @contextmanager
    def attended(self) -> Iterator[None]:
        """Stop on signals and on notices of the host while the body runs. For the main thread."""
        self._is_attended = True
        try:
            with self._context.stopping.attended(self._context.host, self.options.notice_poll_s):
                yield
        finally:
            self._is_attended = False

    def segments(self) -> Iterator[Segment]:
        """The segments of the queue, one after the other, until the worker stops.

        In the main thread, signals and notices of the host stop it.
        """
        if self._is_attended or threading.current_thread() is not threading.main_thread():
            yield from self._segments()
            return
        with self.attended():
            yield from self._segments()

    def _segments(self) -> Iterator[Segment]:
        logger.info("Waiting for segments", event="worker_started", worker=self.name, queue=self._context.queue.url)
        while self._goes_on():
            if delivery := self._receive():
                yield from self._segments_of(delivery)
        logger.info("Worker stopped", event="worker_stopped", worker=self.name, reason=self.stop_reason or "idle")

    def _goes_on(self) -> bool:
        if self.stop_reason is not None:
            return False
        idle_exit_s = self.options.idle_exit_s
        with self._lock:
            is_idle = not self._active and time.monotonic() - self._idle_since >= (idle_exit_s or 0)
        return idle_exit_s is None or not is_idle

    def _receive(self) -> Delivery | None:
        idle_exit_s = self.options.idle_exit_s
        wait_s = _LONG_POLL_S if idle_exit_s is None else max(1, min(_LONG_POLL_S, int(idle_exit_s)))
        try:
            return self._context.queue.receive(wait_s)
        except (BotoCoreError, ClientError) as error:
            self._note(error)
            self._context.stopping.pause(_PAUSE_AFTER_ERROR_S)
            return None

    def _segments_of(self, delivery: Delivery) -> Iterator[Segment]:
        """The segments that a message announces. S3 sends a message for each, but may send more."""
        keys = self._parse(delivery)
        for number, key in enumerate(keys, start=1):
            delivery.has_more = number < len(keys)
            if (segment := self._look_up(delivery, key)) is None:
                continue
            with self._tracking(segment):
                if self._begin(segment):
                    yield segment
        if not delivery.is_settled:
            self._settle(delivery)

    def _parse(self, delivery: Delivery) -> list[SegmentKey]:
        try:
            return parse_segment_body(delivery.body, self._context.aws.settings.input_bucket_name)
        except MessageError as error:
            logger.warning("Message not understood", event="message_not_understood", reason=str(error))
            self._return(delivery)
            return []

    def _look_up(self, delivery: Delivery, key: SegmentKey) -> Segment | None:
        """The segment, or None if there is nothing to do, or if that could not be found out."""
        if self.stop_reason is not None or delivery.is_settled:
            self._return(delivery)
            return None
        try:
            return self._find(delivery, key)
        except Exception as error:  # noqa: BLE001 - one message must not end the worker
            self._note(error)
            self._return(delivery)
            return None

    def _begin(self, segment: Segment) -> bool:
        """Claim and download a segment. Returns False if another worker has it, or if that failed."""
        try:
            return segment.begin()
        except Exception as error:  # noqa: BLE001 - recorded like an error of the processing
            self._note(error)
            segment.__exit__(type(error), error, error.__traceback__)
            return False

    def _find(self, delivery: Delivery, key: SegmentKey) -> Segment | None:
        """The segment, or None if it need not be processed."""
        aws = self._context.aws
        job = read_job(aws, key.job_id)
        stored = _describe(aws, key)
        reason = "the segment was deleted" if stored is None else None
        plan = stored.metadata.get(PLAN) if stored else None
        reason = reason or why_unwanted(aws, job, key.segment_index, plan)
        if reason is None and adopt_upload(aws, delivery, key, plan):
            reason = "an earlier attempt uploaded the processed segment"
        if stored and job and reason is None:
            return Segment(self._context, delivery, key, stored, job)
        # The worker that recorded the segment may have died before it said so, and before it requested the reassembly.
        if is_processed(aws, job_id=key.job_id, segment_index=key.segment_index, plan=plan):
            end_running_attempt(aws, key.job_id, key.segment_index)
        trigger_if_complete(aws, key.job_id)
        where: dict[str, Any] = {"job_id": key.job_id, "segment_index": key.segment_index}
        logger.info("Segment dropped", event="segment_dropped", worker=self.name, reason=reason, **where)
        return None

    @contextmanager
    def _tracking(self, segment: Segment) -> Iterator[None]:
        """Count the segment among the active ones. The task is protected while there are any."""
        with self._lock:
            self._active[id(segment)] = segment
            self._context.host.protect(protected=True)
        try:
            yield
        finally:
            segment.close()
            with self._lock:
                del self._active[id(segment)]
                self._idle_since = time.monotonic()
                if not self._active:
                    self._context.host.protect(protected=False)
            if segment.ending:
                self.endings.append(segment.ending)
            if self.options.once and segment.ending is not Ending.DROPPED:
                self._context.stopping.reason = self.stop_reason or "one segment was processed"

    def _settle(self, delivery: Delivery) -> None:
        try:
            self._context.queue.delete(delivery)
        except (BotoCoreError, ClientError) as error:
            self._note(error)

    def _return(self, delivery: Delivery) -> None:
        """Return a message whose segment could not be looked at; at once if that is because the worker stops."""
        try:
            if not delivery.is_settled:
                stops = self.stop_reason is not None
                self._context.queue.return_message(delivery, 0 if stops else self.options.segment.retry_delay_s)
        except (BotoCoreError, ClientError) as error:
            self._note(error)

    def _note(self, error: Exception) -> None:
        """Log an error. One that concerns every segment stops the worker."""
        logger.warning("Segment not processed", event="worker_error", worker=self.name, reason=describe_error(error))
        if is_refused(error):
            self._context.stopping.stop(f"AWS refuses access: {error}", error)


def _describe(aws: Aws, key: SegmentKey) -> "StoredObject | None":
    return describe(aws, key.bucket, build_segment_key(key.job_id, key.segment_index, key.total_segments, key.mode))
