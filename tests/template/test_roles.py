"""What each function may do: these lists, and nothing else."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

type Json = dict[str, Any]
type Right = tuple[str, str]

LOG = {"logs:CreateLogStream", "logs:PutLogEvents"}
READ_DEAD_LETTERS = {"sqs:GetQueueAttributes", "sqs:ReceiveMessage", "sqs:ChangeMessageVisibility"}
CONSUME = {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes", "sqs:ChangeMessageVisibility"}

RIGHTS: dict[str, dict[str, set[str]]] = {
    "Chunking": {
        "ChunkingLogGroup": LOG,
        "ChunkingQueue": CONSUME | {"sqs:SendMessage"},
        "ReassemblyQueue": {"sqs:SendMessage"},
        "InputBucket": {"s3:ListBucket", "s3:ListBucketMultipartUploads"},
        "InputBucket/input/*": {"s3:GetObject"},
        "InputBucket/segments/*": {"s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"},
        "JobsTable": {"dynamodb:GetItem", "dynamodb:UpdateItem"},
        "SegmentCompletionsTable": {"dynamodb:Query", "dynamodb:DeleteItem"},
        "ReassemblyTriggeredTable": {
            *("dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"),
            "dynamodb:DeleteItem",
        },
    },
    "Reassembly": {
        "ReassemblyLogGroup": LOG,
        "ReassemblyQueue": CONSUME | {"sqs:SendMessage"},
        "InputBucket": {"s3:ListBucket"},
        "InputBucket/input/*": {"s3:GetObject"},
        "InputBucket/segments/*": {"s3:GetObject"},
        "OutputBucket": {"s3:ListBucket", "s3:ListBucketMultipartUploads"},
        "OutputBucket/jobs/*": {"s3:GetObject"},
        "OutputBucket/jobs/*/final.mp4": {"s3:PutObject", "s3:AbortMultipartUpload", "s3:PutObjectTagging"},
        "JobsTable": {"dynamodb:GetItem", "dynamodb:UpdateItem"},
        "SegmentCompletionsTable": {"dynamodb:Query"},
        "ReassemblyTriggeredTable": {"dynamodb:UpdateItem"},
    },
    "Sweep": {
        "SweepLogGroup": LOG,
        **{f"{name}Queue": {"sqs:GetQueueAttributes"} for name in ("Chunking", "Segment")},
        "ReassemblyQueue": {"sqs:GetQueueAttributes", "sqs:SendMessage"},
        **{f"{name}DeadLetterQueue": READ_DEAD_LETTERS for name in ("Chunking", "Segment", "Reassembly")},
        "InputBucket": {"s3:ListBucket"},
        "InputBucket/input/*": {"s3:GetObject"},
        "InputBucket/segments/*": {"s3:GetObject"},
        "JobsTable/index/status-created_at": {"dynamodb:Query"},
        "JobsTable": {"dynamodb:GetItem", "dynamodb:UpdateItem"},
        "SegmentCompletionsTable": {"dynamodb:Query"},
        "SegmentAttemptsTable": {"dynamodb:Query", "dynamodb:GetItem", "dynamodb:UpdateItem"},
        "ReassemblyTriggeredTable": {"dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"},
    },
}


def listed[Item](value: Item | list[Item]) -> list[Item]:
    return value if isinstance(value, list) else [value]


def readable(resource: Json) -> str:
    """`InputBucket/input/*` for what is below the ARN of InputBucket; a bare `*` breaks here."""
    if "Fn::GetAtt" in resource:
        logical_id, attribute = resource["Fn::GetAtt"]
        assert attribute == "Arn"
        return str(logical_id)
    match = re.fullmatch(r"arn:\$\{AWS::Partition\}:(?:s3:::|dynamodb:.+:table/)\$\{(\w+)\}(.*)", resource["Fn::Sub"])
    assert match
    return match[1] + match[2]


def rights(role: Json) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for policy in role["Policies"]:
        for statement in policy["PolicyDocument"]["Statement"]:
            assert statement["Effect"] == "Allow"
            for resource in listed(statement["Resource"]):
                found.setdefault(readable(resource), set()).update(listed(statement["Action"]))
    return found


@pytest.mark.parametrize("name", RIGHTS)
def test_rights(resources: Json, name: str) -> None:
    """A function may do what its steps need, on the prefixes, tables and queues that they need, and no more."""
    assert rights(resources[f"{name}Role"]["Properties"]) == RIGHTS[name]


@pytest.mark.parametrize("name", RIGHTS)
def test_no_rights_from_elsewhere(resources: Json, name: str) -> None:
    """No managed policy adds to a role."""
    assert "ManagedPolicyArns" not in resources[f"{name}Role"]["Properties"]


@pytest.mark.parametrize("name", RIGHTS)
def test_no_wildcard_action(resources: Json, name: str) -> None:
    """No action is a pattern: what AWS adds later is not granted by that."""
    assert not any(
        "*" in action for actions in rights(resources[f"{name}Role"]["Properties"]).values() for action in actions
    )


@pytest.mark.parametrize("name", RIGHTS)
def test_role_belongs_to_its_function(resources: Json, name: str) -> None:
    """Each function has the role of its name, which only Lambda can take on."""
    assert resources[f"{name}Function"]["Properties"]["Role"] == {"Fn::GetAtt": [f"{name}Role", "Arn"]}
    (statement,) = resources[f"{name}Role"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "lambda.amazonaws.com"}


def test_no_other_roles(resources: Json) -> None:
    """There is one role for each function; SAM adds none of its own."""
    roles = {name for name, resource in resources.items() if resource["Type"] == "AWS::IAM::Role"}
    assert roles == {"ChunkingRole", "ReassemblyRole", "SweepRole"}


def worker_rights(documents: list[Json]) -> dict[str, set[str]]:
    """The rights of a worker's policy: by the resource as `docs/segment-worker-policy.json` writes it."""
    found: dict[str, set[str]] = {}
    for document in documents:
        for statement in document["Statement"]:
            assert statement["Effect"] == "Allow"
            for resource in listed(statement["Resource"]):
                name = re.sub(r"\$\{(\w+)\.Arn\}", r"\1", resource) if isinstance(resource, str) else readable(resource)
                found.setdefault(name, set()).update(listed(statement["Action"]))
    return found


def test_the_policy_of_segment_workers(resources: Json, root: Path) -> None:
    """It equals the documented one, which tests/worker/test_rights.py runs a worker with. It is attached to nobody."""
    policy = resources["SegmentWorkerPolicy"]["Properties"]
    documented = json.loads((root / "docs" / "segment-worker-policy.json").read_text())
    assert worker_rights([policy["PolicyDocument"]]) == worker_rights([documented])
    assert not policy.keys() & {"Roles", "Users", "Groups"}
