"""`run`: one source through the whole pipeline, in one go."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from local.film import count_frames, fetch, final_size_bytes
from local.progress import Bytes, Display, show_sighting
from local.stack import Stack
from local.submission import Submission, remove_job, submit
from local.summary import StepCost, Summary, read_steps
from local.watching import LOCAL_PAUSE_S, Sighting, watch
from local.work import Processing, crew_at_work


@dataclass(frozen=True, slots=True)
class Order:
    """What a run is asked for."""

    submission: Submission
    processing: Processing
    out: Path


def run(stack: Stack, order: Order, display: Display) -> Summary:
    """Submit, work on the segments, watch, fetch; and leave nothing of the job in the cloud.

    Raises:
        JobFailed: the job failed, or the command did for a segment.
    """
    job_id, source = order.submission.job_id, order.submission.source
    started = time.monotonic()
    with _job_removed_after(stack, job_id), crew_at_work(stack, job_id, order.processing) as crew:
        upload = Bytes(display, "upload", source.stat().st_size)
        submit(stack.aws, order.submission, upload.add)
        uploaded = time.monotonic()

        def report(sighting: Sighting) -> None:
            crew.raise_failure()
            show_sighting(display, sighting)

        job = watch(stack.aws, job_id, report, LOCAL_PAUSE_S)
        size_bytes = final_size_bytes(stack.aws, job_id)
        fetch(stack.aws, job_id, order.out, Bytes(display, "fetch", size_bytes).add)
        steps = (StepCost("upload", uploaded - started, source.stat().st_size), *read_steps(stack.aws, job_id))
        seconds = time.monotonic() - started
    frames_in, frames_out = count_frames(source), count_frames(order.out)
    return Summary(job_id, order.out, size_bytes, job.total_segments or 0, frames_in, frames_out, steps, seconds)


@contextlib.contextmanager
def _job_removed_after(stack: Stack, job_id: str) -> Iterator[None]:
    try:
        yield
    finally:
        # A cloud that has gone meanwhile holds nothing; saying so would hide why the run ended.
        with contextlib.suppress(BotoCoreError, ClientError):
            remove_job(stack.aws, job_id)
