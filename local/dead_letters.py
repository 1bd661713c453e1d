"""Dead-letter queues: what is in there, why it failed, and putting it back."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus

from media_worker.errors import MediaWorkerError
from media_worker.jobs import read_job
from media_worker.keys import is_job_id, parse_input_key, parse_segment_key

from local.errors import UsageError
from local.stack import Stack

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

# While we look at them, nobody else does; afterwards they are visible again at once.
_LOOK_S = 60
# Any wait makes SQS ask all of its machines, not a few.
_WAIT_S = 1
_MOST_AT_ONCE = 10


@dataclass(frozen=True, slots=True)
class Pair:
    """A queue and its dead-letter queue."""

    name: str
    url: str
    dead_letters_url: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message in a dead-letter queue."""

    pair: Pair
    message_id: str
    body: str
    receipt: str
    sent_at_s: int

    @property
    def job_id(self) -> str | None:
        """The job that it is about, if that can be told."""
        return job_id_in(self.body)


def pairs_of(stack: Stack) -> list[Pair]:
    """The three queues of a stack."""
    settings = stack.aws.settings
    urls = {
        "chunking": settings.chunking_queue_url,
        "segments": stack.segment_queue_url,
        "reassembly": settings.reassembly_queue_url,
    }
    return [pair for name, url in urls.items() if (pair := _pair(stack.aws.sqs, name, url))]


def pair_at(sqs: "SQSClient", url: str) -> Pair:
    """The pair that a URL belongs to, be it the queue's or its dead-letter queue's.

    Raises:
        UsageError: it is neither, or serves more than one queue.
    """
    if pair := _pair(sqs, url.rsplit("/", 1)[-1], url):
        return pair
    sources = sqs.list_dead_letter_source_queues(QueueUrl=url)["queueUrls"]
    if len(sources) != 1:
        raise UsageError(
            f"{url} has no dead-letter queue, and is one of {len(sources)} queues: give the queue's own URL"
        )
    return Pair(sources[0].rsplit("/", 1)[-1], sources[0], url)


def _pair(sqs: "SQSClient", name: str, url: str) -> Pair | None:
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["RedrivePolicy"]).get("Attributes", {})
    if "RedrivePolicy" not in attributes:
        return None
    *_, account, queue = json.loads(attributes["RedrivePolicy"])["deadLetterTargetArn"].split(":")
    return Pair(name, url, sqs.get_queue_url(QueueName=queue, QueueOwnerAWSAccountId=account)["QueueUrl"])


@contextmanager
def looking_at(sqs: "SQSClient", pairs: Sequence[Pair]) -> Iterator[list[DeadLetter]]:
    """The messages of the dead-letter queues; those that are still there at the end become visible again."""
    found = [_letter(pair, message) for pair in pairs for message in _receive_all(sqs, pair.dead_letters_url)]
    try:
        yield found
    finally:
        for letter in found:
            sqs.change_message_visibility(
                QueueUrl=letter.pair.dead_letters_url, ReceiptHandle=letter.receipt, VisibilityTimeout=0
            )


def _receive_all(sqs: "SQSClient", url: str) -> Iterator["MessageTypeDef"]:
    while messages := sqs.receive_message(
        QueueUrl=url,
        MaxNumberOfMessages=_MOST_AT_ONCE,
        VisibilityTimeout=_LOOK_S,
        WaitTimeSeconds=_WAIT_S,
        MessageSystemAttributeNames=["SentTimestamp"],
    ).get("Messages"):
        yield from messages


def _letter(pair: Pair, message: "MessageTypeDef") -> DeadLetter:
    sent_ms = int(message.get("Attributes", {}).get("SentTimestamp", "0"))
    return DeadLetter(pair, message["MessageId"], message["Body"], message["ReceiptHandle"], sent_ms // 1000)


def redrive(sqs: "SQSClient", letters: list[DeadLetter], chosen: Sequence[DeadLetter]) -> None:
    """Put messages back into their queues, as new ones: they have all their receives again.

    Copied first, deleted then: a crash between leaves both, and a message twice does no harm.
    """
    for letter in chosen:
        sqs.send_message(QueueUrl=letter.pair.url, MessageBody=letter.body)
        sqs.delete_message(QueueUrl=letter.pair.dead_letters_url, ReceiptHandle=letter.receipt)
        letters.remove(letter)


def reason(aws: "Aws | None", letter: DeadLetter) -> str:
    """Why it is there: what its job's row says."""
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
    """The job that the body of a message in one of our queues is about."""
    try:
        message: Any = json.loads(body)
        if isinstance(job_id := message.get("job_id"), str) and is_job_id(job_id):
            return job_id
        place = message["Records"][0]["s3"]
        key, bucket = unquote_plus(place["object"]["key"]), place["bucket"]["name"]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    segment = parse_segment_key(bucket, key)
    return segment.job_id if segment else parse_input_key(key)
