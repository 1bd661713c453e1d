"""A stack with one job, its segments and their messages, and what tests look at."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from media_worker.attempts import Attempt, read_attempts
from media_worker.aws import Aws
from media_worker.completions import read_completions
from media_worker.interruption import Host
from media_worker.jobs import Job, read_job
from media_worker.keys import build_output_segment_key, build_segment_key
from media_worker.segment_command import run_command
from media_worker.settings import Settings
from media_worker.worker import Segment, SegmentOptions, Worker, WorkerOptions

from tests.functional.stack import create_table, s3_event
from tests.media import clips

ROOT = Path(__file__).parents[2]
JOB = "job-1"
PLAN = "0123456789abcdef0123456789abcdef"
RECEIVES = 3
COPY = (sys.executable, "-c", "import shutil, sys; shutil.copy(*sys.argv[1:])", "{input}", "{output}")


def make_clip(path: Path, frames: int) -> Path:
    size = "testsrc2=size=64x64:rate=24"
    clips.ffmpeg("-f", "lavfi", "-i", size, "-frames:v", str(frames), "-c:v", "libx264", "-bf", "0", str(path))
    return path


def python(program: str, *words: str) -> tuple[str, ...]:
    """A command that runs a small Python program."""
    return (sys.executable, "-c", program, *words)


def fast(**options: Any) -> SegmentOptions:
    """Options with which a test need not wait."""
    return SegmentOptions(**{"visibility_s": 2, "heartbeat_s": 0.2, "retry_delay_s": 0, **options})


@dataclass
class World:
    """The stack and everything a test does to it."""

    endpoint: str
    aws: Aws
    clip: Path
    directory: Path
    environ: dict[str, str] = field(default_factory=dict)
    # The clients of workers in this process, if they have other rights than the test.
    worker_aws: Aws | None = None
    # How long the clip is, in the metadata of the segments.
    lasts: dict[str, str] = field(default_factory=lambda: {"duration-seconds": "1", "frame-rate": "24"})

    @classmethod
    def create(cls, endpoint: str, clip: Path, directory: Path, *, attempts: bool = True) -> "World":
        queue = f"{endpoint}/123456789012"
        environ = {
            "INPUT_BUCKET_NAME": "inputs",
            "OUTPUT_BUCKET_NAME": "outputs",
            "JOBS_TABLE_NAME": "Jobs",
            "SEGMENT_COMPLETIONS_TABLE_NAME": "SegmentCompletions",
            "REASSEMBLY_TRIGGERED_TABLE_NAME": "ReassemblyTriggered",
            "CHUNKING_QUEUE_URL": f"{queue}/chunking",
            "REASSEMBLY_QUEUE_URL": f"{queue}/reassembly",
            "SEGMENT_QUEUE_URL": f"{queue}/segments",
            "AWS_ENDPOINT_URL": endpoint,
        } | ({"SEGMENT_ATTEMPTS_TABLE_NAME": "SegmentAttempts"} if attempts else {})
        world = cls(endpoint, Aws.connect(Settings.from_environment(environ)), clip, directory, environ)
        world._create_resources()
        return world

    def _create_resources(self) -> None:
        for bucket in ("inputs", "outputs"):
            self.aws.s3.create_bucket(Bucket=bucket)
        for queue in ("chunking", "reassembly", "letters"):
            self.aws.sqs.create_queue(QueueName=queue)
        letters = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:letters", "maxReceiveCount": RECEIVES}
        self.aws.sqs.create_queue(QueueName="segments", Attributes={"RedrivePolicy": json.dumps(letters)})
        create_table(self.aws, "Jobs", job_id="S")
        create_table(self.aws, "ReassemblyTriggered", job_id="S")
        for table in ("SegmentCompletions", "SegmentAttempts"):
            create_table(self.aws, table, job_id="S", segment_index="N")

    def reset(self) -> None:
        request = urllib.request.Request(f"{self.endpoint}/moto-api/reset", method="POST")
        urllib.request.urlopen(request).close()

    # What the chunking does

    def add_job(self, segments: int = 1, *, status: str = "chunking_complete", plan: str = PLAN) -> None:
        self.set_job(status, total_segments={"N": str(segments)}, plan={"S": plan})
        for index in range(segments):
            self.add_segment(index, segments)
            self.announce(index, segments)

    def set_job(self, status: str, **attributes: Any) -> None:
        row = {"job_id": {"S": JOB}, "mode": {"S": "sbs"}, "status": {"S": status}, "created_at": {"N": "1"}}
        self.aws.dynamodb.put_item(TableName="Jobs", Item=row | attributes)

    def add_segment(self, index: int, total: int) -> None:
        metadata = {
            "plan": PLAN,
            "frames": "24",
            "first-frame": str(24 * index),
            "start-seconds": str(index),
            **self.lasts,
        }
        key = build_segment_key(JOB, index, total, "sbs")
        self.aws.s3.put_object(Bucket="inputs", Key=key, Body=self.clip.read_bytes(), Metadata=metadata)

    def announce(self, index: int, total: int) -> None:
        body = json.dumps(s3_event(build_segment_key(JOB, index, total, "sbs"), "inputs"))
        self.aws.sqs.send_message(QueueUrl=self.environ["SEGMENT_QUEUE_URL"], MessageBody=body)

    # Workers

    def worker(self, host: Host | None = None, **options: Any) -> Worker:
        """A worker in this process that stops when there is nothing left to do."""
        chosen = {"name": "i-0abc", "idle_exit_s": 1.0, "directory": self.directory / "worker", "segment": fast()}
        return Worker(self.worker_aws or self.aws, host or Host(), WorkerOptions(**{**chosen, **options}))

    def work(self, command: Sequence[str], timeout_s: float | None = None, **options: Any) -> list[Segment]:
        """Run a command for every segment, until there is nothing left to do. Returns the attempts."""
        attempts = []
        for segment in self.worker(**options).segments():
            attempts.append(segment)
            with segment:
                run_command(command, segment, dict(os.environ), timeout_s)
        return attempts

    def start(
        self, *words: str, interpreter: str = sys.executable, stderr: int = subprocess.PIPE, **environ: str
    ) -> "subprocess.Popen[str]":
        """`media-worker work` in a process of its own."""
        program = (
            "import argparse, sys; from media_worker_cli import work; p = argparse.ArgumentParser();"
            "work.add_parser(p.add_subparsers()); a = p.parse_args(); sys.exit(a.command(a))"
        )
        argv = [interpreter, "-c", program, "work", "--directory", str(self.directory / "worker"), *words]
        return self.launch(argv, stderr, **environ)

    def launch(self, argv: Sequence[str], stderr: int = subprocess.PIPE, **environ: str) -> "subprocess.Popen[str]":
        """A program that finds the package and the stack."""
        path = os.pathsep.join([str(ROOT / "shared"), str(ROOT / "cli")])
        everything = {**os.environ, **self.environ, "PYTHONPATH": path, **environ}
        return subprocess.Popen(argv, env=everything, stdout=subprocess.PIPE, stderr=stderr, text=True)

    # What a test looks at

    @property
    def job(self) -> Job:
        job = read_job(self.aws, JOB)
        assert job
        return job

    @property
    def processed(self) -> list[int]:
        return [completion.segment_index for completion in read_completions(self.aws, JOB)]

    @property
    def attempts(self) -> list[Attempt]:
        return read_attempts(self.aws, JOB)

    def output(self, index: int) -> dict[str, Any]:
        key = build_output_segment_key(JOB, index)
        found: dict[str, Any] = dict(self.aws.s3.head_object(Bucket="outputs", Key=key))
        found["Tags"] = self.aws.s3.get_object_tagging(Bucket="outputs", Key=key)["TagSet"]
        found["Bytes"] = self.aws.s3.get_object(Bucket="outputs", Key=key)["Body"].read()
        return found

    def has_output(self, index: int) -> bool:
        listing = self.aws.s3.list_objects_v2(Bucket="outputs", Prefix=build_output_segment_key(JOB, index))
        return listing["KeyCount"] > 0

    def messages(self, queue: str = "segments") -> tuple[int, int]:
        """How many messages are visible, and how many are hidden."""
        names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        url = f"{self.endpoint}/123456789012/{queue}"
        found = self.aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return int(found[names[0]]), int(found[names[1]])

    def kept_files(self) -> list[str]:
        """What is left on the worker's disk."""
        return [path.name for path in (self.directory / "worker").rglob("*") if path.is_file()]


def wait_until(happens: Callable[[], object], seconds: float = 15) -> None:
    ends_at = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < ends_at, "it did not happen"
        time.sleep(0.05)
