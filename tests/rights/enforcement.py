"""Clients that may do what a policy allows. Every request is checked before it is sent, as IAM checks it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from botocore.exceptions import ClientError
from media_worker.aws import Aws
from media_worker.settings import Settings

from tests.rights.policies import Policy, queue_arn, table_arn

type Right = tuple[str, str]
type Parameters = Mapping[str, Any]


class Guard:
    """Guarded clients, the current policy, and every right that was refused.

    Creating clients is slow, so they are reused with other policies.
    """

    def __init__(self, settings: Settings) -> None:
        # The KMS key that encrypts all buckets, queues and tables.
        self.key: str | None = None
        self.aws = Aws.connect(settings)
        self.take(Policy(()))
        for client in (self.aws.s3, self.aws.sqs, self.aws.dynamodb):
            client.meta.events.register("before-parameter-build", self._judge)
            client.meta.events.register("after-call.s3", self._hide_absence)

    def take(self, policy: Policy) -> None:
        """Check by this policy from now on."""
        self.policy = policy
        self.refused: list[Right] = []

    def _judge(self, params: Parameters, model: Any, context: dict[str, Any], **_: Any) -> None:
        service, operation = model.service_model.service_name, model.name
        context["judged"] = params
        for right in required_rights(service, operation, params) + key_rights(service, operation, self.key):
            if not self.policy.allows(*right):
                self.refused.append(right)
                raise denial(service, operation, right)

    def _hide_absence(self, parsed: dict[str, Any], context: Mapping[str, Any], **_: Any) -> None:
        """S3 reveals that an object does not exist only to callers who may list the bucket
        (https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadObject.html).
        """
        right = "s3:ListBucket", f"arn:aws:s3:::{context['judged'].get('Bucket')}"
        absent = parsed.get("Error", {}).get("Code") in {"404", "NoSuchKey"}
        if absent and not self.policy.allows(*right):
            self.refused.append(right)
            parsed["Error"]["Code"] = "403"


def denial(service: str, operation: str, right: Right) -> ClientError:
    """The error of the service for a request that is not allowed."""
    code = {"s3": "AccessDenied", "sqs": "AccessDenied", "dynamodb": "AccessDeniedException"}[service]
    error = {"Code": "403" if operation.startswith("Head") else code, "Message": " on ".join(right)}
    return ClientError({"Error": error, "ResponseMetadata": {"HTTPStatusCode": 403}}, operation)  # type: ignore[typeddict-item]


def required_rights(service: str, operation: str, params: Parameters) -> list[Right]:
    """The rights that a request needs (https://docs.aws.amazon.com/service-authorization/latest/reference/).

    An operation that is not known here needs itself on every resource, which none of our policies allows.
    """
    match service:
        case "s3":
            return list(_s3_rights(operation, params))
        case "sqs":
            queue = params.get("QueueUrl", "").rpartition("/")[2]
            return [(f"sqs:{operation.removesuffix('Batch')}", queue_arn(queue) if queue else "*")]
        case "dynamodb" if operation == "TransactWriteItems":
            items = [item for each in params["TransactItems"] for item in each.items()]
            names = {"ConditionCheck": "ConditionCheckItem", "Put": "PutItem", "Update": "UpdateItem"}
            return [(f"dynamodb:{names[action]}", table_arn(item["TableName"])) for action, item in items]
        case "dynamodb":
            table = table_arn(params["TableName"]) if "TableName" in params else "*"
            index = f"/index/{params['IndexName']}" if "IndexName" in params else ""
            return [(f"dynamodb:{operation}", table + index)]
    return [(f"{service}:{operation}", "*")]


_READ, _WRITE = "kms:Decrypt", "kms:GenerateDataKey"
# By https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingKMSEncryption.html (a multipart upload needs both) and
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-key-management.html
_ON_KEY = {
    "GetObject": (_READ,),
    "PutObject": (_WRITE,),
    "CopyObject": (_READ, _WRITE),
    "CreateMultipartUpload": (_WRITE,),
    "UploadPart": (_READ,),
    "UploadPartCopy": (_READ,),
    "CompleteMultipartUpload": (_READ,),
    "SendMessage": (_READ, _WRITE),
    "SendMessageBatch": (_READ, _WRITE),
    "ReceiveMessage": (_READ,),
}


def key_rights(service: str, operation: str, key: str | None) -> list[Right]:
    """The rights to the key of an encrypted bucket, queue or table. DynamoDB decrypts the table's key for its caller
    (https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/encryption.usagenotes.html).
    """
    if key is None:
        return []
    actions = (_READ,) if service == "dynamodb" else _ON_KEY.get(operation, ())
    return [(action, key) for action in actions]


_ON_OBJECT = {
    "HeadObject": "s3:GetObject",
    "GetObject": "s3:GetObject",
    "PutObject": "s3:PutObject",
    "CopyObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "UploadPart": "s3:PutObject",
    "UploadPartCopy": "s3:PutObject",
    "CompleteMultipartUpload": "s3:PutObject",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "ListParts": "s3:ListMultipartUploadParts",
    "DeleteObject": "s3:DeleteObject",
    "GetObjectTagging": "s3:GetObjectTagging",
    "PutObjectTagging": "s3:PutObjectTagging",
    "PutObjectAcl": "s3:PutObjectAcl",
}
_ON_BUCKET = {
    "HeadBucket": "s3:ListBucket",
    "ListObjects": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
}
# The rights that a parameter needs beside the operation. A write with If-Match reveals whether an object exists.
_ON_OBJECT_BY_PARAMETER = {"IfMatch": "s3:GetObject", "Tagging": "s3:PutObjectTagging", "ACL": "s3:PutObjectAcl"}


def _s3_rights(operation: str, params: Parameters) -> Iterator[Right]:
    bucket = f"arn:aws:s3:::{params.get('Bucket', '*')}"
    if operation in _ON_OBJECT:
        needed = {_ON_OBJECT[operation]}
        needed |= {action for name, action in _ON_OBJECT_BY_PARAMETER.items() if name in params}
        yield from ((action, f"{bucket}/{params['Key']}") for action in sorted(needed))
    elif operation == "DeleteObjects":
        yield from (("s3:DeleteObject", f"{bucket}/{one['Key']}") for one in params["Delete"]["Objects"])
    else:
        yield _ON_BUCKET.get(operation, f"s3:{operation}"), bucket
    if "CopySource" in params:
        yield "s3:GetObject", f"arn:aws:s3:::{_copied(params['CopySource'])}"


def _copied(source: str | Mapping[str, str]) -> str:
    """`bucket/key` of the copy source, which is a dict or text before botocore builds the request."""
    return source if isinstance(source, str) else f"{source['Bucket']}/{source['Key']}"


def is_refused(call: Callable[..., Any], **params: Any) -> bool:
    """Whether the guard refuses a call."""
    try:
        call(**params)
    except ClientError as error:
        status = cast("Mapping[str, Any]", error.response["ResponseMetadata"]).get("HTTPStatusCode")
        return status == 403
    return False
