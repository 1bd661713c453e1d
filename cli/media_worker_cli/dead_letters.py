"""Dead-letter queues, and the commands `dlq list`, `dlq show` and `dlq redrive`."""

# ruff: noqa: T201 - a command line prints

import json
import os
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

import boto3
from media_worker.errors import MediaWorkerError, OperationRefused
from media_worker.jobs import JobStatus, read_job
from media_worker.keys import is_job_id, parse_input_key, parse_segment_key

from media_worker_cli.errors import UsageError
from media_worker_cli.stack import Stack, choose_stack
from media_worker_cli.tables import describe_age, one_line

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

# The visibility timeout of messages that a command reads. The command makes them visible again at its end.
_READ_VISIBILITY_S = 60
# A wait above 0 makes SQS query all of its servers, not a sample of them ("long polling").
_WAIT_S = 1
_BATCH_SIZE = 10


@dataclass(frozen=True, slots=True)
class QueuePair:
    """A queue and its dead-letter queue."""

    name: str
    url: str
    dead_letters_url: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message in a dead-letter queue. `sent_at_s` is in Unix seconds."""

    queues: QueuePair
    message_id: str
    body: str
    receipt: str
    sent_at_s: int

    @property
    def job_id(self) -> str | None:
        """The job that the message is about, or None if the body names none."""
        return job_id_in(self.body)


def find_queue_pairs(stack: Stack) -> list[QueuePair]:
    """The three queues of a stack with their dead-letter queues."""
    settings = stack.aws.settings
    urls = {
        "chunking": settings.chunking_queue_url,
        "segments": stack.segment_queue_url,
        "reassembly": settings.reassembly_queue_url,
    }
    return [pair for name, url in urls.items() if (pair := _read_pair(stack.aws.sqs, name, url))]


def find_queue_pair(sqs: "SQSClient", url: str) -> QueuePair:
    """The queue with this URL and its dead-letter queue, or the dead-letter queue with this URL and its queue.

    Raises:
        UsageError: the queue is neither, or it is the dead-letter queue of several queues.
    """
    if pair := _read_pair(sqs, url.rsplit("/", 1)[-1], url):
        return pair
    sources = sqs.list_dead_letter_source_queues(QueueUrl=url)["queueUrls"]
    if len(sources) != 1:
        raise UsageError(
            f"{url} has no dead-letter queue and is the dead-letter queue of {len(sources)} queues: "
            "give the URL of a queue that has one"
        )
    return QueuePair(sources[0].rsplit("/", 1)[-1], sources[0], url)


def _read_pair(sqs: "SQSClient", name: str, url: str) -> QueuePair | None:
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["RedrivePolicy"]).get("Attributes", {})
    if "RedrivePolicy" not in attributes:
        return None
    *_, account, queue = json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"].split(":")
    return QueuePair(name, url, sqs.get_queue_url(QueueName=queue, QueueOwnerAWSAccountId=account)["QueueUrl"])


@contextmanager
def dead_letters_in(sqs: "SQSClient", pairs: Sequence[QueuePair]) -> Iterator[list[DeadLetter]]:
    """All messages in the dead-letter queues. At the end, those still in the list become visible again."""
    found = [_parse(pair, message) for pair in pairs for message in _receive_all(sqs, pair.dead_letters_url)]
    try:
        yield found
    finally:
        for letter in found:
            sqs.change_message_visibility(
                QueueUrl=letter.queues.dead_letters_url, ReceiptHandle=letter.receipt, VisibilityTimeout=0
            )


def _receive_all(sqs: "SQSClient", url: str) -> Iterator["MessageTypeDef"]:
    while messages := sqs.receive_message(
        QueueUrl=url,
        MaxNumberOfMessages=_BATCH_SIZE,
        VisibilityTimeout=_READ_VISIBILITY_S,
        WaitTimeSeconds=_WAIT_S,
        MessageSystemAttributeNames=["SentTimestamp"],
    ).get("Messages"):
        yield from messages


def _parse(pair: QueuePair, message: "MessageTypeDef") -> DeadLetter:
    sent_ms = int(message.get("Attributes", {}).get("SentTimestamp", "0"))
    return DeadLetter(pair, message["MessageId"], message["Body"], message["ReceiptHandle"], sent_ms // 1000)


def require_useful(aws: "Aws", chosen: Iterable[DeadLetter]) -> None:
    """Stop before a message is redriven that a segment worker would drop.

    Raises:
        OperationRefused: a message is about a segment of a failed job; names the jobs.
    """
    jobs = dict.fromkeys(letter.job_id for letter in chosen if letter.job_id and letter.queues.name == "segments")
    failed = [job_id for job_id in jobs if (job := read_job(aws, job_id)) and job.status is JobStatus.FAILED]
    if failed:
        commands = ", ".join(f"`media-worker retry {job_id}`" for job_id in failed)
        raise OperationRefused(
            f"workers drop messages about segments of failed jobs, and {', '.join(failed)} failed: run {commands} first"
        )


def redrive(sqs: "SQSClient", letters: list[DeadLetter], chosen: Sequence[DeadLetter]) -> None:
    """Send messages to their queues again, with a receive count of zero, and take them out of `letters`.

    Each message is sent first and deleted then. A crash in between leaves two copies, which does no harm.
    """
    for letter in chosen:
        sqs.send_message(QueueUrl=letter.queues.url, MessageBody=letter.body)
        sqs.delete_message(QueueUrl=letter.queues.dead_letters_url, ReceiptHandle=letter.receipt)
        letters.remove(letter)


def describe_reason(aws: "Aws | None", letter: DeadLetter) -> str:
    """Why the message is in the dead-letter queue, according to its job's row."""
    if letter.job_id is None:
        return "the message names no job"
    if aws is None:
        return "unknown without the stack (--stack)"
    try:
        job = read_job(aws, letter.job_id)
    except MediaWorkerError as error:
        return str(error)
    if job is None:
        return "there is no such job"
    return job.error or f"the job is {job.status}"


