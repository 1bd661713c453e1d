"""A stack in which one function has the rights of its role only. Its user and its segment worker may do anything."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from media_worker.aws import Aws
from media_worker.handlers import build_chunking_handler, build_reassembly_handler
from media_worker.jobs import JobStatus
from media_worker.keys import build_output_segment_key
from media_worker.s3 import SOURCE_ETAG
from media_worker.sweep import build_sweep_handler
from media_worker.telemetry import Handler

from tests.functional.stack import OUTPUT, LambdaContext, Stack
from tests.rights.enforcement import Guard

FUNCTIONS = ("Chunking", "Reassembly", "Sweep")
# The functions that a queue feeds.
FED = ("Chunking", "Reassembly")


HANDLERS: dict[str, Callable[[Aws], Handler]] = {
    "Chunking": build_chunking_handler,
    "Reassembly": build_reassembly_handler,
    "Sweep": build_sweep_handler,
}


@dataclass
class GuardedStack:
    """The stack and what a scenario does with it."""

    open: Stack
    guard: Guard
    function: str
    clip: Path

    @property
    def aws(self) -> Aws:
        """The clients of the function."""
        return self.guard.aws

    @property
    def queue_url(self) -> str:
        settings = self.open.aws.settings
        return settings.chunking_queue_url if self.function == "Chunking" else settings.reassembly_queue_url

    @property
    def handler(self) -> Callable[..., Mapping[str, Any]]:
        return HANDLERS[self.function](self.aws)

    def sweep(self) -> Mapping[str, Any]:
        """Run the sweep once."""
        return self.handler({}, LambdaContext())

    def deliver(self, body: Any, *, receive_count: int = 1, remaining_ms: int = 900_000) -> bool:
        """Send a message, deliver it to the function, delete it unless it was returned. Says whether it was deleted."""
        sqs = self.open.aws.sqs
        sqs.send_message(QueueUrl=self.queue_url, MessageBody=json.dumps(body))
        (message,) = sqs.receive_message(QueueUrl=self.queue_url, VisibilityTimeout=960)["Messages"]
        record = {
            "messageId": message["MessageId"],
            "receiptHandle": message["ReceiptHandle"],
            "body": message["Body"],
            "attributes": {"ApproximateReceiveCount": str(receive_count)},
            "eventSource": "aws:sqs",
        }
        failed = self.handler({"Records": [record]}, LambdaContext(remaining_ms))["batchItemFailures"]
        if not failed:
            sqs.delete_message(QueueUrl=self.queue_url, ReceiptHandle=message["ReceiptHandle"])
        return not failed

    def visible_messages(self) -> int:
        return len(self.open.aws.sqs.receive_message(QueueUrl=self.queue_url).get("Messages", []))

    def set_job(self, status: JobStatus, **attributes: Any) -> None:
        self.open.add_job(status={"S": status.value}, **attributes)

    def add_processed(self, count: int, body: bytes = b"") -> None:
        """Add processed segments and their completions."""
        for index in range(count):
            key = build_output_segment_key("job-1", index)
            self.open.aws.s3.put_object(Bucket=OUTPUT, Key=key, Body=body)
            completion = {"job_id": {"S": "job-1"}, "segment_index": {"N": str(index)}}
            completion["output_s3_uri"] = {"S": f"s3://{OUTPUT}/{key}"}
            self.open.aws.dynamodb.put_item(TableName="SegmentCompletions", Item=completion)

    def leave(self, bucket: str, key: str) -> None:
        """Put an object of another source."""
        self.open.aws.s3.put_object(Bucket=bucket, Key=key, Body=b"old", Metadata={SOURCE_ETAG: "another"})

    def unfinished_uploads(self, bucket: str) -> int:
        return len(self.open.aws.s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []))
