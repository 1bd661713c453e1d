"""`media-worker`: the commands, their options, and how errors end them.

Exit codes: 0 success, 1 failure, 2 wrong usage or no access, 130 interrupted.
"""

# ruff: noqa: T201 - a command line prints

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, NoReturn, get_args

from boto3.exceptions import Boto3Error
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from media_worker.errors import MediaWorkerError, NoSuchJob, OperationRefused
from media_worker.jobs import FRAME_CHECKS, MAX_CONTEXT_FRAMES, SEGMENT_TRACKS, JobStatus
from media_worker.keys import DEFAULT_MODE, MAX_SEGMENTS, parse_mode
from media_worker.settings import TRACKS, Engine

from media_worker_cli import commands, dead_letters, doctor, job_commands, work
from media_worker_cli.check import command as checking
from media_worker_cli.errors import CommandError

_INTERRUPTED = 130
_DYNAMODB_DIGITS = 38
_NO_ACCESS = {
    *("AccessDenied", "AccessDeniedException", "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId"),
    *("InvalidClientTokenId", "SignatureDoesNotMatch", "UnrecognizedClientException"),
}

# Adds a command by name, function and help text, and returns the parser for its options.
AddCommand = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    if arguments.command is not commands.serve:
        # Log lines are for operators of the functions. At the command line a person gets progress and errors.
        logging.disable()
    try:
        return int(arguments.command(arguments))
    except (Exception, KeyboardInterrupt) as error:
        if (described := describe_error(error)) is None:
            raise
    text, code = described
    *details, last = text.splitlines()
    print("\n".join([*details, f"media-worker: {last}"]), file=sys.stderr)
    return code


def describe_error(error: BaseException) -> tuple[str, int] | None:
    """The message and the exit code for an error, or None for a bug, which keeps its traceback."""
    match error:
        case KeyboardInterrupt():
            described = str(error) or "interrupted", _INTERRUPTED
        case CommandError():
            described = str(error), error.exit_code
        case NoSuchJob():
            described = str(error), 2
        case OperationRefused():
            described = str(error), 1
        case ClientError():
            described = str(error), 2 if error.response["Error"]["Code"] in _NO_ACCESS else 1
        case NoCredentialsError() | PartialCredentialsError() | ProfileNotFound():
            described = f"{error} (set credentials with `aws configure`, choose a profile with AWS_PROFILE)", 2
        case BotoCoreError() | Boto3Error() | MediaWorkerError() | OSError():
            described = f"{type(error).__name__}: {error}", 1
        case _:
            return None
    return described


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="media-worker", description="Split a video into segments, process them in parallel, and join the results."
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[argparse.Namespace], int], help_: str) -> argparse.ArgumentParser:
        command = subparsers.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".")
        command.set_defaults(command=run)
        return command

    _add_local_commands(add)
    _add_job_commands(add)
    _add_verbs(add)
    _add_page(add)
    letters = subparsers.add_parser(
        "dlq",
        help="list, show and redrive messages in the dead-letter queues",
        description="List, show and redrive messages in the dead-letter queues.",
    )
    dead_letters.add_commands(letters)
    work.add_parser(subparsers)
    serve = add("serve", commands.serve, "do the work of both functions in this process, until interrupted")
    serve.add_argument(
        "--env-file",
        type=Path,
        metavar="FILE",
        help="read settings from NAME=value lines; they take precedence over the environment",
    )
    return parser


