"""`media-worker`: the command line."""

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
from media_worker import telemetry
from media_worker.errors import MediaWorkerError
from media_worker.keys import MODES
from media_worker.settings import Engine

from local import commands, dlq
from local.errors import LocalError

_INTERRUPTED = 130
_DYNAMODB_DIGITS = 38
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, ProfileNotFound)
_REFUSED = {
    *("AccessDenied", "AccessDeniedException", "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId"),
    *("InvalidClientTokenId", "SignatureDoesNotMatch", "UnrecognizedClientException"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code says how it ended."""
    arguments = build_parser().parse_args(argv)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    if arguments.command is not commands.serve:
        # Log lines are for whoever runs the functions; a person at the command line gets errors and progress.
        telemetry.logger.setLevel(logging.CRITICAL)
    try:
        return int(arguments.command(arguments))
    except KeyboardInterrupt:
        text, code = "interrupted", _INTERRUPTED
    except LocalError as error:
        text, code = str(error), error.exit_code
    except ClientError as error:
        text, code = str(error), 2 if error.response["Error"]["Code"] in _REFUSED else 1
    except _NO_CREDENTIALS as error:
        text, code = f"{error} (`aws configure` sets credentials, AWS_PROFILE chooses among them)", 2
    except (BotoCoreError, Boto3Error, MediaWorkerError, OSError) as error:
        text, code = f"{type(error).__name__}: {error}", 1
    *details, last = text.splitlines()
    print("\n".join([*details, f"media-worker: {last}"]), file=sys.stderr)
    return code


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(prog="media-worker", description="Cut a video, work on the segments, join them.")
    add = parser.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser

    def command(name: str, run: Callable[[argparse.Namespace], int], help_: str) -> argparse.ArgumentParser:
        made = add(name, help=help_, description=help_[0].upper() + help_[1:] + ".")
        made.set_defaults(command=run)
        return made

    command("up", commands.up, "start the local cloud, with this checkout's stack deployed into it")
    command("down", commands.down, "stop the local cloud; what it holds is gone")
    status = command("status", commands.status, "say whether the local cloud is up")
    status.add_argument("--env", action="store_true", help="print the environment that reaches it, for `eval`")
    run = command("run", commands.run, "take a video through the whole pipeline, on this machine")
    _add_source(run)
    run.add_argument("--out", required=True, type=Path, metavar="FINAL", help="where the joined video goes")
    run.add_argument(
        "--segment-command", metavar="CMD", help="run for each segment, with {input} and {output} in it (default: copy)"
    )
    run.add_argument("--keep", type=Path, metavar="DIR", help="leave the segments, before and after, in this folder")
    run.add_argument("--json", action="store_true", help="print the summary as JSON")
    submit = command("submit", commands.submit, "make a job and upload its source; print the job's id")
    _add_source(submit)
    watch = command("watch", commands.watch, "show a job's progress until it is done")
    fetch = command("fetch", commands.fetch, "download a job's final")
    fetch.add_argument("--out", required=True, type=Path, metavar="FILE", help="where the final goes")
    for made in (watch, fetch):
        made.add_argument("job", metavar="JOB", help="the job's id, as `submit` printed it")
    for made in (submit, watch, fetch):
        made.add_argument("--stack", metavar="NAME", help="a stack on AWS (default: the local cloud)")
    letters = add("dlq", help="look into the dead-letter queues, and put messages back")
    dlq.add_to(letters, commands.stack_named)
    serve = command(
        "serve", commands.serve, "work on both queues until interrupted, with the settings in the environment"
    )
    serve.add_argument(
        "--env-file", type=Path, metavar="FILE", help="take settings from NAME=value lines, first of all"
    )
    return parser


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the video")
    parser.add_argument("--segment-seconds", type=_seconds, metavar="N", help="least length of a segment")
    parser.add_argument("--mode", choices=MODES, default="sbs", help="what the segment workers are to make")
    parser.add_argument("--engine", choices=get_args(Engine.__value__), help="what cuts and joins")


def _seconds(text: str) -> Decimal:
    try:
        seconds = Decimal(text)
    except InvalidOperation:
        seconds = Decimal(0)
    if not seconds.is_finite() or seconds <= 0 or len(seconds.as_tuple().digits) > _DYNAMODB_DIGITS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _interrupt(*_: Any) -> NoReturn:
    # Once is enough: what follows is cleaning up, and that ends by itself.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
