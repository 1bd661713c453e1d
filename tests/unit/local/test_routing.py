"""Which run gets which segment of the queue that all share."""

import json
import threading
from pathlib import Path

import pytest
from media_worker.keys import build_segment_key
from moto import mock_aws

from local.routing import own_queue, pass_on
from tests.functional.stack import Stack, s3_event


def bodies(stack: Stack, queue_url: str) -> list[str]:
    received = stack.aws.sqs.receive_message(QueueUrl=queue_url, MaxNumberOfMessages=10).get("Messages", [])
    return [message["Body"] for message in received]


def pass_on_once(stack: Stack, shared: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One round: the queue is asked once, and what it gave is passed on although the end is decided meanwhile."""
    stop, receive = threading.Event(), stack.aws.sqs.receive_message

    def receive_and_stop(**arguments: object) -> object:
        stop.set()
        return receive(**(arguments | {"WaitTimeSeconds": 0}))  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(stack.aws.sqs, "receive_message", receive_and_stop)
        pass_on(stack.aws, shared, stop)


@mock_aws
def test_each_message_goes_where_it_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the run of its job; back into the queue when no run waits for it; nowhere when its job is gone."""
    stack = Stack.create(tmp_path)
    shared = stack.aws.sqs.create_queue(QueueName="shared")["QueueUrl"]
    stack.add_job("submitted")
    stack.add_job("gone", status={"S": "deleted"})
    events = {
        job: json.dumps(s3_event(build_segment_key(job, 0, 1, "sbs"))) for job in ("mine +%", "submitted", "gone")
    }
    with own_queue(stack.aws, "mine +%") as mine:
        for body in (*events.values(), '{"Event": "s3:TestEvent"}'):
            stack.aws.sqs.send_message(QueueUrl=shared, MessageBody=body)
        pass_on_once(stack, shared, monkeypatch)
        assert bodies(stack, mine) == [events["mine +%"]]
    attributes = stack.aws.sqs.get_queue_attributes(QueueUrl=shared, AttributeNames=["All"])["Attributes"]
    assert attributes["ApproximateNumberOfMessagesDelayed"] == "1"
    assert attributes["ApproximateNumberOfMessagesNotVisible"] == "0"


@mock_aws
def test_what_nobody_can_read_is_left_to_the_dead_letters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither deleted nor passed on, and does not end the run."""
    stack = Stack.create(tmp_path)
    shared = stack.aws.sqs.create_queue(QueueName="shared")["QueueUrl"]
    stack.aws.sqs.send_message(QueueUrl=shared, MessageBody="not JSON")
    pass_on_once(stack, shared, monkeypatch)
    attributes = stack.aws.sqs.get_queue_attributes(QueueUrl=shared, AttributeNames=["All"])["Attributes"]
    assert attributes["ApproximateNumberOfMessagesNotVisible"] == "1"
