"""The worker kit in the crash harness: one delivery of a segment's message to a worker in a process of its own.

The worker's calls are real and go to moto. SQS's clock is not that of the test, so each delivery has a queue of its own
with one message; what is left in it afterwards says what the worker did with the message.
"""

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any, Literal
from unittest.mock import patch

from botocore.exceptions import BotoCoreError, ClientError
from media_worker import segment_command
from media_worker.aws import Aws
from media_worker.interruption import Host
from media_worker.keys import build_output_segment_key
from media_worker.s3 import describe
from media_worker.worker import Segment, SegmentOptions, Worker, WorkerOptions

from tests.crash.clock import Clock
from tests.crash.process import Report
from tests.functional.stack import OUTPUT, s3_event

RECEIVES = 3
# Of a command, by the real clock: it is a real process.
_TIMEOUT_S = 1.5
_LETTERS = {"deadLetterTargetArn": "arn:aws:sqs:us-east-1:123456789012:letters", "maxReceiveCount": RECEIVES}


@dataclass(frozen=True, slots=True)
class KitDelivery:
    """A message as SQS would deliver it."""

    message_id: str
    receives: int
    key: str

    @property
    def name(self) -> str:
        """Names the queue of the delivery, and the machine of its worker."""
        return f"kit-{self.message_id}-{self.receives}"


type After = Literal["visible", "hidden", "gone"]


def create_queue(aws: Aws, delivery: KitDelivery) -> None:
    """The queue of a delivery, with its message."""
    url = aws.sqs.create_queue(QueueName=delivery.name, Attributes={"RedrivePolicy": json.dumps(_LETTERS)})["QueueUrl"]
    aws.sqs.send_message(QueueUrl=url, MessageBody=json.dumps(s3_event(delivery.key)))


def look_after(aws: Aws, delivery: KitDelivery) -> After:
    """What the worker, which has ended, did with its message."""
    names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = aws.sqs.get_queue_attributes(QueueUrl=_url(aws, delivery), AttributeNames=names)["Attributes"]
    visible, hidden = (int(found[name]) for name in names)
    return "visible" if visible else "hidden" if hidden else "gone"


def _url(aws: Aws, delivery: KitDelivery) -> str:
    assert aws.settings.segment_queue_url
    return aws.settings.segment_queue_url.rpartition("/")[0] + f"/{delivery.name}"


def work(aws: Aws, watcher: Aws, delivery: KitDelivery, directory: Path, clock: Clock, report: Report) -> None:
    """Process one segment with a command that copies it. `watcher` has clients into which no fault is injected."""
    _be_sqs(aws, delivery, clock)
    aws = replace(aws, settings=replace(aws.settings, segment_queue_url=_url(aws, delivery)))
    # Another machine each time: nothing of an earlier attempt is on its disk.
    options = WorkerOptions(
        once=True,
        idle_exit_s=1,
        name=f"i-{delivery.receives}",
        directory=directory / delivery.name,
        segment=SegmentOptions(heartbeat_s=3600, retry_delay_s=5),
    )
    for segment in Worker(aws, Host(), options).segments():
        with segment:
            _beat(segment)
            report.send(ran=[delivery.key, _is_uploaded(watcher, segment)])
            _run_command(segment, clock)


def use_command(words: Sequence[str], attempts: int) -> None:
    """Run this command in the first attempts at each segment. For `World.sabotage`: in the process of a worker."""
    _failing.update(words=tuple(words), attempts=attempts)


_failing: dict[str, Any] = {"words": (), "attempts": 0}


def _run_command(segment: Segment, clock: Clock) -> None:
    if segment.attempt > _failing["attempts"]:
        shutil.copyfile(segment.input, segment.output)
        return
    words, environ, ahead_s = _failing["words"], {"PATH": os.environ["PATH"]}, clock.ahead_s
    try:
        with patch.object(segment_command, "time", SimpleNamespace(monotonic=monotonic, sleep=sleep)):
            segment_command.run_command(words, segment, environ, timeout_s=_TIMEOUT_S)
    finally:
        clock.ahead_s = ahead_s  # waiting for the process to end is no sleep


def _beat(segment: Segment) -> None:
    """One heartbeat, at a known point: the thread would beat at any."""
    with suppress(BotoCoreError, ClientError):
        segment._halt = segment._beat()
    segment.check()


def _is_uploaded(aws: Aws, segment: Segment) -> bool:
    found = describe(aws, OUTPUT, build_output_segment_key(segment.job_id, segment.index))
    return found is not None and found.metadata.get("plan") == segment.plan


def _be_sqs(aws: Aws, delivery: KitDelivery, clock: Clock) -> None:
    """Give the message its id and its receive count, and let the wait for a message take no time."""

    def do_not_wait(params: dict[str, Any], **_: Any) -> None:
        params["WaitTimeSeconds"] = 0

    def received(parsed: dict[str, Any], **_: Any) -> None:
        for message in parsed.get("Messages", []):
            message["MessageId"] = delivery.message_id
            message["Attributes"]["ApproximateReceiveCount"] = str(delivery.receives)
        if not parsed.get("Messages"):
            clock.sleep(1)

    events = aws.sqs.meta.events
    events.register_first("provide-client-params.sqs.ReceiveMessage", do_not_wait)
    events.register_last("after-call.sqs.ReceiveMessage", received)
