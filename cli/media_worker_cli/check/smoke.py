"""What the steps of the check share: its jobs, its clients, and how a step ends without a proof."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import boto3
from botocore.exceptions import ClientError
from media_worker.aws import Aws
from media_worker.jobs import Job, JobStatus, read_job
from media_worker.keys import build_output_segment_key, build_segment_key
from media_worker.s3 import StoredObject, describe

from media_worker_cli.check.clip import FPS, Clip, make_clip
from media_worker_cli.errors import ACCESS_DENIED
from media_worker_cli.stack import Stack
from media_worker_cli.submission import new_job_id

if TYPE_CHECKING:
    from media_worker_cli.check.events import Listener

EngineName = Literal["copy", "ffmpeg"]

SEGMENTS = 2
FRAMES = SEGMENTS * FPS
LOOK = "run `media-worker doctor` on the stack, and read the functions' logs (docs/operations.md, Troubleshooting)"
# A segment must be larger than 10 MiB: its first part is uploaded, and a part that S3 copies has 5 MiB or more.
_SIZES: Mapping[EngineName, tuple[int, int]] = {"copy": (640, 480), "ffmpeg": (64, 48)}
_ENDED_BADLY = frozenset({JobStatus.FAILED, JobStatus.DELETED})


class Disproven(Exception):
    """The stack does not do what it should."""

    def __init__(self, found: str, advice: str = LOOK) -> None:
        """What was found, and what to do."""
        super().__init__(found)
        self.advice = advice


class NotChecked(Exception):
    """Something could not be checked. The message says why."""


@contextmanager
def permitted(right: str) -> Iterator[None]:
    """A request that needs a right which the caller may lack.

    Raises:
        NotChecked: the caller lacks it.
    """
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] in ACCESS_DENIED:
            raise NotChecked(f"not permitted: {right}") from error
        raise


@dataclass(slots=True)
class Trial:
    """A job of the check."""

    engine: EngineName
    job_id: str
    clip: Clip
    job: Job | None = None

    @classmethod
    def of(cls, engine: EngineName) -> "Trial":
        """A new job, and a clip of the size that the engine needs."""
        return cls(engine, new_job_id(Path(f"check-{engine}.mp4")), make_clip(*_SIZES[engine], FRAMES))

    @property
    def split(self) -> Job:
        """The job after the split."""
        assert self.job is not None
        return self.job


@dataclass(slots=True)
class Smoke:
    """A check of one stack, and what its steps have found so far."""

    stack: Stack
    timeout_s: float
    interval_s: float
    worker_role: str | None = None
    trials: Sequence[Trial] = field(default_factory=lambda: [Trial.of("copy"), Trial.of("ffmpeg")])
    # The clients that process the segments: with the rights of a segment worker, if these can be assumed.
    worker: Aws | None = None
    # Receives the events of the jobs.
    listener: "Listener | None" = None

    @property
    def aws(self) -> Aws:
        """The caller's clients."""
        return self.stack.aws

    def client(self, service: Any) -> Any:
        """The caller's client of another service."""
        settings = self.aws.settings
        return boto3.client(service, region_name=settings.aws_region, endpoint_url=settings.aws_endpoint_url)

    def trial(self, engine: EngineName) -> Trial:
        """The job of an engine."""
        return next(trial for trial in self.trials if trial.engine == engine)

    def wait(self, trial: Trial, statuses: frozenset[JobStatus]) -> Job:
        """Wait until the job has one of the statuses.

        Raises:
            Disproven: it has ended otherwise, or takes too long.
        """
        give_up_at = time.monotonic() + self.timeout_s
        while True:
            job = read_job(self.aws, trial.job_id)
            status = job.status if job else None
            if job and status in statuses:
                return job
            if job is None or status in _ENDED_BADLY:
                raise Disproven(f"the job is {status or 'gone'}: {job.error if job else 'its row was removed'}")
            if time.monotonic() > give_up_at:
                raise Disproven(f"the job is still {status} after {self.timeout_s:.0f} s")
            time.sleep(self.interval_s)

    def segment(self, trial: Trial, index: int) -> StoredObject:
        """A segment in the input bucket.

        Raises:
            Disproven: it does not exist.
        """
        key = build_segment_key(trial.job_id, index, SEGMENTS, trial.split.mode)
        if (found := describe(self.aws, self.aws.settings.input_bucket_name, key)) is None:
            raise Disproven(f"{key} does not exist")
        return found

    def processed(self, trial: Trial, index: int) -> tuple[str, str]:
        """Bucket and key of a processed segment."""
        return self.aws.settings.output_bucket_name, build_output_segment_key(trial.job_id, index)
