"""Our guard and moto's IAM agree about S3, the one service for which moto checks resources."""

import json
from typing import Any

import boto3
import pytest
from moto import mock_aws
from moto.core import enable_iam_authentication

from tests.functional.stack import INPUT, OUTPUT
from tests.rights.conftest import NewStack
from tests.rights.enforcement import is_refused
from tests.rights.policies import Policy, read_policy
from tests.rights.test_policies import FINAL, PROCESSED, REFUSED, SEGMENT, SOURCE

ALLOWED: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "Chunking": [
        ("get_object", {"Bucket": INPUT, "Key": SOURCE}),
        ("put_object", {"Bucket": INPUT, "Key": SEGMENT}),
        ("list_objects_v2", {"Bucket": INPUT}),
    ],
    "Reassembly": [
        ("get_object", {"Bucket": OUTPUT, "Key": PROCESSED}),
        ("put_object", {"Bucket": OUTPUT, "Key": FINAL}),
        ("list_objects_v2", {"Bucket": OUTPUT}),
    ],
}


def document(policy: Policy) -> str:
    statements = [
        {"Effect": one.effect, "Action": list(one.actions), "Resource": list(one.resources)}
        for one in policy.statements
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def judged_by_moto(policy: Policy) -> Any:
    """An S3 client with the credentials of a role that has this policy."""
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}
    iam = boto3.client("iam")
    role = iam.create_role(RoleName="role", AssumeRolePolicyDocument=json.dumps({"Statement": [trust]}))["Role"]
    iam.put_role_policy(RoleName="role", PolicyName="policy", PolicyDocument=document(policy))
    given = boto3.client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="session")["Credentials"]
    return boto3.client(
        "s3",
        aws_access_key_id=given["AccessKeyId"],
        aws_secret_access_key=given["SecretAccessKey"],
        aws_session_token=given["SessionToken"],
    )


@pytest.mark.parametrize("function", ALLOWED)
def test_moto_and_the_guard_agree(new_stack: NewStack, function: str) -> None:
    """Moto refuses and allows the same S3 operations as the guard."""
    # moto, like S3, answers delete_objects with a list of errors; the guard refuses it as a whole.
    refused = [one[1:] for one in REFUSED[function] if one[0] == "s3" and one[1] != "delete_objects"]
    policy = read_policy(function)
    with new_stack(function, policy) as stack:
        guarded = {str(one): is_refused(getattr(stack.aws.s3, one[0]), **one[1]) for one in refused + ALLOWED[function]}
    with mock_aws():
        s3 = judged_by_moto(policy)
        for bucket in (INPUT, OUTPUT, "another-bucket"):
            boto3.client("s3").create_bucket(Bucket=bucket)
        with enable_iam_authentication():
            judged = {str(one): is_refused(getattr(s3, one[0]), **one[1]) for one in refused + ALLOWED[function]}
    assert judged == guarded
    assert set(guarded.values()) == {True, False}
