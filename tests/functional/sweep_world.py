"""A stack with dead-letter queues, the index of jobs by status, and the table of attempts, for tests of the sweep."""

import json
import time
from typing import Any

from media_worker.aws import Aws
from media_worker.completions import record_segment
from media_worker.deadline import Deadline
from media_worker.jobs import JobStatus
from media_worker.keys import build_output_segment_key, build_segment_key
from media_worker.messages import build_object_created_body, build_reassembly_body
from media_worker.queues import read_queue_state
from media_worker.sweep import Swept, sweep

from tests.crash.clock import Clock
from tests.functional.stack import INPUT, OUTPUT, Stack, create_table

RECEIVES = 3
SEGMENTS = 3
STAGES = ["chunking", "segments", "reassembly"]


def url(queue: str) -> str:
    return f"https://sqs.us-east-1.amazonaws.com/123456789012/{queue}"


SETTINGS = {"SEGMENT_QUEUE_URL": url("segments"), "SEGMENT_ATTEMPTS_TABLE_NAME": "SegmentAttempts"}


class World:
    """A stack with dead-letter queues and the index, and the clock that the sweep reads."""

    def __init__(self, stack: Stack, clock: Clock) -> None:
        self.stack, self.clock = stack, clock
        self.aws = stack.aws

    def sweep(self) -> Swept:
        return sweep(self.aws, Deadline(self.stack.context))

    def sweep_for(self, seconds: int, every_s: int = 300) -> None:
        """Sweep on a schedule."""
        for _ in range(0, seconds, every_s):
            self.clock.ahead_s += every_s
            self.sweep()

    def add_job_in(self, stage: str, job_id: str = "job-1", **attributes: Any) -> None:
        """A job that waits for the message of a stage, which is sent."""
        created = {"created_at": {"N": str(int(time.time()))}}
        if stage == "chunking":
            self.stack.add_job(job_id, **created, **attributes)
            self.stack.upload(b"a source", job_id)
        else:
            split = {"status": {"S": "chunking_complete"}, "total_segments": {"N": str(SEGMENTS)}}
            started = {"run_started_at": {"N": str(int(time.time()))}}
            self.stack.add_job(job_id, **{**created, **split, **started, **attributes})
            for index in range(SEGMENTS):
                self.aws.s3.put_object(Bucket=INPUT, Key=key_of(index, job_id), Body=b"a segment")
        if stage == "reassembly":
            for index in range(SEGMENTS):
                self.complete(index, job_id)  # the last one sends the message
        else:
            self.announce(stage, job_id)

    def announce(self, stage: str, job_id: str = "job-1") -> None:
        bodies = {
            "chunking": [build_object_created_body(INPUT, f"input/{job_id}/source.mp4")],
            "segments": [build_object_created_body(INPUT, key_of(index, job_id)) for index in range(SEGMENTS)],
            "reassembly": [build_reassembly_body(job_id)],
        }
        for body in bodies[stage]:
            self.aws.sqs.send_message(QueueUrl=url(stage), MessageBody=body)

    def complete(self, index: int, job_id: str = "job-1") -> None:
        uri = f"s3://{OUTPUT}/{build_output_segment_key(job_id, index)}"
        record_segment(self.aws, job_id=job_id, segment_index=index, output_s3_uri=uri)

    def receive_in_vain(self, queue: str, times: int = RECEIVES + 1) -> None:
        """Receive all messages without handling them: throttled starts, a function that cannot start. SQS moves them
        to the dead-letter queue.
        """
        for _ in range(times):
            self.receive(queue, visibility_s=0)

    def receive(self, queue: str, visibility_s: int) -> list[Any]:
        return self.aws.sqs.receive_message(
            QueueUrl=url(queue), MaxNumberOfMessages=10, VisibilityTimeout=visibility_s
        ).get("Messages", [])

    def depth(self, queue: str) -> int:
        return read_queue_state(self.aws, url(queue)).messages

    def status(self) -> JobStatus:
        return self.stack.job().status

    @property
    def error(self) -> str:
        return self.stack.job().error or ""


def key_of(index: int, job_id: str = "job-1") -> str:
    return build_segment_key(job_id, index, SEGMENTS, "sbs")


def complete_stack(aws: Aws) -> None:
    """Add to a stack what the sweep reads beside it."""
    aws.sqs.create_queue(QueueName="segments")
    for name in STAGES:
        aws.sqs.create_queue(QueueName=f"{name}-dead")
        policy = {
            "deadLetterTargetArn": f"arn:aws:sqs:us-east-1:123456789012:{name}-dead",
            "maxReceiveCount": RECEIVES,
        }
        aws.sqs.set_queue_attributes(QueueUrl=url(name), Attributes={"RedrivePolicy": json.dumps(policy)})
    create_table(aws, "SegmentAttempts", job_id="S", segment_index="N")
    add_index(aws)


def add_index(aws: Aws) -> None:
    key: Any = [
        {"AttributeName": "status", "KeyType": "HASH"},
        {"AttributeName": "created_at", "KeyType": "RANGE"},
    ]
    aws.dynamodb.update_table(
        TableName="Jobs",
        AttributeDefinitions=[
            {"AttributeName": "status", "AttributeType": "S"},
            {"AttributeName": "created_at", "AttributeType": "N"},
        ],
        GlobalSecondaryIndexUpdates=[
            {"Create": {"IndexName": "status-created_at", "KeySchema": key, "Projection": {"ProjectionType": "ALL"}}}
        ],
    )