def job_id_in(body: str) -> str | None:
    """The job that a message body is about: an S3 event, or `{"job_id": ...}`."""
    try:
        message: Any = json.loads(body)
        if isinstance(job_id := message.get("job_id"), str) and is_job_id(job_id):
            return job_id
        entry = message["Records"][0]["s3"]
        key, bucket = unquote_plus(entry["object"]["key"]), entry["bucket"]["name"]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    segment = parse_segment_key(bucket, key)
    return segment.job_id if segment else parse_input_key(key)


# The commands


@dataclass(frozen=True, slots=True)
class _Queues:
    """What a command works on. Without a stack (`--queue-url` alone) there is no `aws` to read jobs with."""

    aws: "Aws | None"
    sqs: "SQSClient"
    letters: list[DeadLetter]


def add_commands(parser: ArgumentParser) -> None:
    """Add `list`, `show` and `redrive` with their options."""
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Callable[[Namespace, _Queues], int], help_: str) -> ArgumentParser:
        command = subparsers.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".")
        command.set_defaults(command=lambda arguments: _run(run, arguments))
        command.add_argument("--stack", metavar="NAME", help="use this stack on AWS (default: the local cloud)")
        command.add_argument(
            "--queue-url", metavar="URL", help="use only this queue, given by its own URL or its dead-letter queue's"
        )
        return command

    add("list", _list, "print one line for each message: id, queue, age, job, and why it failed")
    show = add("show", _show, "print a message: its queue, its job, the job's error, and its body")
    show.add_argument("messages", nargs=1, metavar="ID", help="a message id or a job id")
    again = add("redrive", _redrive, "send messages to their queues again")
    again.add_argument("messages", nargs="*", metavar="ID", help="message ids or job ids")
    again.add_argument("--all", action="store_true", help="redrive all messages")


def _run(command: Callable[[Namespace, _Queues], int], arguments: Namespace) -> int:
    stack = None if arguments.queue_url and not arguments.stack else choose_stack(arguments.stack)
    sqs = stack.aws.sqs if stack else boto3.client("sqs", endpoint_url=os.environ.get("AWS_ENDPOINT_URL"))
    pairs: list[QueuePair] = []
    if arguments.queue_url:
        pairs = [find_queue_pair(sqs, arguments.queue_url)]
    elif stack:
        pairs = find_queue_pairs(stack)
    with dead_letters_in(sqs, pairs) as letters:
        return command(arguments, _Queues(stack.aws if stack else None, sqs, letters))


def _list(_: Namespace, queues: _Queues) -> int:
    for letter in queues.letters:
        age = describe_age(max(0, int(time.time()) - letter.sent_at_s))
        reason = one_line(describe_reason(queues.aws, letter))
        print("  ".join((letter.message_id, letter.queues.name, age, letter.job_id or "-", reason)))
    if not queues.letters:
        print("the dead-letter queues are empty", file=sys.stderr)
    return 0


def _show(arguments: Namespace, queues: _Queues) -> int:
    for letter in _choose(queues.letters, arguments.messages):
        print(f"message  {letter.message_id}\nqueue    {letter.queues.url}\njob      {letter.job_id or '-'}")
        print(f"reason   {describe_reason(queues.aws, letter)}\nbody     {letter.body}")
    return 0


def _redrive(arguments: Namespace, queues: _Queues) -> int:
    if arguments.all == bool(arguments.messages):
        raise UsageError("give either message ids or job ids, or --all")
    chosen = list(queues.letters) if arguments.all else _choose(queues.letters, arguments.messages)
    if queues.aws:
        require_useful(queues.aws, chosen)
    redrive(queues.sqs, queues.letters, chosen)
    print(f"{len(chosen)} redriven")
    return 0


def _choose(letters: list[DeadLetter], ids: list[str]) -> list[DeadLetter]:
    """The messages with these ids, or about jobs with these ids.

    Raises:
        UsageError: there is no message for one of the ids.
    """
    chosen = [letter for letter in letters if {letter.message_id, letter.job_id} & set(ids)]
    found = {one for letter in chosen for one in (letter.message_id, letter.job_id)}
    if missing := [one for one in ids if one not in found]:
        raise UsageError(f"not in a dead-letter queue: {', '.join(missing)}")
    return chosen
