"""`media-worker dlq`: list, show and redrive what is in the dead-letter queues."""

# ruff: noqa: T201 - a command line prints

import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import boto3
from media_worker.aws import Aws

from local.dead_letters import DeadLetter, Pair, looking_at, pair_at, pairs_of, reason, redrive
from local.errors import UsageError
from local.stack import Stack

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

type FindStack = Callable[[str | None], Stack]


def add_to(parser: ArgumentParser, find_stack: FindStack) -> None:
    """The three commands and their options."""
    add = parser.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser
    for name, run, help_ in (
        ("list", _list, "one line for each message: queue, age, job, and why it failed"),
        ("show", _show, "all of a message: its job's error and its body"),
        ("redrive", _redrive, "put messages back into their queues, to be tried again"),
    ):
        made = add(name, help=help_, description=help_[0].upper() + help_[1:] + ".")
        made.set_defaults(command=lambda arguments, run=run: _with_letters(arguments, find_stack, run))
        made.add_argument("--stack", metavar="NAME", help="a stack on AWS (default: the local cloud)")
        made.add_argument("--queue-url", metavar="URL", help="this queue only, or the queue of this dead-letter queue")
        if name == "show":
            made.add_argument("messages", nargs=1, metavar="ID", help="the message, or its job")
        if name == "redrive":
            made.add_argument("messages", nargs="*", metavar="ID", help="messages or jobs")
            made.add_argument("--all", action="store_true", help="all of them")


def _with_letters(arguments: Namespace, find_stack: FindStack, run: "Callable[..., int]") -> int:
    with _letters(arguments, find_stack) as (aws, sqs, letters):
        return run(arguments, aws, sqs, letters)


@contextmanager
def _letters(arguments: Namespace, find_stack: FindStack) -> Iterator[tuple[Aws | None, "SQSClient", list[DeadLetter]]]:
    stack = None if arguments.queue_url and not arguments.stack else find_stack(arguments.stack)
    sqs = stack.aws.sqs if stack else boto3.client("sqs", endpoint_url=os.environ.get("AWS_ENDPOINT_URL"))
    pairs: list[Pair] = []
    if arguments.queue_url:
        pairs = [pair_at(sqs, arguments.queue_url)]
    elif stack:
        pairs = pairs_of(stack)
    with looking_at(sqs, pairs) as letters:
        yield (stack.aws if stack else None), sqs, letters


def _list(_: Namespace, aws: Aws | None, _sqs: "SQSClient", letters: list[DeadLetter]) -> int:
    for letter in letters:
        age_s = max(0, int(time.time()) - letter.sent_at_s)
        columns = (letter.message_id, letter.pair.name, _age(age_s), letter.job_id or "-", reason(aws, letter))
        print("  ".join(columns))
    if not letters:
        print("the dead-letter queues are empty", file=sys.stderr)
    return 0


def _show(arguments: Namespace, aws: Aws | None, _sqs: "SQSClient", letters: list[DeadLetter]) -> int:
    for letter in _chosen(letters, arguments.messages):
        print(f"message  {letter.message_id}\nqueue    {letter.pair.url}\njob      {letter.job_id or '-'}")
        print(f"why      {reason(aws, letter)}\nbody     {letter.body}")
    return 0


def _redrive(arguments: Namespace, _aws: Aws | None, sqs: "SQSClient", letters: list[DeadLetter]) -> int:
    if arguments.all == bool(arguments.messages):
        raise UsageError("which messages? Give their ids or their jobs', or --all")
    chosen = list(letters) if arguments.all else _chosen(letters, arguments.messages)
    redrive(sqs, letters, chosen)
    print(f"{len(chosen)} put back")
    return 0


def _chosen(letters: list[DeadLetter], names: list[str]) -> list[DeadLetter]:
    """The messages with these ids, or about these jobs.

    Raises:
        UsageError: one is not there.
    """
    chosen = [letter for letter in letters if {letter.message_id, letter.job_id} & set(names)]
    found = {name for letter in chosen for name in (letter.message_id, letter.job_id)}
    if missing := [name for name in names if name not in found]:
        raise UsageError(f"not in a dead-letter queue: {', '.join(missing)}")
    return chosen


def _age(seconds: int) -> str:
    for unit, size_s in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= size_s:
            return f"{seconds // size_s} {unit}"
    return f"{seconds} s"
