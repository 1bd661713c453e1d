"""Updating a stack while jobs run, and deleting it."""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from media_worker.aws import Aws
from media_worker.interruption import Host
from media_worker.jobs import Job, JobStatus, read_job
from media_worker.keys import build_final_key, build_source_key
from media_worker.worker import Worker
from media_worker_cli.local.ffmpeg import ffmpeg_path
from media_worker_cli.local.run import Workers
from media_worker_cli.stack import Stack, find_stack
from media_worker_cli.submission import Submission, new_job_id, submit

from tests.e2e.conftest import ROOT, SAM_CONFIG, CommandLine
from tests.media import clips

STACK = "lifecycle"
# This many jobs are kept running during a deployment.
RUNNING = 4
ENDED = {JobStatus.COMPLETED, JobStatus.FAILED}
# The changed version plans a different number of segments.
OLD_SEGMENTS, NEW_SEGMENTS = 1, 5
READ_SETTINGS = "Settings.from_environment(os.environ)"
OTHER_SETTINGS = 'Settings.from_environment({**os.environ, "CHUNK_SEGMENT_DURATION_SEC": "2"})'


def deploying(
    environment: dict[str, str], template: Path, stack: str = STACK, **parameters: str
) -> subprocess.Popen[str]:
    given = {"FfmpegPath": ffmpeg_path(), "MaximumConcurrency": "0", **parameters}
    argv = [str(Path(sys.executable).with_name("sam")), "deploy", "--stack-name", stack]
    argv += ["--template-file", str(template), "--parameter-overrides"]
    argv += [f"{name}={value}" for name, value in given.items()]
    argv += ["--config-file", SAM_CONFIG]
    quiet = {"SAM_CLI_TELEMETRY": "0", "SAM_CLI_POLL_DELAY": "0.3"}
    return subprocess.Popen(
        argv, env=environment | quiet, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ended_well(process: subprocess.Popen[str]) -> str:
    with process:
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 0, said
    return said


def failed(process: subprocess.Popen[str]) -> str:
    with process:
        said = process.communicate(timeout=120)[0]
    assert process.returncode == 1, said
    return said


def change(build: Path, changed: Path) -> Path:
    """Copy the build and change the chunking function's code in the copy. Returns the path of the copy's template."""
    shutil.copytree(build, changed, copy_function=os.link)
    handler = changed / "ChunkingFunction" / "app.py"
    code = handler.read_text()
    assert READ_SETTINGS in code
    handler.unlink()
    handler.write_text(code.replace(READ_SETTINGS, OTHER_SETTINGS))
    return changed / "template.yaml"


@dataclass
class Jobs:
    """The jobs submitted to a stack."""

    aws: Aws
    clip: Path
    ids: list[str] = field(default_factory=list)

    def submit(self) -> None:
        submission = Submission(new_job_id(self.clip), self.clip, segment_duration_s=None)
        submit(self.aws, submission, lambda _: None)
        self.ids.append(submission.job_id)

    def read(self) -> list[Job]:
        jobs = [read_job(self.aws, job_id) for job_id in self.ids]
        return [job for job in jobs if job]

    def running(self) -> int:
        return sum(job.status not in ENDED for job in self.read())


@contextmanager
def segment_workers(stack: Stack) -> Iterator[Workers]:
    """Two workers that copy segments."""
    worker, workers = Worker(stack.aws, Host()), Workers()

    def work() -> None:
        for segment in worker.segments():
            with segment:
                shutil.copyfile(segment.input, segment.output)

    threads = [threading.Thread(target=workers.loop, args=(work,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield workers
    finally:
        workers.stop.set()
        worker.stop("the test has ended")
        for thread in threads:
            thread.join()


def wait_for(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.2)


@pytest.fixture(scope="module")
def environment(cloud: CommandLine) -> dict[str, str]:
    """The environment for programs, after this file's stack is deployed beside the cloud's own."""
    environment = cloud.stack_environment()
    ended_well(deploying(environment, ROOT / ".local" / "build" / "template.yaml"))
    return environment


@pytest.fixture
def stack(environment: dict[str, str]) -> Stack:
    return find_stack(STACK, environment)


def queue_urls(aws: Aws) -> list[str]:
    return aws.sqs.list_queues(QueueNamePrefix=STACK).get("QueueUrls", [])


def messages(aws: Aws, queue: str = "Queue") -> int:
    """The number of messages in the stack's queues with `queue` in their names, visible or not."""
    urls = queue_urls(aws)
    assert len(urls) == 6
    answers = [aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"]) for url in urls if queue in url]
    names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
    return sum(int(count) for one in answers for name, count in one["Attributes"].items() if name in names)


def client(environment: dict[str, str], service: Any) -> Any:
    return boto3.client(service, endpoint_url=environment["AWS_ENDPOINT_URL"], region_name=environment["AWS_REGION"])


def physical_id(environment: dict[str, str], stack: str, logical_id: str) -> str:
    cloudformation = client(environment, "cloudformation")
    resource = cloudformation.describe_stack_resource(StackName=stack, LogicalResourceId=logical_id)
    return str(resource["StackResourceDetail"]["PhysicalResourceId"])


def kept(environment: dict[str, str]) -> dict[str, str]:
    """The physical ids of what an update must leave in place: what holds data, and what policies of users name."""
    resources = client(environment, "cloudformation").describe_stack_resources(StackName=STACK)["StackResources"]
    kinds = ("S3::Bucket", "DynamoDB::Table", "SQS::Queue", "IAM::Role", "IAM::ManagedPolicy")
    return {
        one["LogicalResourceId"]: one["PhysicalResourceId"]
        for one in resources
        if one["ResourceType"].removeprefix("AWS::") in kinds
    }


def test_an_update_loses_no_message(environment: dict[str, str], stack: Stack, tmp_path: Path) -> None:
    """Running jobs complete during a deployment. Later jobs are done by the new version."""
    jobs = Jobs(stack.aws, clips.make("no_audio", tmp_path / "clip.mp4"))
    with segment_workers(stack) as workers:
        jobs.submit()
        wait_for(lambda: not jobs.running())
        before = kept(environment)
        update = deploying(environment, change(ROOT / ".local" / "build", tmp_path / "changed"))
        while update.poll() is None:
            if jobs.running() < RUNNING:
                jobs.submit()
            time.sleep(0.1)
        ended_well(update)
        jobs.submit()
        # Unlike AWS, the local cloud kills invocations that run during an update. Their messages are not lost, but they
        # become visible only after the visibility timeout, which is longer than a test.
        wait_for(lambda: jobs.read()[-1].status in ENDED and jobs.running() <= messages(stack.aws))
        workers.raise_failure()
    done = [job for job in jobs.read() if job.status in ENDED]
    assert {job.status for job in done} == {JobStatus.COMPLETED}
    assert kept(environment) == before
    assert len(before) == 16
    assert len(jobs.ids) > RUNNING
    assert len(jobs.ids) - len(done) <= RUNNING
    assert {job.total_segments for job in done} == {OLD_SEGMENTS, NEW_SEGMENTS}
    assert (done[0].total_segments, done[-1].total_segments) == (OLD_SEGMENTS, NEW_SEGMENTS)
    for job in done:
        stack.aws.s3.head_object(Bucket=stack.aws.settings.output_bucket_name, Key=build_final_key(job.job_id))
    # A killed invocation may have completed its job: then its message is in the queue, and no job is running.
    wait_for(lambda: jobs.running() <= messages(stack.aws))
    assert messages(stack.aws, "DeadLetterQueue") == 0


def test_a_nested_stack_is_updated(environment: dict[str, str]) -> None:
    """A new log level reaches the function in the nested stack, and the stack keeps all its parts."""
    before = kept(environment)
    ended_well(deploying(environment, ROOT / ".local" / "build" / "template.yaml", LogLevel="DEBUG"))
    function = physical_id(environment, physical_id(environment, STACK, "Events"), "EventsFunction")
    described = client(environment, "lambda").get_function_configuration(FunctionName=function)
    assert described["Environment"]["Variables"]["POWERTOOLS_LOG_LEVEL"] == "DEBUG"
    assert kept(environment) == before


def test_a_build_for_another_architecture_is_not_deployed(environment: dict[str, str]) -> None:
    """The deployment fails and says what to do. The functions keep their architecture, and the stack all its parts."""
    before, begin = kept(environment), datetime.now(UTC)
    build = ROOT / ".local" / "build" / "template.yaml"
    failed(deploying(environment, build, Architecture="arm64"))
    events = client(environment, "cloudformation").describe_stack_events(StackName=STACK)["StackEvents"]
    reasons = [event.get("ResourceStatusReason", "") for event in events if event["Timestamp"] >= begin]
    assert any("Give `sam build` and `sam deploy` the same Architecture" in reason for reason in reasons), reasons
    assert kept(environment) == before
    function = physical_id(environment, STACK, "ChunkingFunction")
    described = client(environment, "lambda").get_function_configuration(FunctionName=function)
    assert described["Architectures"] == ["x86_64"]


def what_exists(aws: Aws) -> set[str]:
    """The names of all buckets, tables and queues in the cloud."""
    buckets = {bucket["Name"] for bucket in aws.s3.list_buckets()["Buckets"]}
    tables, queues = aws.dynamodb.list_tables()["TableNames"], aws.sqs.list_queues().get("QueueUrls", [])
    return buckets | set(tables) | set(queues)


def test_a_failed_first_deployment_leaves_nothing(environment: dict[str, str], stack: Stack, tmp_path: Path) -> None:
    """When a stack cannot be created, its buckets and tables are deleted with the rest."""
    changed = tmp_path / "changed"
    shutil.copytree(ROOT / ".local" / "build", changed, copy_function=os.link)
    template = changed / "template.yaml"
    text = template.read_text()
    template.unlink()
    broken = """
  Broken:
    Type: AWS::CloudFormation::Stack
    DependsOn: [InputBucket, OutputBucket, JobsTable, SegmentCompletionsTable, ReassemblyTriggeredTable]
    Properties: {TemplateURL: https://s3.us-east-1.amazonaws.com/media-worker-artifacts/absent.yaml}
"""
    template.write_text(text.replace("\nResources:\n", f"\nResources:{broken}"))
    before = what_exists(stack.aws)
    assert "ROLLBACK_COMPLETE" in failed(deploying(environment, template, "broken"))
    assert what_exists(stack.aws) == before


def test_deleting_the_stack_keeps_buckets_and_tables(environment: dict[str, str], stack: Stack, tmp_path: Path) -> None:
    """Buckets and tables stay with their objects and rows, and CloudFormation reports them as skipped.

    The test uses CloudFormation's API, because `sam delete` accepts only template URLs of AWS for the nested stack.
    """
    aws, settings = stack.aws, stack.aws.settings
    jobs = Jobs(aws, clips.make("no_audio", tmp_path / "clip.mp4"))
    jobs.submit()
    wait_for(lambda: jobs.read()[0].total_segments)
    assert queue_urls(aws)
    cloudformation = client(environment, "cloudformation")
    cloudformation.delete_stack(StackName=STACK)
    cloudformation.get_waiter("stack_delete_complete").wait(StackName=STACK, WaiterConfig={"Delay": 1})
    (deleted,) = (one for one in cloudformation.list_stacks()["StackSummaries"] if one["StackName"] == STACK)
    assert deleted["StackStatus"] == "DELETE_COMPLETE"
    events = cloudformation.describe_stack_events(StackName=deleted["StackId"])["StackEvents"]
    kept = {event["LogicalResourceId"] for event in events if event["ResourceStatus"] == "DELETE_SKIPPED"}
    tables = {"JobsTable", "SegmentCompletionsTable", "ReassemblyTriggeredTable", "SegmentAttemptsTable"}
    assert kept == {"InputBucket", "OutputBucket", *tables}
    assert jobs.read()[0].total_segments
    aws.s3.head_object(Bucket=settings.input_bucket_name, Key=build_source_key(jobs.ids[0]))
    aws.s3.head_bucket(Bucket=settings.output_bucket_name)
    assert queue_urls(aws) == []
    left = [one for one in cloudformation.list_stacks()["StackSummaries"] if one["StackName"].startswith(STACK)]
    assert {one["StackStatus"] for one in left} == {"DELETE_COMPLETE"}
