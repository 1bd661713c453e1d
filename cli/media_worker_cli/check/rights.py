"""Who calls, and the rights of segment workers."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import boto3
from botocore.exceptions import ClientError
from media_worker.aws import Aws
from media_worker.keys import (
    DEFAULT_MODE,
    build_final_key,
    build_output_segment_key,
    build_segment_key,
    build_source_key,
)

from media_worker_cli.check.smoke import SEGMENTS, Disproven, NotChecked, Smoke, permitted
from media_worker_cli.errors import ACCESS_DENIED

_Rights = Mapping[str, tuple[str, ...]]

# What the worker kit does, by resource. A test compares it with docs/segment-worker-policy.json.
USED: _Rights = {
    "segment queue": (
        *("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"),
        *("sqs:GetQueueAttributes", "sqs:SendMessage"),
    ),
    "input bucket": ("s3:ListBucket",),
    "segment": ("s3:GetObject",),
    "output bucket": ("s3:ListBucket",),
    "processed segment": ("s3:PutObject", "s3:PutObjectTagging", "s3:AbortMultipartUpload", "s3:GetObject"),
    "Jobs": ("dynamodb:GetItem", "dynamodb:ConditionCheckItem", "dynamodb:UpdateItem"),
    "SegmentCompletions": ("dynamodb:GetItem", "dynamodb:Query", "dynamodb:PutItem"),
    "SegmentAttempts": ("dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"),
    "ReassemblyTriggered": ("dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"),
    "reassembly queue": ("sqs:SendMessage",),
    "KMS key": ("kms:Decrypt", "kms:GenerateDataKey"),
}
# Workers often run in images that other teams make.
_FORBIDDEN: _Rights = {
    "source": ("s3:GetObject",),
    "processed segment": ("s3:DeleteObject",),
    "final": ("s3:PutObject",),
    "Jobs": ("dynamodb:Scan", "dynamodb:DeleteItem"),
    "SegmentCompletions": ("dynamodb:DeleteItem",),
}


def who_calls(smoke: Smoke) -> str:
    """The caller and the region."""
    arn = smoke.client("sts").get_caller_identity()["Arn"]
    return f"{arn} in {smoke.aws.settings.aws_region}"


def worker_policy(smoke: Smoke) -> str:
    """The stack's managed policy allows what a worker does, and not what it must not do. IAM evaluates the policy."""
    arn = smoke.stack.outputs.get("SegmentWorkerPolicyArn")
    if arn is None:
        raise NotChecked("the stack has no output SegmentWorkerPolicyArn")
    iam = smoke.client("iam")
    document, resources = _read_policy(iam, arn), _resources(smoke, arn)
    used = dict(_decisions(iam, document, USED, resources))
    forbidden = dict(_decisions(iam, document, _FORBIDDEN, resources))
    wrong = [f"it does not allow {right}" for right, is_allowed in used.items() if not is_allowed]
    wrong += [f"it allows {right}" for right, is_allowed in forbidden.items() if is_allowed]
    if wrong:
        raise Disproven(f"{arn}: {'; '.join(wrong)}", "deploy the stack again, which sets the policy")
    return f"allows all {len(used)} rights that a worker uses, and none of {len(forbidden)} that it must not have"