def _add_local_commands(add: AddCommand) -> None:
    """The commands of the local cloud."""
    add("up", commands.up, "start the local cloud and deploy this checkout's stack into it")
    add("down", commands.down, "stop the local cloud and delete everything in it")
    status = add("status", commands.status, "tell whether the local cloud is running")
    status.add_argument(
        "--env", action="store_true", help="print the environment for programs that use the local cloud, for `eval`"
    )
    run = add("run", commands.run, "split, process and join a video on this machine")
    _add_source(run)
    run.add_argument("--out", required=True, type=Path, metavar="FINAL", help="write the joined video to this file")
    run.add_argument(
        "--segment-command",
        metavar="CMD",
        help="process each segment with this command; it reads {input} and writes {output} (default: copy)",
    )
    run.add_argument(
        "--keep", type=Path, metavar="DIR", help="keep the source segments and the processed segments in this folder"
    )
    run.add_argument(
        "--concurrency", type=_count, metavar="N", help="process N segments at once (default: the number of CPU cores)"
    )
    run.add_argument(
        "--resume", metavar="JOB", help="go on with a run that was interrupted or failed; the job keeps its options"
    )
    run.add_argument("--json", action="store_true", help="print the summary as JSON")


def _add_job_commands(add: AddCommand) -> None:
    """The commands for jobs of a stack, on AWS or in the local cloud."""
    submit = add("submit", commands.submit, "create a job, upload its source, and print the job id")
    _add_source(submit)
    watch = add("watch", commands.watch, "show a job's progress until it ends")
    fetch = add("fetch", commands.fetch, "download a job's final video")
    for command in (watch, fetch):
        command.add_argument("job", metavar="JOB", help="the job id that `submit` printed")
    fetch.add_argument("--out", required=True, type=Path, metavar="FILE", help="write the final video to this file")
    submit.add_argument(
        "--resume", metavar="JOB", help="go on with an upload that broke off; the job keeps the options it has"
    )
    for command in (submit, watch):
        _add_json(command)
    for command in (submit, watch, fetch):
        _add_stack(command)


def _add_verbs(add: AddCommand) -> None:
    """The commands that list jobs and change them."""
    jobs = add("jobs", job_commands.jobs, "list jobs, newest first")
    jobs.add_argument(
        "--status",
        choices=[str(status) for status in JobStatus],
        help="only jobs in this status (default: all but deleted)",
    )
    jobs.add_argument("--since", metavar="TIME", help="only jobs created within this time, such as 30min, 12h or 2d")
    jobs.add_argument("--limit", type=_count, default=20, metavar="N", help="at most this many (default: %(default)s)")
    show = add("show", job_commands.show, "print everything about a job: plan, segments, attempts, timeline, cost")
    cancel = add("cancel", job_commands.cancel, "stop a job: it becomes failed, until it is retried")
    retry = add("retry", job_commands.retry, "let a failed job go on, or process segments of a job again")
    retry.add_argument(
        "--segments", metavar="LIST", help="process these segments again, such as 3,7-9; of a completed job too"
    )
    _add_settings(retry, "other segments: everything is planned, split and processed again")
    resend = add("resend", job_commands.resend, "announce the segments without a completion to the workers again")
    delete = add("delete", job_commands.delete, "delete a job with its source, segments and final")
    delete.add_argument("--keep-final", action="store_true", help="keep the final video")
    _add_check(add)
    check = add("doctor", doctor.doctor, "check credentials, stack, queues, notifications, ffmpeg and quotas")
    check.add_argument(
        "--notifications",
        action="store_true",
        help="print the notification configuration that the input bucket needs, merged with what it has, as JSON",
    )
    for command in (show, cancel, retry, resend, delete):
        command.add_argument("job", metavar="JOB", help="the job id that `submit` printed")
    for command in (jobs, show, cancel, retry, resend, delete, check):
        _add_stack(command)
        _add_json(command)


def _add_check(add: AddCommand) -> None:
    """The smoke test."""
    check = add("check", checking.check, "run two small jobs through the stack, and say what they proved")
    check.add_argument("--report", type=Path, metavar="FILE", help="write the results to this file, as JSON")
    check.add_argument(
        "--worker-role",
        metavar="ARN",
        help="process the segments with this role (default: your own rights, limited to the stack's worker policy, "
        "where AWS allows that)",
    )
    check.add_argument(
        "--timeout", type=_count, default=180, metavar="S", help="seconds for each step of a job (default: %(default)s)"
    )
    _add_stack(check)
    _add_json(check)


