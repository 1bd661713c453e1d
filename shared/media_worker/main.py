"""`python -m media_worker.main`: the two functions as one long-running process, for a container or a machine.

It polls both queues and calls the same handlers. On a signal it finishes the current message and stops.
"""

import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from media_worker.aws import Aws
from media_worker.engines.ffmpeg import find_ffmpeg
from media_worker.errors import SettingsError
from media_worker.handlers import build_chunking_handler, build_reassembly_handler
from media_worker.settings import Settings
from media_worker.telemetry import Handler, logger

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef


# A message may take as long as in Lambda. Its visibility timeout, which counts from the receive, is a little longer:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html
_WORK_S = 900
_VISIBILITY_S = 960
# Also how long an idle process takes to stop.
_LONG_POLL_S = 5
_PAUSE_AFTER_ERROR_S = 5.0


@dataclass(frozen=True, slots=True)
class LocalContext:
    """What Lambda's context object tells a handler."""

    function_name: str
    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    memory_limit_in_mb: int = 0
    invoked_function_arn: str = "local"
    end: float = field(default_factory=lambda: time.monotonic() + _WORK_S)

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the work has to end."""
        return max(0, int((self.end - time.monotonic()) * 1000))


def serve(aws: Aws, stop: threading.Event) -> None:
    """Poll both queues, one thread each, until `stop` is set and the current messages are finished."""
    settings = aws.settings
    queues = {
        "chunking": (settings.chunking_queue_url, build_chunking_handler(aws)),
        "reassembly": (settings.reassembly_queue_url, build_reassembly_handler(aws)),
    }
    threads = [
        threading.Thread(target=_poll, args=(aws, name, url, handler, stop), name=name)
        for name, (url, handler) in queues.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _poll(aws: Aws, name: str, url: str, handler: Handler, stop: threading.Event) -> None:
    logger.info("Polling", event="polling_started", queue=url)
    while not stop.is_set():
        try:
            _poll_once(aws, name, url, handler)
        except Exception:  # noqa: BLE001  # a poller that ends leaves its queue unattended
            logger.exception("Polling failed: retrying", event="polling_failed", queue=url)
            stop.wait(_PAUSE_AFTER_ERROR_S)


def _poll_once(aws: Aws, name: str, url: str, handler: Handler) -> None:
    """Receive at most one message, handle it, and delete it unless the handler returned it to the queue."""
    messages = aws.sqs.receive_message(
        QueueUrl=url,
        MaxNumberOfMessages=1,
        WaitTimeSeconds=_LONG_POLL_S,
        VisibilityTimeout=_VISIBILITY_S,
        MessageSystemAttributeNames=["All"],
    ).get("Messages", [])
    for message in messages:
        response = handler(build_event(message, url), LocalContext(name))
        failed = {failure["itemIdentifier"] for failure in response["batchItemFailures"]}
        if message["MessageId"] not in failed:
            aws.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


def build_event(message: "MessageTypeDef", queue_url: str) -> dict[str, Any]:
    """The event that Lambda's event source mapping builds from a message
    (https://docs.aws.amazon.com/lambda/latest/dg/with-sqs.html).
    """
    return {
        "Records": [
            {
                "messageId": message["MessageId"],
                "receiptHandle": message["ReceiptHandle"],
                "body": message["Body"],
                "attributes": dict(message.get("Attributes", {})),
                "messageAttributes": {},
                "md5OfBody": message.get("MD5OfBody", ""),
                "eventSource": "aws:sqs",
                "eventSourceARN": queue_url,
                "awsRegion": "",
            }
        ]
    }


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Serve until SIGINT or SIGTERM; 2 when the environment does not describe a stack, or without ffmpeg."""
    try:
        settings = Settings.from_environment(environ)
        settings = replace(settings, ffmpeg_path=find_ffmpeg(environ.get("FFMPEG_PATH"), settings.ffmpeg_path))
    except SettingsError as error:
        sys.stderr.write(f"media-worker: {error}\n")
        return 2
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    serve(Aws.connect(settings), stop)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
