"""A stack in moto with the resources of template.yaml, the two handlers, and a segment worker that changes nothing."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from media_worker.aws import Aws
from media_worker.completions import record_segment
from media_worker.handlers import build_chunking_handler, build_reassembly_handler
from media_worker.jobs import Job, read_job
from media_worker.keys import (
    build_final_key,
    build_output_segment_key,
    build_plan_key,
    build_source_key,
    parse_segment_key,
)
from media_worker.plan import digest_of
from media_worker.settings import Settings
from media_worker_cli.local.ffmpeg import ffmpeg_path

INPUT, OUTPUT = "test-input", "test-output"
ENVIRONMENT = {
    "INPUT_BUCKET_NAME": INPUT,
    "OUTPUT_BUCKET_NAME": OUTPUT,
    "JOBS_TABLE_NAME": "Jobs",
    "SEGMENT_COMPLETIONS_TABLE_NAME": "SegmentCompletions",
    "REASSEMBLY_TRIGGERED_TABLE_NAME": "ReassemblyTriggered",
    "CHUNKING_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/123456789012/chunking",
    "REASSEMBLY_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/123456789012/reassembly",
    "CHUNK_SEGMENT_DURATION_SEC": "4",
    "FFMPEG_PATH": str(ffmpeg_path()),
}


@dataclass
class LambdaContext:
    """Lambda's context object; the test sets the remaining time."""

    remaining_ms: int = 900_000
    function_name: str = "test"
    memory_limit_in_mb: int = 2048
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:test"
    aws_request_id: str = "request"

    def get_remaining_time_in_millis(self) -> int:
        return self.remaining_ms


