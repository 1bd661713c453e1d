"""The AWS clients: made once, outside the handlers, and passed to everything that calls AWS."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import boto3
from botocore.config import Config

from media_worker.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient

# Ranged downloads and part uploads run at most this many at once, so that no call waits for a connection.
CONNECTIONS = 48


def resolve_region() -> str:
    """The region of AWS_DEFAULT_REGION or of the profile, else us-east-1. boto3 does not read AWS_REGION."""
    return boto3.Session().region_name or "us-east-1"


@dataclass(frozen=True, slots=True)
class Aws:
    """The stack's settings and the clients to reach it."""

    settings: Settings
    s3: "S3Client"
    sqs: "SQSClient"
    dynamodb: "DynamoDBClient"

    @classmethod
    def connect(cls, settings: Settings, session: boto3.Session | None = None) -> "Aws":
        """Create the clients, with the credentials of `session` if there is one. Makes no network call."""
        # Emulators answer on one host name, so the bucket must be in the path; on AWS, boto3 chooses.
        settings = replace(settings, aws_region=settings.aws_region or resolve_region())
        endpoint = settings.aws_endpoint_url
        s3_endpoint = settings.aws_endpoint_url_s3 or endpoint
        addressing: Literal["path", "auto"] = "path" if s3_endpoint else "auto"
        config = Config(
            region_name=settings.aws_region,
            connect_timeout=5,
            read_timeout=60,
            retries={"mode": "standard", "max_attempts": 5},
            max_pool_connections=CONNECTIONS,
            s3={"addressing_style": addressing},
        )
        session = session or boto3.Session(region_name=settings.aws_region)
        return cls(
            settings,
            session.client("s3", endpoint_url=s3_endpoint, config=config),
            session.client("sqs", endpoint_url=endpoint, config=config),
            session.client("dynamodb", endpoint_url=endpoint, config=config),
        )


def connect_event_bus() -> Any:
    """The client of EventBridge, for the events function, which needs no other. Makes no network call."""
    config = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "max_attempts": 5})
    return boto3.client("events", config=config)
