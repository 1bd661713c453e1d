"""What each command does: it takes the parsed arguments and returns the exit code.

Commands of the local cloud are imported when they run: see the package's docstring.
"""

# ruff: noqa: T201 - a command line prints
# ruff: noqa: PLC0415 - what only some commands need is imported by those

import importlib.util
import json
import os
import sys
from argparse import Namespace

from media_worker_cli import fetching, progress, watching
from media_worker_cli.errors import UsageError, install_command
from media_worker_cli.job_commands import require_job_id
from media_worker_cli.stack import choose_stack, read_env_file
from media_worker_cli.submission import Submission, require_resumable, require_source, upload_source
from media_worker_cli.submission import submit as submit_job


def up(arguments: Namespace) -> int:
    """Start the local cloud and deploy into it."""
    from media_worker_cli.local import commands

    return commands.up(arguments)


def down(arguments: Namespace) -> int:
    """Stop the local cloud."""
    from media_worker_cli.local import commands

    return commands.down(arguments)


def status(arguments: Namespace) -> int:
    """Tell whether the local cloud is running."""
    from media_worker_cli.local import commands

    return commands.status(arguments)


def run(arguments: Namespace) -> int:
    """Split, process and join a video in the local cloud."""
    from media_worker_cli.local import commands

    return commands.run(arguments)


def submit(arguments: Namespace) -> int:
    """Create a job and upload its source."""
    require_source(arguments.source)
    if not (arguments.stack or arguments.resume):
        from media_worker_cli.local.cloud import state_directory
        from media_worker_cli.local.disk import find_free_bytes, require_space

        state = state_directory(os.environ)
        require_space(arguments.source, state, find_free_bytes(state))
    stack = choose_stack(arguments.stack)
    submission = Submission.of(arguments)
    start = upload_source if arguments.resume else submit_job
    if arguments.resume:
        require_job_id(arguments.resume)
        require_resumable(stack.aws, submission)
    with progress.display() as display:
        size_bytes = submission.source.stat().st_size
        start(stack.aws, submission, progress.Bytes(display, "upload", size_bytes).add)
    print(json.dumps({"job_id": submission.job_id, "status": "created"}) if arguments.json else submission.job_id)
    return 0


def watch(arguments: Namespace) -> int:
    """Show a job's progress until it ends."""
    require_job_id(arguments.job)
    stack = choose_stack(arguments.stack)
    interval_s = watching.AWS_INTERVAL_S if arguments.stack else watching.LOCAL_INTERVAL_S
    with progress.display() as display:
        job = watching.watch(stack.aws, arguments.job, progress.JobDisplay(display).show, interval_s)
    ended = {"job_id": job.job_id, "status": job.status, "segments": job.total_segments, "notice": job.notice}
    print(json.dumps(ended) if arguments.json else f"{arguments.job} is completed")
    return 0


def fetch(arguments: Namespace) -> int:
    """Download a job's final."""
    require_job_id(arguments.job)
    fetching.require_target(arguments.out)
    stack = choose_stack(arguments.stack)
    watching.read_progress(stack.aws, arguments.job)  # an unknown job is reported as such, not as one without a final
    size_bytes = fetching.final_size_bytes(stack.aws, arguments.job)
    with progress.display() as display:
        fetching.fetch(stack.aws, arguments.job, arguments.out, progress.Bytes(display, "fetch", size_bytes).add)
    print(f"the final is {arguments.out} ({size_bytes / 1e6:.1f} MB)")
    return 0


def ui(arguments: Namespace) -> int:
    """Serve a page with the jobs of a stack."""
    from media_worker_cli.ui import command

    return command.ui(arguments)


def serve(arguments: Namespace) -> int:
    """Do the work of both functions in this process.

    With a file of settings it starts a new process, because some settings are read when a module is imported.
    """
    if importlib.util.find_spec("aws_lambda_powertools") is None:
        raise UsageError(f"`serve` needs Powertools: install it with {install_command('serve')}")
    from media_worker import main as service

    if arguments.env_file:
        environment = dict(os.environ) | read_env_file(arguments.env_file)
        os.execve(sys.executable, [sys.executable, "-m", service.__name__], environment)  # noqa: S606 - our own module
    return service.main(os.environ)
