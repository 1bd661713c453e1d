"""The commands of the local cloud: `up`, `down`, `status` and `run`. Each returns its exit code."""

# ruff: noqa: T201 - a command line prints

import json
import os
import shlex
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from botocore.exceptions import BotoCoreError

from media_worker_cli import fetching, progress
from media_worker_cli.errors import CloudError, FramesMissing, JobFailed, UsageError
from media_worker_cli.job_commands import require_job_id
from media_worker_cli.local import cloud as clouds
from media_worker_cli.local.cloud import Cloud, state_directory
from media_worker_cli.local.deployment import CACHE, STACK_NAME, client_environment, current_fingerprint, isolated
from media_worker_cli.local.disk import find_free_bytes, require_space
from media_worker_cli.local.ffmpeg import with_ffmpeg_on_path
from media_worker_cli.local.run import Processing, RunRequest
from media_worker_cli.local.run import run as run_pipeline
from media_worker_cli.segment_command import parse_command
from media_worker_cli.stack import Stack, find_stack
from media_worker_cli.submission import Submission, require_source
from media_worker_cli.summary import describe_frames


def up(_: Namespace) -> int:
    """Start the cloud and deploy into it, if that is not done yet."""
    state = state_directory(os.environ)
    print(_describe(clouds.bring_up(state, dict(os.environ), _report), state))
    return 0


def down(_: Namespace) -> int:
    """Stop the cloud, even if a run uses it."""
    was_running = clouds.stop(state_directory(os.environ))
    print("the local cloud is stopped" if was_running else "the local cloud was not running")
    return 0


def status(arguments: Namespace) -> int:
    """0 if the cloud is running, 1 if it is not."""
    state = state_directory(os.environ)
    cloud = clouds.find(state)
    if cloud is None:
        print("the local cloud is not running: start it with `media-worker up`", file=sys.stderr)
        return 1
    if arguments.env:
        environment = client_environment(cloud.endpoint) | dict(find_local_stack().environment)
        print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment.items()))
        return 0
    print(_describe(cloud, state))
    return 0


def run(arguments: Namespace) -> int:
    """Split, process and join a video in the local cloud."""
    require_source(arguments.source)
    fetching.require_target(arguments.out, arguments.source)
    state = state_directory(os.environ)
    if arguments.resume:
        require_job_id(arguments.resume)
    else:
        require_space(arguments.source, state, find_free_bytes(state))
    request = RunRequest(Submission.of(arguments), _processing(arguments, state), arguments.out, bool(arguments.resume))
    try:
        with progress.display() as display, clouds.in_use(state, dict(os.environ), display.say) as cloud:
            use_local_cloud(cloud)
            summary = run_pipeline(find_stack(STACK_NAME, os.environ), request, display)
    except JobFailed as error:
        if arguments.json:
            print(json.dumps({"job_id": request.submission.job_id, "status": "failed", "error": str(error)}))
        raise
    except BotoCoreError as error:
        if clouds.find(state) is None:
            raise CloudError(f"the local cloud has stopped; its output is in {state / 'cloud.log'}") from error
        raise
    print(json.dumps(summary.as_json(), indent=2) if arguments.json else "\n".join(summary.as_lines()))
    if arguments.frame_check != "any" and summary.frames_are_missing:
        raise FramesMissing(describe_frames(summary.frames_in, summary.frames_out))
    return 0


def find_local_stack() -> Stack:
    """The stack in the local cloud.

    Raises:
        UsageError: the local cloud is not running, or nothing is deployed yet.
    """
    cloud = clouds.find(state_directory(os.environ))
    if cloud is None or not cloud.deployed:
        raise UsageError(
            "the local cloud is not running: start it with `media-worker up`, or name a stack on AWS with --stack"
        )
    use_local_cloud(cloud)
    return find_stack(STACK_NAME, os.environ)


def use_local_cloud(cloud: Cloud) -> None:
    """Make every AWS client of this process use the local cloud, whatever the user's AWS settings are."""
    environment = isolated(os.environ, cloud.endpoint)
    os.environ.clear()
    os.environ.update(environment)


def _processing(arguments: Namespace, state: Path) -> Processing:
    environ = with_ffmpeg_on_path(dict(os.environ), CACHE / "bin")
    words = parse_command(arguments.segment_command, environ) if arguments.segment_command is not None else None
    if arguments.keep and not arguments.resume:
        _require_empty(arguments.keep)
    processing = Processing(words, environ, arguments.keep, state / "tmp")
    return replace(processing, concurrency=arguments.concurrency) if arguments.concurrency else processing


def _require_empty(directory: Path) -> None:
    """Check that the folder holds no segments of another run, which would be mixed up with this run's."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise UsageError(f"--keep {directory} is not empty: name a new folder")
    except OSError as error:
        raise UsageError(f"--keep {directory}: {error.strerror}") from error


def _describe(cloud: Cloud, state: Path) -> str:
    current = "this checkout" if cloud.deployed == current_fingerprint() else "an earlier version of this checkout"
    deployed = f"stack {STACK_NAME} from {current}" if cloud.deployed else "nothing deployed"
    running = "is running" if clouds.is_answering(cloud) else "does not answer (stop it with `media-worker down`)"
    return f"the local cloud {running}: {cloud.endpoint}, process {cloud.pid}, {deployed}, log {state / 'cloud.log'}"


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
