"""A KMS key of the user's: it encrypts everything that the stack makes, and roles may use it."""

import re
from collections.abc import Callable
from typing import Any

import pytest

type Json = dict[str, Any]
type StackWith = Callable[..., Json]

KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
USE_KEY = {
    "Sid": "UseKey",
    "Effect": "Allow",
    "Action": ["kms:Decrypt", "kms:GenerateDataKey"],
    "Resource": KEY,
}


@pytest.fixture(scope="module")
def encrypted(stack_with: StackWith) -> Json:
    """The resources of a stack with a key."""
    resources: Json = stack_with(KmsKeyArn=KEY)["Resources"]
    return resources


def of_type(resources: Json, kind: str) -> dict[str, Json]:
    return {name: one["Properties"] for name, one in resources.items() if one["Type"] == kind}


def statements(resources: Json) -> dict[str, list[Json]]:
    """The statements of each role, and of the policy of segment workers."""
    roles = of_type(resources, "AWS::IAM::Role").items()
    found = {name: [one for policy in role["Policies"] for one in _statements(policy)] for name, role in roles}
    return found | {"SegmentWorkerPolicy": _statements(resources["SegmentWorkerPolicy"]["Properties"])}


def _statements(policy: Json) -> list[Json]:
    listed: list[Json] = policy["PolicyDocument"]["Statement"]
    return listed


def test_buckets(encrypted: Json) -> None:
    """Both buckets encrypt with the key, and with a bucket key, which saves most requests to KMS."""
    buckets = of_type(encrypted, "AWS::S3::Bucket")
    assert buckets.keys() == {"InputBucket", "OutputBucket"}
    for bucket in buckets.values():
        (rule,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
        assert rule["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": KEY}
        assert rule["BucketKeyEnabled"] is True


def test_queues(encrypted: Json) -> None:
    """All queues encrypt with the key. SQS refuses a key beside its own encryption."""
    queues = of_type(encrypted, "AWS::SQS::Queue")
    assert len(queues) == 6
    for queue in queues.values():
        assert queue["KmsMasterKeyId"] == KEY
        assert "SqsManagedSseEnabled" not in queue


def test_tables(encrypted: Json) -> None:
    """All tables encrypt with the key."""
    tables = of_type(encrypted, "AWS::DynamoDB::Table")
    assert len(tables) == 4
    for table in tables.values():
        assert table["SSESpecification"] == {"SSEEnabled": True, "SSEType": "KMS", "KMSMasterKeyId": KEY}


def test_roles_may_use_the_key(resources: Json, encrypted: Json) -> None:
    """Each role, and the policy of segment workers, gets one statement for this key and no other right."""
    without = statements(resources)
    for name, found in statements(encrypted).items():
        assert USE_KEY in found, name
        assert [one for one in found if one != USE_KEY] == without[name]


def test_nothing_about_keys_without_one(resources: Json) -> None:
    """Without the parameter, no role has a right to a key and no resource names one."""
    own = {name: one for name, one in resources.items() if name != "Events"}  # test_events_stack.py reads that one
    assert not re.search(r"kms", str(own), re.IGNORECASE)


@pytest.mark.parametrize(
    "wrong",
    ["1234abcd-12ab-34cd-56ef-1234567890ab", "alias/mine", "arn:aws:kms:us-east-1:123456789012:alias/mine"],
)
def test_the_key_is_given_by_its_arn(template: Json, wrong: str) -> None:
    """An alias is refused: a policy's resource is a key, and rights to an alias are none."""
    pattern = template["Parameters"]["KmsKeyArn"]["AllowedPattern"]
    assert re.fullmatch(pattern, KEY)
    assert re.fullmatch(pattern, "")
    assert not re.fullmatch(pattern, wrong)
