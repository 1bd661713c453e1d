"""Buckets, tables and queues that exist before the stack, as Terraform would create them."""

import json
from dataclasses import dataclass
from typing import Any

import boto3

BUCKETS = {"InputBucket": "input", "OutputBucket": "output"}
TABLES = {
    "JobsTable": ("jobs", {"job_id": "S"}),
    "SegmentCompletionsTable": ("completions", {"job_id": "S", "segment_index": "N"}),
    "ReassemblyTriggeredTable": ("triggered", {"job_id": "S"}),
}
QUEUES = ("Chunking", "Segment", "Reassembly")


@dataclass(frozen=True, slots=True)
class ExistingResources:
    """All names begin with `prefix`."""

    prefix: str
    environment: dict[str, str]

    def client(self, service: str) -> Any:
        return boto3.client(
            service,  # type: ignore[call-overload]
            endpoint_url=self.environment["AWS_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id="local",
            aws_secret_access_key="local",
        )

    def create(self) -> None:
        s3, dynamodb, sqs = self.client("s3"), self.client("dynamodb"), self.client("sqs")
        for name in BUCKETS.values():
            s3.create_bucket(Bucket=f"{self.prefix}-{name}")
        for name, keys in TABLES.values():
            dynamodb.create_table(
                TableName=f"{self.prefix}-{name}",
                BillingMode="PAY_PER_REQUEST",
                AttributeDefinitions=[{"AttributeName": key, "AttributeType": kind} for key, kind in keys.items()],
                KeySchema=[
                    {"AttributeName": key, "KeyType": kind} for key, kind in zip(keys, ("HASH", "RANGE"), strict=False)
                ],
            )
        for name in QUEUES:
            sqs.create_queue(QueueName=f"{self.prefix}-{name}-dead")
            redrive = {"deadLetterTargetArn": self.arn(f"{name}-dead"), "maxReceiveCount": "6"}
            attributes = {"VisibilityTimeout": "960", "RedrivePolicy": json.dumps(redrive)}
            sqs.create_queue(QueueName=f"{self.prefix}-{name}", Attributes=attributes)

    def arn(self, queue: str) -> str:
        return f"arn:aws:sqs:us-east-1:000000000000:{self.prefix}-{queue}"

    def url(self, queue: str) -> str:
        return str(self.client("sqs").get_queue_url(QueueName=f"{self.prefix}-{queue}")["QueueUrl"])

    @property
    def parameters(self) -> list[str]:
        """The parameters that make the stack use all of them."""
        given = {name: f"{self.prefix}-{suffix}" for name, suffix in BUCKETS.items()}
        given |= {name: f"{self.prefix}-{suffix}" for name, (suffix, _) in TABLES.items()}
        for name in QUEUES:
            given |= {f"{name}QueueArn": self.arn(name), f"{name}DeadLetterQueueArn": self.arn(f"{name}-dead")}
        return [f"Existing{name}={value}" for name, value in given.items()]

    @property
    def settings(self) -> dict[str, str]:
        """The settings of a process that uses them without a stack."""
        return {
            "INPUT_BUCKET_NAME": f"{self.prefix}-input",
            "OUTPUT_BUCKET_NAME": f"{self.prefix}-output",
            "JOBS_TABLE_NAME": f"{self.prefix}-jobs",
            "SEGMENT_COMPLETIONS_TABLE_NAME": f"{self.prefix}-completions",
            "REASSEMBLY_TRIGGERED_TABLE_NAME": f"{self.prefix}-triggered",
            "CHUNKING_QUEUE_URL": self.url("Chunking"),
            "REASSEMBLY_QUEUE_URL": self.url("Reassembly"),
            "SEGMENT_QUEUE_URL": self.url("Segment"),
        }

    def notify(self, configuration: Any) -> None:
        """Set the event notifications of the input bucket."""
        self.client("s3").put_bucket_notification_configuration(
            Bucket=f"{self.prefix}-input", NotificationConfiguration=configuration
        )

    def expire(self, bucket: str, configuration: Any) -> None:
        """Set the lifecycle rules of a bucket."""
        self.client("s3").put_bucket_lifecycle_configuration(
            Bucket=f"{self.prefix}-{bucket}", LifecycleConfiguration=configuration
        )

    def allow(self, queue: str, statement: Any) -> None:
        """Set the policy of a queue."""
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        self.client("sqs").set_queue_attributes(QueueUrl=self.url(queue), Attributes={"Policy": json.dumps(policy)})
