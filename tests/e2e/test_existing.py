"""Existing buckets, tables and queues, used by a stack and by a process without a stack."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from media_worker.aws import Aws
from media_worker.settings import Settings
from media_worker_cli.fetching import fetch
from media_worker_cli.local.ffmpeg import ffmpeg_path
from media_worker_cli.submission import Submission, new_job_id, submit
from media_worker_cli.watching import LOCAL_INTERVAL_S, watch

from tests.e2e.conftest import ROOT, SAM_CONFIG, CommandLine
from tests.e2e.existing_resources import ExistingResources
from tests.e2e.test_pipeline import assert_same_media


@contextmanager
def process(*argv: str | Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([*map(str, argv)], env=environment, cwd=ROOT, stdout=subprocess.DEVNULL) as started:
        try:
            yield started
        finally:
            started.terminate()


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def sam_deploy(existing: ExistingResources, stack: str) -> None:
    argv = [program("sam"), "deploy", "--template-file", ".local/build/template.yaml", "--stack-name", stack]
    argv += ["--config-file", SAM_CONFIG, "--parameter-overrides", *existing.parameters]
    argv += [f"FfmpegPath={ffmpeg_path()}", "MaximumConcurrency=0"]
    environment = existing.environment | {"SAM_CLI_TELEMETRY": "0", "SAM_CLI_POLL_DELAY": "0.3"}
    done = subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def run_job(existing: ExistingResources, clip: Path, final: Path) -> None:
    """Submit, process the segments, watch and fetch, as a user does. The final must equal the source."""
    environment = existing.environment | existing.settings
    aws = Aws.connect(Settings.from_environment(environment))
    submission = Submission(new_job_id(clip), clip, segment_duration_s=Decimal(4))
    with process(sys.executable, "examples/segment_worker.py", environment=environment):
        submit(aws, submission, lambda _: None)
        job = watch(aws, submission.job_id, lambda _: None, LOCAL_INTERVAL_S)
        fetch(aws, submission.job_id, final, lambda _: None)
    assert job.total_segments == 3
    assert_same_media(final, clip)


def check(existing: ExistingResources, stack: str) -> dict[str, Any]:
    """What `media-worker check` finds."""
    argv = [program("media-worker"), "check", "--stack", stack, "--json"]
    done = subprocess.run(argv, env=existing.environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {each["check"]: each for each in json.loads(done.stdout)["checks"]}


def test_a_stack_that_uses_existing_resources(cloud: CommandLine, clip: Path, tmp_path: Path) -> None:
    """A stack that is given every bucket, table and queue creates none but its table of attempts. Jobs complete once
    the owner has done what the outputs say, and segments expire.
    """
    existing = ExistingResources("existing", cloud.stack_environment())
    existing.create()
    sam_deploy(existing, "given")
    cloudformation = existing.client("cloudformation")
    resources = cloudformation.describe_stack_resources(StackName="given")["StackResources"]
    stateful = {"AWS::S3::Bucket", "AWS::DynamoDB::Table", "AWS::SQS::Queue", "AWS::SQS::QueuePolicy"}
    created = {resource["LogicalResourceId"] for resource in resources if resource["ResourceType"] in stateful}
    assert created == {"SegmentAttemptsTable"}
    (stack,) = cloudformation.describe_stacks(StackName="given")["Stacks"]
    todo = {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"] if one["OutputKey"].startswith("Todo")}
    existing.allow("Chunking", json.loads(todo.pop("TodoChunkingQueuePolicy")))
    existing.allow("Segment", json.loads(todo.pop("TodoSegmentQueuePolicy")))
    existing.notify(json.loads(todo.pop("TodoInputBucketNotification")))
    for bucket in ("Input", "Output"):
        existing.expire(bucket.lower(), json.loads(todo.pop(f"Todo{bucket}BucketLifecycle")))
    assert not todo
    run_job(existing, clip, tmp_path / "final.mp4")
    checked = check(existing, "given")
    assert checked["expiry"]["result"] == "proven", checked
    # The owner has not given the stream of the Jobs table.
    assert (checked["rule for events"]["result"], checked["events"]["result"]) == ("not checked", "not checked")
    assert {each["result"] for each in checked.values()} == {"proven", "not checked"}


def test_serve_with_an_env_file(cloud: CommandLine, clip: Path, tmp_path: Path) -> None:
    """`serve` does the work of both functions. The file takes precedence over the environment."""
    existing = ExistingResources("served", cloud.stack_environment())
    existing.create()
    rules = [[{"Name": "prefix", "Value": prefix}] for prefix in ("input/", "segments/")]
    configurations = [
        {"QueueArn": existing.arn(queue), "Events": ["s3:ObjectCreated:*"], "Filter": {"Key": {"FilterRules": rule}}}
        for queue, rule in zip(("Chunking", "Segment"), rules, strict=True)
    ]
    existing.notify({"QueueConfigurations": configurations})
    env_file = tmp_path / "stack.env"
    settings = existing.settings | {"FFMPEG_PATH": str(ffmpeg_path())}
    env_file.write_text("# existing\n" + "".join(f"{name}={value}\n" for name, value in settings.items()))
    with process(program("media-worker"), "serve", "--env-file", env_file, environment=existing.environment) as server:
        run_job(existing, clip, tmp_path / "final.mp4")
        server.terminate()
        assert server.wait(timeout=30) == 0
