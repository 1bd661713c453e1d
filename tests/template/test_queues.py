"""Queues, what feeds them, and what they feed."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.template.intrinsics import broken_rules

type Json = dict[str, Any]

QUEUES = ("Chunking", "Segment", "Reassembly")


def test_visibility_outlasts_the_function(function: Json, event_source: Json, resources: Json) -> None:
    """Lambda refuses a queue whose visibility timeout is shorter than its function's timeout
    (https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html).
    """
    queue = resources[event_source["EventSourceArn"]["Fn::GetAtt"][0]]["Properties"]
    assert queue["VisibilityTimeout"] >= function["Timeout"] + 60


def test_event_sources(event_source: Json) -> None:
    """A function takes one message at a time, reports each one's failure, and is limited without throttling."""
    assert event_source["BatchSize"] == 1
    assert event_source["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert event_source["ScalingConfig"] == {"MaximumConcurrency": 4}


def test_concurrency_can_be_left_open(stack_with: Callable[..., Json]) -> None:
    """MaximumConcurrency=0 leaves the limit out, as the local cloud needs it: 0 itself is none that Lambda takes."""
    resources = stack_with(MaximumConcurrency=0)["Resources"]
    assert "ScalingConfig" not in resources["ChunkingFunctionQueue"]["Properties"]


def test_a_concurrency_of_one_is_refused(template: Json, defaults: Json) -> None:
    """CloudFormation refuses MaximumConcurrency=1 before it begins: Lambda would, after everything else is made."""
    refusal = "MaximumConcurrency is 2 or more, or 0 for no limit; Lambda refuses 1"
    assert broken_rules(template, defaults | {"MaximumConcurrency": 1}) == [refusal]
    assert broken_rules(template, defaults | {"MaximumConcurrency": 2}) == []
    assert broken_rules(template, defaults | {"MaximumConcurrency": 0}) == []


def test_no_reserved_concurrency(function: Json) -> None:
    """No function reserves concurrency: invocations that are throttled for long use up receives."""
    assert "ReservedConcurrentExecutions" not in function


@pytest.mark.parametrize("name", ["Chunking", "Reassembly"])
def test_each_function_has_its_queue(resources: Json, name: str) -> None:
    """Each function is fed by the queue of its name."""
    mapping = resources[f"{name}FunctionQueue"]["Properties"]
    assert mapping["FunctionName"] == {"Ref": f"{name}Function"}
    assert mapping["EventSourceArn"] == {"Fn::GetAtt": [f"{name}Queue", "Arn"]}


@pytest.mark.parametrize("name", QUEUES)
def test_dead_letters(resources: Json, template: Json, name: str) -> None:
    """A message that fails as often as the parameter says goes to a dead-letter queue of its own queue."""
    redrive = template["Resources"][f"{name}Queue"]["Properties"]["RedrivePolicy"]
    assert redrive["deadLetterTargetArn"] == {"Fn::GetAtt": [f"{name}DeadLetterQueue", "Arn"]}
    assert redrive["maxReceiveCount"] == {"Ref": "MaxReceiveCount"}


def test_functions_know_the_last_receive(template: Json) -> None:
    """The functions are told the same number of receives as the queues: on the last one the job becomes failed."""
    variables = template["Globals"]["Function"]["Environment"]["Variables"]
    assert variables["MAX_RECEIVE_COUNT"] == {"Ref": "MaxReceiveCount"}


def test_receives(defaults: Json) -> None:
    """A message is tried five times or more, as AWS advises for a queue that feeds a function."""
    assert defaults["MaxReceiveCount"] >= 5


@pytest.mark.parametrize("name", ["Chunking", "Reassembly"])
def test_dead_letters_last_longer(resources: Json, name: str) -> None:
    """A dead letter outlasts its queue: its age counts from when it was first sent."""
    queue, dead_letters = (resources[f"{name}{kind}Queue"]["Properties"] for kind in ("", "DeadLetter"))
    assert dead_letters["MessageRetentionPeriod"] > queue["MessageRetentionPeriod"]


def test_a_segment_waits_for_as_long_as_sqs_allows(resources: Json, defaults: Json) -> None:
    """Two weeks, and the segment itself is kept for longer."""
    for kind in ("", "DeadLetter"):
        assert resources[f"Segment{kind}Queue"]["Properties"]["MessageRetentionPeriod"] == 14 * 24 * 3600
    assert defaults["SegmentExpirationDays"] > 14


def test_every_queue(template: Json) -> None:
    """Every queue has a dead-letter queue unless it is one: .cfnlintrc leaves it to this test."""
    queues = {
        name: one["Properties"] for name, one in template["Resources"].items() if one["Type"] == "AWS::SQS::Queue"
    }
    fed = {
        queue["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"][0]
        for queue in queues.values()
        if "RedrivePolicy" in queue
    }
    assert {name for name, queue in queues.items() if "RedrivePolicy" not in queue} == fed


def test_queues_are_encrypted(resources: Json) -> None:
    """Every queue is encrypted at rest, by SQS if no key is given: .checkov.yaml leaves it to this test."""
    queues = [one["Properties"] for one in resources.values() if one["Type"] == "AWS::SQS::Queue"]
    assert len(queues) == 6
    assert all(queue["SqsManagedSseEnabled"] is True for queue in queues)


@pytest.mark.parametrize(("name", "prefix"), [("Chunking", "input/"), ("Segment", "segments/")])
def test_notifications(resources: Json, name: str, prefix: str) -> None:
    """Uploads of every kind, also of several parts, are announced to the queue of their prefix."""
    configurations = resources["InputBucket"]["Properties"]["NotificationConfiguration"]["QueueConfigurations"]
    (found,) = (one for one in configurations if one["Queue"] == {"Fn::GetAtt": [f"{name}Queue", "Arn"]})
    assert found["Event"] == "s3:ObjectCreated:*"
    rules = {rule["Name"]: rule["Value"] for rule in found["Filter"]["S3Key"]["Rules"]}
    assert rules == {"prefix": prefix, "suffix": ".mp4"}


@pytest.mark.parametrize("name", ["Chunking", "Segment"])
def test_only_the_input_bucket_may_send(resources: Json, name: str) -> None:
    """S3 may send to the queue for the input bucket of this account, and nobody else may."""
    policy = resources[f"{name}QueuePolicy"]["Properties"]
    assert policy["Queues"] == [{"Ref": f"{name}Queue"}]
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "s3.amazonaws.com"}
    assert statement["Action"] == "sqs:SendMessage"
    assert statement["Resource"] == {"Fn::GetAtt": [f"{name}Queue", "Arn"]}
    assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}
    allowed = statement["Condition"]["ArnLike"]["aws:SourceArn"]["Fn::Sub"]
    bucket_name = resources["InputBucket"]["Properties"]["BucketName"]["Fn::Sub"][0]
    assert allowed == "arn:${AWS::Partition}:s3:::" + bucket_name.replace("${StackIdStart}", "*")


def test_bucket_waits_for_queue_policies(resources: Json) -> None:
    """The queue policies come before the bucket: S3 sends a test message when the notification is set."""
    after = resources["InputBucket"]["Metadata"]["CreatedAfter"]
    assert after == [{"Ref": "ChunkingQueuePolicy"}, {"Ref": "SegmentQueuePolicy"}]
