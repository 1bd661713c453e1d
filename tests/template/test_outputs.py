"""What others find the stack's parts by."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

type Json = dict[str, Any]

OUTPUTS = {
    "InputBucketName": "InputBucket",
    "OutputBucketName": "OutputBucket",
    "JobsTableName": "JobsTable",
    "SegmentCompletionsTableName": "SegmentCompletionsTable",
    "ReassemblyTriggeredTableName": "ReassemblyTriggeredTable",
    "SegmentAttemptsTableName": "SegmentAttemptsTable",
    "SegmentWorkerPolicyArn": "SegmentWorkerPolicy",
    "ChunkingQueueUrl": "ChunkingQueue",
    "ReassemblyQueueUrl": "ReassemblyQueue",
    "SegmentQueueUrl": "SegmentQueue",
}
KINDS = ("Queue", "DeadLetterQueue")


@pytest.mark.parametrize(("output", "resource"), OUTPUTS.items())
def test_outputs(stack: Json, output: str, resource: str) -> None:
    """Every name that others need is an output, in the words of the contract."""
    assert stack["Outputs"][output]["Value"] == {"Ref": resource}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["Chunking", "Segment", "Reassembly"])
def test_queue_arns(stack: Json, stack_with: Callable[..., Json], name: str, kind: str) -> None:
    """Other stacks find every queue and dead-letter queue by its ARN, whether it was made or given."""
    assert stack["Outputs"][f"{name}{kind}Arn"]["Value"] == {"Fn::GetAtt": [f"{name}{kind}", "Arn"]}
    given = {f"Existing{name}{other}Arn": f"arn:aws:sqs:us-east-1:123456789012:{other}" for other in KINDS}
    assert stack_with(**given)["Outputs"][f"{name}{kind}Arn"]["Value"] == given[f"Existing{name}{kind}Arn"]


@pytest.fixture
def samconfig(root: Path) -> Json:
    with (root / "samconfig.toml").open("rb") as file:
        environments: Json = tomllib.load(file)["default"]
    return environments


def test_deploy_needs_no_flags(samconfig: Json) -> None:
    """`sam deploy` knows the stack, where to put the packages, and that it may make roles and a nested stack."""
    assert samconfig["global"]["parameters"]["stack_name"] == "media-worker"
    assert samconfig["deploy"]["parameters"]["resolve_s3"] is True
    assert samconfig["deploy"]["parameters"]["capabilities"] == "CAPABILITY_IAM CAPABILITY_AUTO_EXPAND"


def test_local_invoke_needs_no_function_name(samconfig: Json, resources: Json) -> None:
    """`sam local invoke -e events/s3_put.json` means the chunking function."""
    named = samconfig["local_invoke"]["parameters"]["function_logical_id"]
    assert named == "ChunkingFunction"
    assert resources[named]["Type"] == "AWS::Lambda::Function"