def _read_policy(iam: Any, arn: str) -> str:
    with permitted("iam:GetPolicy"):
        version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    with permitted("iam:GetPolicyVersion"):
        return json.dumps(iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"])


def _resources(smoke: Smoke, policy: str) -> Mapping[str, str]:
    """The ARN of each resource that this stack has. The policy is in the stack's partition and account."""
    _, partition, _, _, account, _ = policy.split(":", 5)
    settings, job_id = smoke.aws.settings, smoke.trials[0].job_id
    inputs = f"arn:{partition}:s3:::{settings.input_bucket_name}"
    outputs = f"arn:{partition}:s3:::{settings.output_bucket_name}"
    tables = f"arn:{partition}:dynamodb:{settings.aws_region}:{account}:table"
    found = {
        "input bucket": inputs,
        "source": f"{inputs}/{build_source_key(job_id)}",
        "segment": f"{inputs}/{build_segment_key(job_id, 0, SEGMENTS, DEFAULT_MODE)}",
        "output bucket": outputs,
        "processed segment": f"{outputs}/{build_output_segment_key(job_id, 0)}",
        "final": f"{outputs}/{build_final_key(job_id)}",
        "Jobs": f"{tables}/{settings.jobs_table_name}",
        "SegmentCompletions": f"{tables}/{settings.segment_completions_table_name}",
        "ReassemblyTriggered": f"{tables}/{settings.reassembly_triggered_table_name}",
        "segment queue": _queue_arn(smoke, smoke.stack.segment_queue_url),
        "reassembly queue": _queue_arn(smoke, settings.reassembly_queue_url),
    }
    if settings.segment_attempts_table_name:
        found["SegmentAttempts"] = f"{tables}/{settings.segment_attempts_table_name}"
    if key := smoke.stack.parameters.get("KmsKeyArn"):
        found["KMS key"] = key
    return found


def _queue_arn(smoke: Smoke, url: str) -> str:
    return smoke.aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]


def _decisions(iam: Any, document: str, rights: _Rights, resources: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """Each right, and whether the policy allows it.

    One resource per request: of several, IAM gives the most restrictive decision
    (https://docs.aws.amazon.com/IAM/latest/APIReference/API_EvaluationResult.html).
    """
    for name, actions in rights.items():
        if name not in resources:
            continue
        asked = {"PolicyInputList": [document], "ActionNames": actions, "ResourceArns": [resources[name]]}
        with permitted("iam:SimulateCustomPolicy"):
            pages = list(iam.get_paginator("simulate_custom_policy").paginate(**asked))
        results = [each for page in pages for each in page["EvaluationResults"]]
        allowed = {each["EvalActionName"] for each in results if each["EvalDecision"] == "allowed"}
        yield from ((f"{action} on {resources[name]}", action in allowed) for action in actions)


def worker_rights(smoke: Smoke) -> str:
    """Get credentials with the rights of a segment worker. The next steps use them."""
    policy = smoke.stack.outputs.get("SegmentWorkerPolicyArn")
    session, how = _assume_worker(smoke, policy)
    worker = Aws.connect(smoke.aws.settings, session)
    source = build_source_key(smoke.trial("copy").job_id)
    try:
        worker.s3.head_object(Bucket=smoke.aws.settings.input_bucket_name, Key=source)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ACCESS_DENIED:
            raise
    else:
        raise NotChecked(f"{how} may read sources, which workers may not: rights are not enforced here")
    smoke.worker = worker
    return f"{how}; sources are denied to it"


def _assume_worker(smoke: Smoke, policy: str | None) -> tuple[boto3.Session, str]:
    sts = smoke.client("sts")
    try:
        if smoke.worker_role:
            answer = sts.assume_role(RoleArn=smoke.worker_role, RoleSessionName="media-worker-check")
            how = smoke.worker_role
        elif policy:
            # The caller's rights, limited to the policy. AWS gives this to IAM users, not to roles:
            # https://docs.aws.amazon.com/STS/latest/APIReference/API_GetFederationToken.html
            answer = sts.get_federation_token(Name="media-worker-check", PolicyArns=[{"arn": policy}])
            how = "a session limited to the managed policy"
        else:
            raise NotChecked("the stack has no output SegmentWorkerPolicyArn")
    except ClientError as error:
        if smoke.worker_role:
            raise Disproven(f"{smoke.worker_role} cannot be assumed: {error}", "let the role trust you") from error
        raise NotChecked(
            f"no session with the managed policy ({error.response['Error']['Code']}): run the check as an IAM user, or "
            "name the role of your workers with --worker-role"
        ) from error
    given = answer["Credentials"]
    keys = (given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
    return boto3.Session(*keys, region_name=smoke.aws.settings.aws_region), how
