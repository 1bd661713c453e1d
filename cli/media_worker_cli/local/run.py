"""`run`: one source through the whole pipeline, with segment workers in this process.

All jobs of a stack share one segment queue, so a run also receives messages about other jobs. Therefore each run has a
queue for its own segments, and its workers receive from that one. A thread forwards every message of the shared queue
to the queue of the run whose job it is about. It sends the message before it deletes the original: a crash in between
duplicates the message, which a segment worker must tolerate anyway, and never loses it.

A run that is interrupted, or whose job fails after it was split, leaves the job and its queue in the cloud. Another run
goes on with them (`--resume JOB`).
"""

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from media_worker.aws import Aws
from media_worker.errors import MessageError
from media_worker.interruption import Host
from media_worker.jobs import JobStatus, read_job
from media_worker.keys import build_source_key
from media_worker.messages import parse_segment_body
from media_worker.operations import retry_job
from media_worker.s3 import describe
from media_worker.segment_command import run_command
from media_worker.worker import SegmentOptions, Worker, WorkerOptions

from media_worker_cli.errors import RunInterrupted, UsageError
from media_worker_cli.fetching import fetch, final_size_bytes
from media_worker_cli.local.ffmpeg import count_frames
from media_worker_cli.progress import Bytes, Display, JobDisplay
from media_worker_cli.stack import Stack
from media_worker_cli.submission import Submission, remove_job, require_same_source, submit, upload_source
from media_worker_cli.summary import StepCost, Summary, read_outcome
from media_worker_cli.watching import LOCAL_INTERVAL_S, JobProgress, watch

_POLL_S = 1
_RETRY_DELAY_S = 2
# After a crash between receiving a message and forwarding it, the next run receives it this much later.
_FORWARD_VISIBILITY_S = 30
# A message that belongs to no run is for a worker that the user has started, which gets this long to receive it.
_REQUEUE_DELAY_S = 2
_ENDED = (JobStatus.COMPLETED, JobStatus.DELETED)


