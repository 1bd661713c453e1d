"""The SQS queues: hiding messages that are in work, a queue's limits and its depth, and reading dead letters."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from media_worker.best_effort import best_effort
from media_worker.telemetry import logger

if TYPE_CHECKING:
    from media_worker.aws import Aws

# The visibility timeout of a message in work. A heartbeat extends it, so that after a crash the message is delivered
# again when the lease has expired too.
VISIBILITY_S = 120
# Dead letters are hidden for so long at most while they are read. Then they are made visible again.
_READ_VISIBILITY_S = 30
_MAX_DEAD_LETTERS = 1_000
# Above 0, SQS asks all of its servers, not a sample of them:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-short-and-long-polling.html
_LONG_POLL_S = 1
_RECEIVED_AT_ONCE = 10
# Error codes that end with these: the message is not hidden any more, or was received again or deleted.
_STALE = ("ReceiptHandleIsInvalid", "InvalidParameterValue", "MessageNotInflight")
_DEPTHS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)


@dataclass(slots=True)
class HiddenMessages:
    """The messages of one invocation that are hidden from other consumers.

    The queue's own visibility timeout has to be as long as the function's timeout, or Lambda refuses the queue
    (https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html). A message's own may be shorter.
    """

    aws: "Aws"
    url: str
    _receipts: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hide(self, receipt: str) -> None:
        """Shorten the visibility timeout of a message whose work begins."""
        with self._lock:
            if self._set_visibility(receipt, VISIBILITY_S):
                self._receipts.add(receipt)

    def extend(self) -> bool:
        """Extend the visibility timeout of all messages. Returns True: more may follow."""
        with self._lock:
            self._receipts = {receipt for receipt in self._receipts if self._set_visibility(receipt, VISIBILITY_S)}
        return True

    def leave(self, receipt: str) -> None:
        """Do not extend this message's visibility timeout any more."""
        with self._lock:
            self._receipts.discard(receipt)

    def return_after(self, receipt: str, delay_s: int) -> None:
        """Have a message delivered again after `delay_s`."""
        self.leave(receipt)
        self._set_visibility(receipt, delay_s)

    def _set_visibility(self, receipt: str, seconds: int) -> bool:
        """Best effort: without it, the message is delivered again all the same, only later. Returns False if it makes
        no sense to repeat the call: the right is missing, or the receipt is not valid any more.
        """
        with best_effort("Visibility timeout not changed", "visibility_not_changed") as outcome:
            self.aws.sqs.change_message_visibility(QueueUrl=self.url, ReceiptHandle=receipt, VisibilityTimeout=seconds)
        return not (outcome.is_denied or (outcome.code or "").endswith(_STALE))


@dataclass(frozen=True, slots=True)
class RedrivePolicy:
    """After how many receives SQS moves a message, and to which queue."""

    max_receive_count: int
    dead_letters_url: str


def max_receive_count(aws: "Aws", url: str) -> int:
    """The queue's `maxReceiveCount`; the setting if the queue has none or cannot be read."""
    policy = None
    with best_effort("Redrive policy not read", "redrive_policy_not_read", queue=url):
        policy = _read_once(aws, url)
    return policy.max_receive_count if policy else aws.settings.max_receive_count


@lru_cache(maxsize=16)
def _read_once(aws: "Aws", url: str) -> RedrivePolicy | None:
    """Read a policy once in the life of a process: a change counts from the next cold start on."""
    return read_redrive_policy(aws, url)


def read_redrive_policy(aws: "Aws", url: str) -> RedrivePolicy | None:
    """The queue's redrive policy, or None if it has no dead-letter queue."""
    attributes: Any = aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["RedrivePolicy"]).get("Attributes", {})
    if "RedrivePolicy" not in attributes:
        return None
    policy = json.loads(attributes["RedrivePolicy"])
    # A dead-letter queue is in the account and region of its queue
    # (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-dead-letter-queues.html).
    name = policy["deadLetterTargetArn"].rpartition(":")[2]
    return RedrivePolicy(int(policy["maxReceiveCount"]), f"{url.rpartition('/')[0]}/{name}")


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue as `GetQueueAttributes` describes it. The counts are approximate: only a repeated zero means empty."""

    # Visible and delayed messages.
    waiting: int
    in_flight: int
    retention_s: int

    @property
    def messages(self) -> int:
        """All messages."""
        return self.waiting + self.in_flight

    @property
    def is_empty(self) -> bool:
        """Whether no message is waiting, in flight or delayed."""
        return self.messages == 0


def read_queue_state(aws: "Aws", url: str) -> QueueState:
    """The depth and the retention period of a queue."""
    names: Any = [*_DEPTHS, "MessageRetentionPeriod"]
    attributes: Any = aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    visible, in_flight, delayed = (int(attributes[name]) for name in _DEPTHS)
    return QueueState(visible + delayed, in_flight, int(attributes["MessageRetentionPeriod"]))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message in a dead-letter queue. `sent_at_s` is when it was first sent, in Unix seconds."""

    body: str
    sent_at_s: float


def read_dead_letters(aws: "Aws", url: str) -> list[DeadLetter]:
    """The messages in a dead-letter queue, which stay there.

    A receive hides a message and raises its receive count. Hidden messages are made visible again at the end, at the
    latest after 30 s. The count matters only if the dead-letter queue has a redrive policy of its own: such a queue is
    not read. A redriven message is a new one, whose count begins at zero
    (https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-configure-dead-letter-queue-redrive.html).
    """
    if read_queue_state(aws, url).is_empty or read_redrive_policy(aws, url):
        return []
    found = []
    receipts = []
    try:
        for message in _receive_all(aws, url):
            receipts.append(message["ReceiptHandle"])
            sent_ms = int(message.get("Attributes", {}).get("SentTimestamp", "0"))
            found.append(DeadLetter(message["Body"], sent_ms / 1000))
    finally:
        for begin in range(0, len(receipts), _RECEIVED_AT_ONCE):
            _make_visible(aws, url, receipts[begin : begin + _RECEIVED_AT_ONCE])
    if len(found) >= _MAX_DEAD_LETTERS:
        logger.warning("More dead letters than are read", event="dead_letters_left", queue=url, read=len(found))
    return found


def _receive_all(aws: "Aws", url: str) -> Iterator[Any]:
    """Receive until the queue is empty, or a limit is reached."""
    for _ in range(_MAX_DEAD_LETTERS // _RECEIVED_AT_ONCE):
        messages = aws.sqs.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=_RECEIVED_AT_ONCE,
            VisibilityTimeout=_READ_VISIBILITY_S,
            WaitTimeSeconds=_LONG_POLL_S,
            MessageSystemAttributeNames=["SentTimestamp"],
        ).get("Messages", [])
        if not messages:
            return
        yield from messages


def _make_visible(aws: "Aws", url: str, receipts: list[str]) -> None:
    entries: Any = [
        {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": 0} for number, receipt in enumerate(receipts)
    ]
    with best_effort("Dead letters stay hidden for a moment", "dead_letters_hidden", queue=url):
        aws.sqs.change_message_visibility_batch(QueueUrl=url, Entries=entries)