@dataclass
class Stack:
    """The stack and everything that a test does with it."""

    aws: Aws
    temporary: Path
    context: LambdaContext = field(default_factory=LambdaContext)

    @classmethod
    def create(cls, temporary: Path, aws: Aws | None = None) -> "Stack":
        aws = aws or Aws.connect(Settings.from_environment(ENVIRONMENT))
        for bucket in (INPUT, OUTPUT):
            aws.s3.create_bucket(Bucket=bucket)
        for queue in ("chunking", "reassembly"):
            aws.sqs.create_queue(QueueName=queue)
        create_table(aws, "Jobs", job_id="S")
        create_table(aws, "SegmentCompletions", job_id="S", segment_index="N")
        create_table(aws, "ReassemblyTriggered", job_id="S")
        return cls(aws, temporary)

    # The user

    def add_job(self, job_id: str = "job-1", **attributes: Any) -> None:
        row = {"job_id": {"S": job_id}, "mode": {"S": "sbs"}, "status": {"S": "created"}, "created_at": {"N": "1"}}
        self.aws.dynamodb.put_item(TableName="Jobs", Item=row | attributes)

    def set_job(self, job_id: str = "job-1", **attributes: Any) -> None:
        """Change attributes of the job's row; None removes one."""
        row = self.row("Jobs", job_id) | attributes
        item = {name: value for name, value in row.items() if value is not None}
        self.aws.dynamodb.put_item(TableName="Jobs", Item=item)

    def upload(self, source: Path | bytes, job_id: str = "job-1") -> None:
        body = source if isinstance(source, bytes) else source.read_bytes()
        self.aws.s3.put_object(Bucket=INPUT, Key=build_source_key(job_id), Body=body)

    # AWS

    def chunk(self, job_id: str = "job-1", **options: Any) -> list[str]:
        """Deliver the S3 event of a job's source. Returns the ids of the records that are returned to the queue."""
        return self.deliver(self.chunking, s3_event(build_source_key(job_id)), **options)

    def reassemble(self, job_id: str = "job-1", **options: Any) -> list[str]:
        return self.deliver(self.reassembly, {"job_id": job_id}, **options)

    def deliver(self, handler: Callable[..., Mapping[str, Any]], *bodies: Any, receive_count: int = 1) -> list[str]:
        event = sqs_event(*bodies, receive_count=receive_count)
        return [failure["itemIdentifier"] for failure in handler(event, self.context)["batchItemFailures"]]

    @property
    def chunking(self) -> Callable[..., Mapping[str, Any]]:
        return build_chunking_handler(self.aws)

    @property
    def reassembly(self) -> Callable[..., Mapping[str, Any]]:
        return build_reassembly_handler(self.aws)

    # The segment worker

    def process_segments(self, job_id: str = "job-1", change: Callable[[int, bytes], bytes] | None = None) -> None:
        """Process every segment of the job's plan: change or copy it, upload the result and record it."""
        for key in self.segment_keys(job_id):
            parts = parse_segment_key(INPUT, key)
            plan = self.head(INPUT, key)["Metadata"].get("plan")
            if parts and plan == self.job(job_id).plan:
                body = self.read(INPUT, key)
                body = change(parts.segment_index, body) if change else body
                self.put_processed(parts.segment_index, body, job_id, plan)

    def put_processed(self, index: int, body: bytes, job_id: str = "job-1", plan: str | None = None) -> None:
        key = build_output_segment_key(job_id, index)
        self.aws.s3.put_object(Bucket=OUTPUT, Key=key, Body=body, Metadata={"plan": plan} if plan else {})
        record_segment(self.aws, job_id=job_id, segment_index=index, output_s3_uri=f"s3://{OUTPUT}/{key}", plan=plan)

    # Results

    def segment_keys(self, job_id: str = "job-1") -> list[str]:
        listing = self.aws.s3.list_objects_v2(Bucket=INPUT, Prefix=f"segments/{job_id}/")
        return [entry["Key"] for entry in listing.get("Contents", []) if entry["Key"].endswith(".mp4")]

    def head(self, bucket: str, key: str) -> Mapping[str, Any]:
        return self.aws.s3.head_object(Bucket=bucket, Key=key)

    def read(self, bucket: str, key: str) -> bytes:
        return self.aws.s3.get_object(Bucket=bucket, Key=key)["Body"].read()

    def save_final(self, path: Path, job_id: str = "job-1") -> Path:
        path.write_bytes(self.read(OUTPUT, build_final_key(job_id)))
        return path

    def save_segments(self, folder: Path, job_id: str = "job-1") -> list[Path]:
        paths = []
        for key in self.segment_keys(job_id):
            paths.append(folder / Path(key).name)
            paths[-1].write_bytes(self.read(INPUT, key))
        return paths

    def job(self, job_id: str = "job-1") -> Job:
        job = read_job(self.aws, job_id)
        assert job
        return job

    def row(self, table: str, job_id: str = "job-1") -> dict[str, Any]:
        return dict(self.aws.dynamodb.get_item(TableName=table, Key={"job_id": {"S": job_id}}).get("Item", {}))

    def store_plan(self, plan: bytes, job_id: str = "job-1") -> None:
        """Replace the plan of a job whose chunking has not ended."""
        self.aws.s3.put_object(Bucket=INPUT, Key=build_plan_key(job_id), Body=plan)
        self.set_job(job_id, status={"S": "chunking_in_progress"}, plan={"S": digest_of(plan)})

    def reassembly_messages(self) -> list[dict[str, Any]]:
        """Receive and delete all messages of the reassembly queue."""
        url = self.aws.settings.reassembly_queue_url
        messages = self.aws.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
        for message in messages:
            self.aws.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return [json.loads(message["Body"]) for message in messages]

    def leftovers(self) -> list[Path]:
        """The work directories that are left in the temporary directory."""
        return [path for path in (self.temporary / "media-worker").glob("*") if path.is_dir()]


def s3_event(key: str, bucket: str = INPUT) -> dict[str, Any]:
    """An S3 event notification. The key is encoded as S3 encodes it."""
    record = {
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": bucket}, "object": {"key": quote_plus(key, safe="/")}},
    }
    return {"Records": [record]}


def sqs_event(*bodies: Any, receive_count: int = 1) -> dict[str, Any]:
    """An SQS batch. A body that is not text is sent as JSON."""
    return {
        "Records": [
            {
                "messageId": f"message-{number}",
                "receiptHandle": f"receipt-{number}",
                "body": body if isinstance(body, str) else json.dumps(body),
                "attributes": {"ApproximateReceiveCount": str(receive_count)},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:chunking",
                "awsRegion": "us-east-1",
            }
            for number, body in enumerate(bodies)
        ]
    }


def create_table(aws: Aws, name: str, **keys: str) -> None:
    """Create a table with a hash key and an optional range key."""
    aws.dynamodb.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[
            {"AttributeName": key, "AttributeType": kind}  # type: ignore[typeddict-item]
            for key, kind in keys.items()
        ],
        KeySchema=[
            {"AttributeName": key, "KeyType": kind}  # type: ignore[typeddict-item]
            for key, kind in zip(keys, ("HASH", "RANGE"), strict=False)
        ],
    )