@dataclass(frozen=True, slots=True)
class Processing:
    """How segments are processed: by the user's command, or copied if there is none. `keep` is a folder for copies.

    `temporary` is the folder for segments at work: the cloud's, because /tmp may be in memory.
    """

    words: tuple[str, ...] | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    keep: Path | None = None
    temporary: Path | None = None
    concurrency: int = field(default_factory=lambda: os.process_cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What to run: the job, how its segments are processed, and the file for the final."""

    submission: Submission
    processing: Processing
    out: Path
    # Go on with the job of an earlier run.
    resume: bool = False


def run(stack: Stack, request: RunRequest, display: Display) -> Summary:
    """Submit the source, process the segments, download the final, and remove the job from the cloud.

    Raises:
        JobFailed: the job failed, or the segment command did.
        RunInterrupted: the user interrupted the run, and its job is kept.
        UsageError: the job to resume does not exist, or is for another source.
    """
    job_id, source = request.submission.job_id, request.submission.source
    if request.resume:
        _require_resumable(stack.aws, request.submission)
    started = time.monotonic()
    with _removing_job(stack.aws, job_id, display), processing_segments(stack, job_id, request.processing) as workers:
        upload = Bytes(display, "upload", source.stat().st_size)
        start = _resume if request.resume else submit
        start(stack.aws, request.submission, upload.add)
        upload_s = time.monotonic() - started

        job_display = JobDisplay(display)

        def report(progress: JobProgress) -> None:
            workers.raise_failure()
            job_display.show(progress)

        job = watch(stack.aws, job_id, report, LOCAL_INTERVAL_S)
        size_bytes = final_size_bytes(stack.aws, job_id)
        fetch(stack.aws, job_id, request.out, Bytes(display, "fetch", size_bytes).add)
        recorded, tracks_used = read_outcome(stack.aws, job_id)
        steps = (StepCost("upload", upload_s, source.stat().st_size), *recorded)
        seconds = time.monotonic() - started
    frames_in, frames_out = count_frames(source), count_frames(request.out)
    total = job.total_segments or 0
    return Summary(
        job_id,
        request.out,
        size_bytes,
        total,
        frames_in,
        frames_out,
        steps,
        seconds,
        notice=job.notice,
        tracks_used=tracks_used,
    )


def _require_resumable(aws: Aws, submission: Submission) -> None:
    require_same_source(aws, submission)
    job = read_job(aws, submission.job_id)
    if job is None or job.status is JobStatus.DELETED:
        raise UsageError(f"job {submission.job_id} is deleted: run the source without --resume")


def _resume(aws: Aws, submission: Submission, on_bytes: Callable[[int], None]) -> None:
    """Start what is left to do for a job: the upload, or a retry. Otherwise its messages are in its queue."""
    job = read_job(aws, submission.job_id)
    source = describe(aws, aws.settings.input_bucket_name, build_source_key(submission.job_id))
    if job and job.status is JobStatus.CREATED and source is None:
        upload_source(aws, submission, on_bytes)
        return
    on_bytes(submission.source.stat().st_size)
    if job and job.status is JobStatus.FAILED:
        retry_job(aws, submission.job_id)


@contextmanager
def _removing_job(aws: Aws, job_id: str, display: Display) -> Iterator[None]:
    """Remove the job at the end, because its objects take disk space.

    After an error the job is kept if another run can go on with it.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if not _can_go_on(aws, job_id):
            _remove(aws, job_id)
            raise
        display.say(
            f"what is done is kept in the local cloud: repeat the command with `--resume {job_id}` to go on, or "
            f"discard it with `media-worker delete {job_id}`"
        )
        if isinstance(error, KeyboardInterrupt):
            raise RunInterrupted from error
        raise
    _remove(aws, job_id)


def _can_go_on(aws: Aws, job_id: str) -> bool:
    """Whether another run could go on with the job. A source that could not be split fails again."""
    with suppress(BotoCoreError, ClientError):  # the cloud may have stopped
        job = read_job(aws, job_id)
        return (
            job is not None
            and job.status not in _ENDED
            and (job.status is not JobStatus.FAILED or job.total_segments is not None)
        )
    return False


def _remove(aws: Aws, job_id: str) -> None:
    # If the cloud has stopped, there is nothing to remove. An error here would hide why the run ended.
    with suppress(BotoCoreError, ClientError):
        remove_job(aws, job_id)
        queue_url = aws.sqs.get_queue_url(QueueName=build_queue_name(job_id))["QueueUrl"]
        aws.sqs.delete_queue(QueueUrl=queue_url)


@dataclass(slots=True)
class Workers:
    """Threads that repeat a function until they are stopped. The first failure stops all of them."""

    stop: threading.Event = field(default_factory=threading.Event)
    failure: Exception | None = None

    def raise_failure(self) -> None:
        """Raise the first failure, if there is one."""
        if self.failure:
            raise self.failure

    def loop(self, work: Callable[[], Any]) -> None:
        """Call `work` until stopped."""
        try:
            while not self.stop.is_set():
                work()
        except Exception as error:  # noqa: BLE001 - the main thread raises it again
            # An error after the stop is a consequence of the stop: its command was killed, for example.
            if not self.stop.is_set():
                self.failure = error
            self.stop.set()


@contextmanager
def processing_segments(stack: Stack, job_id: str, processing: Processing) -> Iterator[Workers]:
    """Process a job's segments while the block runs. At its end, running segment commands are killed, and their
    messages are returned to the job's queue.

    A segment that fails is processed again; when that has failed three times, the job is `failed`.
    """
    with ExitStack() as cleanup:
        queue_url = open_queue(stack.aws, job_id)
        temporary = TemporaryDirectory(prefix="media-worker-run-", dir=processing.temporary)
        directory = Path(cleanup.enter_context(temporary))
        settings = replace(stack.aws.settings, segment_queue_url=queue_url)
        options = WorkerOptions(directory=directory, segment=SegmentOptions(retry_delay_s=_RETRY_DELAY_S))
        worker = Worker(replace(stack.aws, settings=settings), Host(), options)
        workers = Workers()
        loops: list[Callable[[], Any]] = [lambda: forward(stack.aws, stack.segment_queue_url, workers.stop)]
        loops += [lambda: _process_segments(worker, processing)] * processing.concurrency
        threads = [threading.Thread(target=workers.loop, args=(work,), daemon=True) for work in loops]
        for thread in threads:
            thread.start()
            cleanup.callback(thread.join)
        # Cleanup runs in reverse order: stop the loops and the commands, and wait for the threads.
        cleanup.callback(worker.stop, "the run has ended")
        cleanup.callback(workers.stop.set)
        yield workers


def _process_segments(worker: Worker, processing: Processing) -> None:
    for segment in worker.segments():
        with segment:
            if processing.words:
                run_command(processing.words, segment, processing.environ)
            else:
                shutil.copyfile(segment.input, segment.output)
            if processing.keep and segment.output.is_file():
                _keep(processing.keep, segment.index, segment.input, segment.output)
    if worker.error:
        raise worker.error


def _keep(directory: Path, index: int, source: Path, target: Path) -> None:
    for name, path in (("segments", source), ("processed", target)):
        (directory / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, directory / name / f"{index:05d}.mp4")


def build_queue_name(job_id: str) -> str:
    """The name of a run's queue. It holds a hash, because a job id may contain characters that a name may not."""
    return f"media-worker-run-{hashlib.sha256(job_id.encode()).hexdigest()[:32]}"


def open_queue(aws: Aws, job_id: str) -> str:
    """The URL of the queue for the segments of one job: a new one, or that of an earlier run."""
    return aws.sqs.create_queue(QueueName=build_queue_name(job_id))["QueueUrl"]


def forward(aws: Aws, shared_queue_url: str, stop: threading.Event) -> None:
    """Forward messages of the shared queue until stopped. Returns within a second, with no message left in hand."""
    while not stop.is_set():
        received = aws.sqs.receive_message(
            QueueUrl=shared_queue_url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=_POLL_S,
            VisibilityTimeout=_FORWARD_VISIBILITY_S,
        ).get("Messages", [])
        for message in received:
            try:
                # S3 sends one message for each object, so the first segment's job is the message's job.
                segments = parse_segment_body(message["Body"], aws.settings.input_bucket_name)
            except MessageError:
                continue  # not readable: after its last receive SQS moves it to the dead-letter queue
            if segments:
                _forward_message(aws, shared_queue_url, segments[0].job_id, message["Body"])
            aws.sqs.delete_message(QueueUrl=shared_queue_url, ReceiptHandle=message["ReceiptHandle"])


def _forward_message(aws: Aws, shared_queue_url: str, job_id: str, body: str) -> None:
    """Send a message to its run's queue, or, if there is none and its job has not ended, to the shared queue again."""
    try:
        queue_url = aws.sqs.get_queue_url(QueueName=build_queue_name(job_id))["QueueUrl"]
        aws.sqs.send_message(QueueUrl=queue_url, MessageBody=body)
    except aws.sqs.exceptions.QueueDoesNotExist:
        job = read_job(aws, job_id)
        if job and job.status not in _ENDED:
            # A new message has a receive count of zero. Returning the old one would use up its receives.
            aws.sqs.send_message(QueueUrl=shared_queue_url, MessageBody=body, DelaySeconds=_REQUEUE_DELAY_S)
