"""The queue that announces segments: receiving, hiding and returning its messages."""

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

if TYPE_CHECKING:
    from media_worker.aws import Aws

# SQS hides a message for 12 hours from its receive, at most.
MAX_HIDDEN_S = 12 * 3600
# The number of attempts where the queue has no redrive policy.
_DEFAULT_RECEIVES = 3
_NOT_IN_FLIGHT = frozenset(
    {
        *("ReceiptHandleIsInvalid", "MessageNotInflight", "AWS.SimpleQueueService.MessageNotInflight"),
        *("InvalidParameterValue", "InvalidReceiptHandle"),
    }
)


@dataclass(slots=True)
class Delivery:
    """A message that was received."""

    message_id: str
    receipt: str
    body: str
    receive_count: int
    received_at: float = field(default_factory=time.monotonic)
    # The message announces more segments than the one that is being processed: it is not deleted yet.
    has_more: bool = False
    # Deleted or returned: nothing more is to be done with it.
    is_settled: bool = False

    @property
    def run_id(self) -> str:
        """Identifies the attempt that this delivery is for."""
        return f"{self.message_id}/{self.receive_count}"


@dataclass(frozen=True, slots=True)
class SegmentQueue:
    """The queue and its limits."""

    aws: "Aws"
    url: str
    visibility_s: int
    # After this many receives SQS moves the message to the dead-letter queue.
    max_receive_count: int = _DEFAULT_RECEIVES
    has_dead_letter_queue: bool = False

    @classmethod
    def open(cls, aws: "Aws", url: str, visibility_s: int) -> "SegmentQueue":
        """Read the queue's redrive policy."""
        attributes = aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["RedrivePolicy"]).get("Attributes", {})
        if "RedrivePolicy" not in attributes:
            return cls(aws, url, visibility_s)
        policy = json.loads(attributes["RedrivePolicy"])
        return cls(aws, url, visibility_s, int(policy["maxReceiveCount"]), has_dead_letter_queue=True)

    def receive(self, wait_s: int) -> Delivery | None:
        """Wait up to `wait_s` for a message."""
        messages = self.aws.sqs.receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=1,
            WaitTimeSeconds=wait_s,
            VisibilityTimeout=self.visibility_s,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
        ).get("Messages", [])
        for message in messages:
            receives = int(message.get("Attributes", {}).get("ApproximateReceiveCount", "1"))
            return Delivery(message["MessageId"], message["ReceiptHandle"], message["Body"], receives)
        return None

    def is_last_attempt(self, delivery: Delivery) -> bool:
        """Whether SQS will not deliver the message to a worker again."""
        return delivery.receive_count >= self.max_receive_count

    def extend(self, delivery: Delivery) -> bool:
        """Hide a message for another while. Returns False when it is not hidden any more, or not there."""
        left_s = int(MAX_HIDDEN_S - (time.monotonic() - delivery.received_at)) - 1
        return left_s > 0 and self._hide(delivery, min(self.visibility_s, left_s))

    def return_message(self, delivery: Delivery, delay_s: int) -> None:
        """Return a message to the queue, visible after `delay_s`."""
        delivery.is_settled = True
        self._hide(delivery, delay_s)

    def requeue(self, delivery: Delivery) -> None:
        """Send the message again and delete this one: its receives were used up without a failure.

        A crash in between duplicates the message, and never loses it.
        """
        self.aws.sqs.send_message(QueueUrl=self.url, MessageBody=delivery.body)
        self.delete(delivery)

    def delete(self, delivery: Delivery) -> None:
        """Delete a message. One that is gone already is fine."""
        delivery.is_settled = True
        try:
            self.aws.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=delivery.receipt)
        except ClientError as error:
            if error.response["Error"]["Code"] not in _NOT_IN_FLIGHT:
                raise

    def _hide(self, delivery: Delivery, seconds: int) -> bool:
        try:
            self.aws.sqs.change_message_visibility(
                QueueUrl=self.url, ReceiptHandle=delivery.receipt, VisibilityTimeout=seconds
            )
        except ClientError as error:
            if error.response["Error"]["Code"] in _NOT_IN_FLIGHT:
                return False
            raise
        return True