def _add_page(add: AddCommand) -> None:
    """The command of the page."""
    page = add("ui", commands.ui, "serve a page with the jobs on 127.0.0.1, and open it")
    page.add_argument("--port", type=int, default=0, metavar="N", help="listen on this port (default: any free one)")
    page.add_argument("--no-open", action="store_true", help="print the page's address only")
    _add_stack(page)


def _add_stack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stack", metavar="NAME", help="use this stack on AWS (default: the local cloud)")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the video file")
    parser.add_argument(
        "--mode",
        type=_mode,
        default=DEFAULT_MODE,
        metavar="LABEL",
        help="label in the segment keys: up to 32 of a-z, 0-9 and - (default: %(default)s)",
    )
    _add_cuts(parser, _add_settings(parser, "default: the stack's setting"))
    parser.add_argument(
        "--segment-tracks", choices=SEGMENT_TRACKS, help="which tracks of the source the segments have (default: all)"
    )
    parser.add_argument(
        "--context-frames",
        type=_context_frames,
        metavar="N",
        help="let each segment also present up to N frames before its first and after its last frame, for models that "
        "look at several frames; workers return the segment's own frames only (default: 0)",
    )


def _add_cuts(parser: argparse.ArgumentParser, exclusive: argparse._MutuallyExclusiveGroup) -> None:
    """Where the source is cut, other than by the duration of a segment."""
    exclusive.add_argument(
        "--segments", type=_segments, metavar="N", help="make about N segments of equal duration, cut at keyframes"
    )
    exclusive.add_argument(
        "--cut-times",
        type=Path,
        metavar="FILE",
        help="cut at the keyframes nearest to these times: seconds, one per line, or the scene list (CSV) of "
        "PySceneDetect",
    )
    parser.add_argument(
        "--cut-tolerance",
        type=_seconds,
        metavar="S",
        help="do not cut if the nearest keyframe is further than this from a time of --cut-times (default: 2)",
    )
    parser.add_argument(
        "--max-segment-seconds",
        type=_seconds,
        metavar="S",
        help="cut more often where a segment would be longer than this; the job has a notice if no keyframe allows it",
    )


def _add_settings(parser: argparse.ArgumentParser, note: str) -> argparse._MutuallyExclusiveGroup:
    """The options of a new job and of a retry. Returned is the group that excludes other ways to cut."""
    exclusive = parser.add_mutually_exclusive_group()
    exclusive.add_argument(
        "--segment-seconds",
        type=_seconds,
        metavar="N",
        help=f"minimum length of a segment; it ends at the next keyframe ({note})",
    )
    parser.add_argument("--engine", choices=get_args(Engine), help=f"the engine that splits and joins ({note})")
    parser.add_argument(
        "--frame-check",
        choices=FRAME_CHECKS,
        help="auto: processed segments must have the planned frames or a whole multiple of them; any: no check",
    )
    parser.add_argument(
        "--tracks",
        choices=TRACKS,
        help="where the final's audio and other tracks come from; auto: from the source if the processed segments have "
        "no audio",
    )
    return exclusive


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _segments(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_SEGMENTS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MAX_SEGMENTS}")
    return int(text)


def _mode(text: str) -> str:
    try:
        return parse_mode(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _context_frames(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_CONTEXT_FRAMES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {MAX_CONTEXT_FRAMES}")
    return int(text)


def _seconds(text: str) -> Decimal:
    try:
        seconds = Decimal(text)
    except InvalidOperation:
        seconds = Decimal(0)
    if not seconds.is_finite() or seconds <= 0 or len(seconds.as_tuple().digits) > _DYNAMODB_DIGITS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _interrupt(*_: Any) -> NoReturn:
    # One signal is enough. A second one must not interrupt the cleanup, which ends by itself.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
