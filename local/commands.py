"""What each command does: its arguments in, its exit code out."""

# ruff: noqa: T201 - a command line prints

import json
import os
import shlex
import sys
from argparse import Namespace
from pathlib import Path

from botocore.exceptions import BotoCoreError
from media_worker import main as service
from media_worker.keys import is_job_id

from local import cloud as clouds
from local import film, progress, watching
from local.binaries import with_ffmpeg_on_path
from local.checkout import ROOT, state_directory
from local.cloud import Cloud
from local.command import parse_command
from local.deployment import STACK_NAME, client_environment, isolated
from local.env_file import read_env_file
from local.errors import CloudError, JobFailed, UsageError
from local.locks import Lock
from local.run import Order
from local.run import run as carry_out
from local.stack import Stack, find_stack
from local.submission import Submission, invent_job_id
from local.submission import submit as send
from local.work import Processing


def up(_: Namespace) -> int:
    """Start and deploy, unless that is done already."""
    state = state_directory(os.environ)
    with Lock(state / "lock").taken():
        may_redeploy = not Lock(state / "users").is_held()
        cloud, _started = clouds.bring_up(state, dict(os.environ), _tell, may_redeploy=may_redeploy)
    print(_describe(cloud, state))
    return 0


def down(_: Namespace) -> int:
    """Stop it, whoever uses it."""
    state = state_directory(os.environ)
    with Lock(state / "lock").taken():
        was_up = clouds.stop(state)
    print("the local cloud is stopped" if was_up else "the local cloud was not up")
    return 0


def status(arguments: Namespace) -> int:
    """0 when it is up, 1 when it is not."""
    state = state_directory(os.environ)
    cloud = clouds.find(state)
    if cloud is None:
        print("the local cloud is not up: `media-worker up` starts it", file=sys.stderr)
        return 1
    if arguments.env:
        environment = client_environment(cloud.endpoint) | dict(_local_stack().environment)
        print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in environment.items()))
        return 0
    print(_describe(cloud, state))
    return 0


def run(arguments: Namespace) -> int:
    """The whole pipeline on this machine."""
    film.require_source(arguments.source)
    film.require_target(arguments.out, arguments.source)
    order = Order(_submission(arguments), _processing(arguments), arguments.out)
    state = state_directory(os.environ)
    try:
        with progress.display() as display, clouds.occupied(state, dict(os.environ), display.say) as cloud:
            _point_to(cloud)
            summary = carry_out(find_stack(STACK_NAME, os.environ), order, display)
    except JobFailed as error:
        if arguments.json:
            print(json.dumps({"job_id": order.submission.job_id, "status": "failed", "error": str(error)}))
        raise
    except BotoCoreError as error:
        if clouds.find(state) is None:
            raise CloudError(f"the local cloud has gone; the last that it said is in {state / 'cloud.log'}") from error
        raise
    print(json.dumps(summary.as_json(), indent=2) if arguments.json else "\n".join(summary.as_lines()))
    return 0


def submit(arguments: Namespace) -> int:
    """A job and its source."""
    film.require_source(arguments.source)
    stack = stack_named(arguments.stack)
    submission = _submission(arguments)
    with progress.display() as display:
        size_bytes = submission.source.stat().st_size
        send(stack.aws, submission, progress.Bytes(display, "upload", size_bytes).add)
    print(submission.job_id)
    return 0


def watch(arguments: Namespace) -> int:
    """A job's progress until its end."""
    _require_job_id(arguments.job)
    stack = stack_named(arguments.stack)
    pause_s = watching.AWS_PAUSE_S if arguments.stack else watching.LOCAL_PAUSE_S
    with progress.display() as display:
        watching.watch(stack.aws, arguments.job, lambda seen: progress.show_sighting(display, seen), pause_s)
    print(f"{arguments.job} is completed")
    return 0


def fetch(arguments: Namespace) -> int:
    """A job's final."""
    _require_job_id(arguments.job)
    film.require_target(arguments.out)
    stack = stack_named(arguments.stack)
    watching.look(stack.aws, arguments.job)
    size_bytes = film.final_size_bytes(stack.aws, arguments.job)
    with progress.display() as display:
        film.fetch(stack.aws, arguments.job, arguments.out, progress.Bytes(display, "fetch", size_bytes).add)
    print(f"the final is {arguments.out} ({size_bytes / 1e6:.1f} MB)")
    return 0


def serve(arguments: Namespace) -> int:
    """Both functions as one process. With a file it is a new one: some settings are read when a module is loaded."""
    if arguments.env_file:
        environment = dict(os.environ) | read_env_file(arguments.env_file)
        os.execve(sys.executable, [sys.executable, "-m", service.__name__], environment)  # noqa: S606 - our own
    return service.main(os.environ)


def _submission(arguments: Namespace) -> Submission:
    job_id = invent_job_id(arguments.source)
    return Submission(job_id, arguments.source, arguments.mode, arguments.engine, arguments.segment_seconds)


def _processing(arguments: Namespace) -> Processing:
    environ = with_ffmpeg_on_path(dict(os.environ), ROOT / ".cache" / "bin")
    words = parse_command(arguments.segment_command, environ) if arguments.segment_command is not None else None
    if arguments.keep:
        _require_empty(arguments.keep)
    return Processing(words, environ, arguments.keep)


def _require_empty(directory: Path) -> None:
    """Segments of another run between this run's would mislead."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise UsageError(f"--keep {directory} is not empty: give a new folder")
    except OSError as error:
        raise UsageError(f"--keep {directory}: {error.strerror}") from error


def _require_job_id(text: str) -> None:
    if not is_job_id(text):
        raise UsageError(f"{text!r} is no job id: that is one word, as `submit` prints it")


def stack_named(name: str | None) -> Stack:
    """The named stack on AWS, or the local cloud's."""
    return find_stack(name, os.environ) if name else _local_stack()


def _local_stack() -> Stack:
    cloud = clouds.find(state_directory(os.environ))
    if cloud is None or not cloud.deployed:
        raise UsageError("the local cloud is not up: `media-worker up` starts it; --stack NAME means one on AWS")
    _point_to(cloud)
    return find_stack(STACK_NAME, os.environ)


def _point_to(cloud: Cloud) -> None:
    """From here on this process talks to the local cloud alone, whatever the user has set up for AWS."""
    environment = isolated(os.environ, cloud.endpoint)
    os.environ.clear()
    os.environ.update(environment)


def _describe(cloud: Cloud, state: Path) -> str:
    current = "this checkout" if cloud.deployed == clouds.current_fingerprint() else "another state of this checkout"
    deployed = f"stack {STACK_NAME}, of {current}" if cloud.deployed else "nothing deployed"
    up = "is up" if clouds.is_answering(cloud) else "does not answer (`media-worker down` stops it)"
    return f"the local cloud {up}: {cloud.endpoint}, process {cloud.pid}, {deployed}, log {state / 'cloud.log'}"


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
