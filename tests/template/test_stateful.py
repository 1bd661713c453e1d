"""What holds data keeps its logical id, in the same stack: anything else replaces it in a deployed stack.

https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/using-cfn-updating-stacks-update-behaviors.html
"""

from typing import Any

import pytest

type Json = dict[str, Any]

BUCKET_NAME = "media-worker-{}-${{AWS::AccountId}}-${{StackIdStart}}"

# Every bucket, table and queue of a deployed stack, with the properties whose change replaces it. Add to this list;
# never rename, move or change an entry.
RECORDED: dict[str, tuple[str, Json]] = {
    "InputBucket": ("AWS::S3::Bucket", {"BucketName": BUCKET_NAME.format("input")}),
    "OutputBucket": ("AWS::S3::Bucket", {"BucketName": BUCKET_NAME.format("output")}),
    "JobsTable": ("AWS::DynamoDB::Table", {"KeySchema": ["job_id"]}),
    "SegmentCompletionsTable": ("AWS::DynamoDB::Table", {"KeySchema": ["job_id", "segment_index"]}),
    "ReassemblyTriggeredTable": ("AWS::DynamoDB::Table", {"KeySchema": ["job_id"]}),
    "SegmentAttemptsTable": ("AWS::DynamoDB::Table", {"KeySchema": ["job_id", "segment_index"]}),
    "ChunkingQueue": ("AWS::SQS::Queue", {}),
    "ChunkingDeadLetterQueue": ("AWS::SQS::Queue", {}),
    "SegmentQueue": ("AWS::SQS::Queue", {}),
    "SegmentDeadLetterQueue": ("AWS::SQS::Queue", {}),
    "ReassemblyQueue": ("AWS::SQS::Queue", {}),
    "ReassemblyDeadLetterQueue": ("AWS::SQS::Queue", {}),
}
# The other resources that a user has told somebody about: a role in a bucket's policy, a confirmed subscription.
NAMED_ELSEWHERE = {
    "ChunkingRole": "AWS::IAM::Role",
    "ReassemblyRole": "AWS::IAM::Role",
    "SweepRole": "AWS::IAM::Role",
    "SegmentWorkerPolicy": "AWS::IAM::ManagedPolicy",
    "AlarmTopic": "AWS::SNS::Topic",
}
STATEFUL = {kind for kind, _ in RECORDED.values()}
# https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference: "Update requires: Replacement".
REPLACING = {
    "AWS::S3::Bucket": {"BucketName", "BucketNamePrefix", "ObjectLockEnabled"},
    "AWS::DynamoDB::Table": {"TableName", "KeySchema", "LocalSecondaryIndexes", "ImportSourceSpecification"},
    "AWS::SQS::Queue": {"QueueName", "FifoQueue"},
}
# When the stack is deleted, and when an update replaces the resource.
KEPT, GONE = ("RetainExceptOnCreate", "Retain"), ("Delete", "Delete")
POLICIES = {"AWS::S3::Bucket": KEPT, "AWS::DynamoDB::Table": KEPT, "AWS::SQS::Queue": GONE}


def replacing_properties(resource: Json) -> Json:
    """The properties whose change replaces the resource, in short."""
    found = {}
    for name in REPLACING[resource["Type"]] & resource["Properties"].keys():
        match resource["Properties"][name]:
            case {"Fn::Sub": [text, _]}:
                found[name] = text
            case list() as keys:
                found[name] = [key["AttributeName"] for key in keys]
            case value:
                found[name] = value
    return found


def test_all_are_recorded(template: Json) -> None:
    """No bucket, table or queue is added, renamed or removed without a look at this list."""
    written = {name: one["Type"] for name, one in template["Resources"].items() if one["Type"] in STATEFUL}
    assert written == {name: kind for name, (kind, _) in RECORDED.items()}


@pytest.mark.parametrize("name", RECORDED)
def test_an_update_replaces_none(template: Json, name: str) -> None:
    """A bucket, table or queue keeps its name and its keys, so that an update leaves it in place."""
    assert replacing_properties(template["Resources"][name]) == RECORDED[name][1]


@pytest.mark.parametrize("name", RECORDED)
def test_what_becomes_of_it(template: Json, name: str) -> None:
    """Buckets and tables outlive the stack and a replacement, but not a failed first deployment. Queues hold no media
    and go with the stack.
    """
    resource = template["Resources"][name]
    policies = (resource.get("DeletionPolicy", "Delete"), resource.get("UpdateReplacePolicy", "Delete"))
    assert policies == POLICIES[resource["Type"]]


def test_the_nested_stack_holds_no_data(watching_template: Json) -> None:
    """The nested stack can be replaced: it holds nothing but alarms and the dashboard."""
    kinds = {resource["Type"] for resource in watching_template["Resources"].values()}
    assert kinds == {"AWS::CloudWatch::Alarm", "AWS::CloudWatch::Dashboard"}


@pytest.mark.parametrize(("name", "kind"), NAMED_ELSEWHERE.items())
def test_names_that_others_know_stay(template: Json, name: str, kind: str) -> None:
    """Roles and the topic keep their ARNs: policies of others name the roles, and a subscription is confirmed once."""
    assert template["Resources"][name]["Type"] == kind
