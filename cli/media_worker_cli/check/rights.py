"""Who calls, and the rights of segment workers."""

import boto3
from botocore.exceptions import ClientError
from media_worker.aws import Aws
from media_worker.keys import build_source_key

from media_worker_cli.check.smoke import DENIED, Disproven, NotChecked, Smoke


def who_calls(smoke: Smoke) -> str:
    """The caller and the region."""
    arn = smoke.client("sts").get_caller_identity()["Arn"]
    return f"{arn} in {smoke.aws.settings.aws_region}"


def worker_rights(smoke: Smoke) -> str:
    """Get credentials with the rights of a segment worker. The next steps use them."""
    policy = smoke.stack.outputs.get("SegmentWorkerPolicyArn")
    session, how = _assume_worker(smoke, policy)
    worker = Aws.connect(smoke.aws.settings, session)
    source = build_source_key(smoke.trial("copy").job_id)
    try:
        worker.s3.head_object(Bucket=smoke.aws.settings.input_bucket_name, Key=source)
    except ClientError as error:
        if error.response["Error"]["Code"] not in DENIED:
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
