"""Buckets, tables and queues that exist already: used by a stack, and by a process without one."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

import pytest
from media_worker.aws import Aws
from media_worker.settings import Settings

from local.binaries import ffmpeg_path
from local.film import fetch
from local.submission import Submission, invent_job_id, submit
from local.watching import LOCAL_PAUSE_S, watch
from tests.e2e.conftest import ROOT, CommandLine
from tests.e2e.test_pipeline import assert_same_media
from tests.e2e.theirs import Theirs

pytestmark = pytest.mark.xdist_group("e2e")

COPY = [sys.executable, "-c", "import shutil, sys; shutil.copy(*sys.argv[1:])", "{input}", "{output}"]


@contextmanager
def process(*argv: str | Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([*map(str, argv)], env=environment, cwd=ROOT, stdout=subprocess.DEVNULL) as started:
        try:
            yield started
        finally:
            started.terminate()


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def sam_deploy(theirs: Theirs, stack: str) -> None:
    argv = [program("sam"), "deploy", "--template-file", ".local/build/template.yaml", "--stack-name", stack]
    argv += ["--config-file", str(ROOT / "local" / "samconfig.toml"), "--parameter-overrides", *theirs.parameters]
    argv += [f"FfmpegPath={ffmpeg_path()}", "MaximumConcurrency=0"]
    environment = theirs.environment | {"SAM_CLI_TELEMETRY": "0", "SAM_CLI_POLL_DELAY": "0.3"}
    done = subprocess.run(argv, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def take_through(theirs: Theirs, clip: Path, final: Path) -> None:
    """Submit, work on the segments, watch and fetch, as a user does; the film has to be the source."""
    environment = theirs.environment | theirs.settings
    aws = Aws.connect(Settings.from_environment(environment))
    submission = Submission(invent_job_id(clip), clip, segment_duration_s=Decimal(4))
    with process(sys.executable, "examples/segment_worker.py", *COPY, environment=environment):
        submit(aws, submission, lambda _: None)
        job = watch(aws, submission.job_id, lambda _: None, LOCAL_PAUSE_S)
        fetch(aws, submission.job_id, final, lambda _: None)
    assert job.total_segments == 3
    assert_same_media(final, clip)


def test_a_stack_of_given_things(cloud: CommandLine, clip: Path, tmp_path: Path) -> None:
    """A stack that is given every bucket, table and queue makes none, and the film is finished once the owner has done
    what the outputs say.
    """
    theirs = Theirs("theirs", cloud.stack_environment())
    theirs.create()
    sam_deploy(theirs, "given")
    cloudformation = theirs.client("cloudformation")
    resources = cloudformation.describe_stack_resources(StackName="given")["StackResources"]
    made = {resource["ResourceType"] for resource in resources}
    assert not made & {"AWS::S3::Bucket", "AWS::DynamoDB::Table", "AWS::SQS::Queue", "AWS::SQS::QueuePolicy"}
    (stack,) = cloudformation.describe_stacks(StackName="given")["Stacks"]
    todo = {one["OutputKey"]: one["OutputValue"] for one in stack["Outputs"] if one["OutputKey"].startswith("Todo")}
    theirs.allow("Chunking", json.loads(todo.pop("TodoChunkingQueuePolicy")))
    theirs.allow("Segment", json.loads(todo.pop("TodoSegmentQueuePolicy")))
    theirs.notify(json.loads(todo.pop("TodoInputBucketNotification")))
    assert not todo
    take_through(theirs, clip, tmp_path / "final.mp4")


def test_a_process_with_an_env_file(cloud: CommandLine, clip: Path, tmp_path: Path) -> None:
    """`serve` with the names in a file does the work of both functions. The file counts, whatever the shell holds."""
    theirs = Theirs("served", cloud.stack_environment())
    theirs.create()
    rules = [[{"Name": "prefix", "Value": prefix}] for prefix in ("input/", "segments/")]
    configurations = [
        {"QueueArn": theirs.arn(queue), "Events": ["s3:ObjectCreated:*"], "Filter": {"Key": {"FilterRules": rule}}}
        for queue, rule in zip(("Chunking", "Segment"), rules, strict=True)
    ]
    theirs.notify({"QueueConfigurations": configurations})
    env_file = tmp_path / "stack.env"
    settings = theirs.settings | {"FFMPEG_PATH": str(ffmpeg_path())}
    env_file.write_text("# theirs\n" + "".join(f"{name}={value}\n" for name, value in settings.items()))
    with process(program("media-worker"), "serve", "--env-file", env_file, environment=theirs.environment) as server:
        take_through(theirs, clip, tmp_path / "final.mp4")
        server.terminate()
        assert server.wait(timeout=30) == 0
