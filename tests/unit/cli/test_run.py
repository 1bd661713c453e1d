"""Forwarding the messages of the shared segment queue to the runs."""

import json
import threading
from pathlib import Path

import pytest
from media_worker.keys import build_segment_key
from media_worker_cli.local.run import forward, open_queue
from moto import mock_aws

from tests.functional.stack import Stack, s3_event


def bodies(stack: Stack, queue_url: str) -> list[str]:
    received = stack.aws.sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10).get("Messages", [])
    return [message["Body"] for message in received]


def forward_once(stack: Stack, shared: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward the messages of one receive. The stop is requested during the receive."""
    stop, receive = threading.Event(), stack.aws.sqs.receive_message

    def receive_and_stop(**arguments: object) -> object:
        stop.set()
        return receive(**(arguments | {"WaitTimeSeconds": 0}))  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(stack.aws.sqs, "receive_message", receive_and_stop)
        forward(stack.aws, shared, stop)


@mock_aws
def test_a_message_is_forwarded_to_the_run_of_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without such a run it is sent to the shared queue again, or dropped if its job is deleted."""
    stack = Stack.create(tmp_path)
    shared = stack.aws.sqs.create_queue(QueueName="shared")["QueueUrl"]
    stack.add_job("submitted")
    stack.add_job("gone", status={"S": "deleted"})
    events = {
        job: json.dumps(s3_event(build_segment_key(job, 0, 1, "sbs"))) for job in ("mine +%", "submitted", "gone")
    }
    mine = open_queue(stack.aws, "mine +%")
    for body in (*events.values(), '{"Event": "s3:TestEvent"}'):
        stack.aws.sqs.send_message(QueueUrl=shared, MessageBody=body)
    forward_once(stack, shared, monkeypatch)
    assert bodies(stack, mine) == [events["mine +%"]]
    attributes = stack.aws.sqs.get_queue_attributes(QueueUrl=shared, AttributeNames=["All"])["Attributes"]
    assert attributes["ApproximateNumberOfMessagesDelayed"] == "1"
    assert attributes["ApproximateNumberOfMessagesNotVisible"] == "0"


@mock_aws
def test_an_unreadable_message_is_left_in_the_queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither deleted nor forwarded, so it ends in the dead-letter queue. The run goes on."""
    stack = Stack.create(tmp_path)
    shared = stack.aws.sqs.create_queue(QueueName="shared")["QueueUrl"]
    stack.aws.sqs.send_message(QueueUrl=shared, MessageBody="not JSON")
    forward_once(stack, shared, monkeypatch)
    attributes = stack.aws.sqs.get_queue_attributes(QueueUrl=shared, AttributeNames=["All"])["Attributes"]
    assert attributes["ApproximateNumberOfMessagesNotVisible"] == "1"
