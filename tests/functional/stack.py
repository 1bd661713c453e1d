"""A stack in moto: what template.yaml makes, the handlers, and a segment worker that changes nothing."""

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
from media_worker.keys import build_final_key, build_output_segment_key, build_source_key, parse_segment_key
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
    # What takes everything; tests of the choice say what they want on the job.
    "ENGINE": "ffmpeg",
}


@dataclass
class LambdaContext:
    """Lambda's context object, with time that a test sets."""

    remaining_ms: int = 900_000
    function_name: str = "test"
    memory_limit_in_mb: int = 2048
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:test"
    aws_request_id: str = "request"

    def get_remaining_time_in_millis(self) -> int:
        return self.remaining_ms


@dataclass
class Stack:
    """The stack and everything a test does to it."""

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

    # What a user does

    def add_job(self, job_id: str = "job-1", **attributes: Any) -> None:
        row = {"job_id": {"S": job_id}, "mode": {"S": "sbs"}, "status": {"S": "created"}, "created_at": {"N": "1"}}
        self.aws.dynamodb.put_item(TableName="Jobs", Item=row | attributes)

    def upload(self, source: Path | bytes, job_id: str = "job-1") -> None:
        body = source if isinstance(source, bytes) else source.read_bytes()
        self.aws.s3.put_object(Bucket=INPUT, Key=build_source_key(job_id), Body=body)

    # What AWS does

    def chunk(self, job_id: str = "job-1", **options: Any) -> list[str]:
        """Deliver the S3 event of a job's source; the ids of the records that have to come back."""
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

    # What a segment worker does

    def process_segments(self, job_id: str = "job-1", change: Callable[[int, bytes], bytes] | None = None) -> None:
        """Copy every segment to where processed segments go, and record it."""
        for key in self.segment_keys(job_id):
            parts = parse_segment_key(INPUT, key)
            assert parts
            body = self.read(INPUT, key)
            self.put_processed(parts.segment_index, change(parts.segment_index, body) if change else body, job_id)

    def put_processed(self, index: int, body: bytes, job_id: str = "job-1") -> None:
        key = build_output_segment_key(job_id, index)
        self.aws.s3.put_object(Bucket=OUTPUT, Key=key, Body=body)
        record_segment(self.aws, job_id=job_id, segment_index=index, output_s3_uri=f"s3://{OUTPUT}/{key}")

    # What a test looks at

    def segment_keys(self, job_id: str = "job-1") -> list[str]:
        listing = self.aws.s3.list_objects_v2(Bucket=INPUT, Prefix=f"segments/{job_id}/")
        return [entry["Key"] for entry in listing.get("Contents", []) if not entry["Key"].endswith("plan.json")]

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

    def reassembly_messages(self) -> list[dict[str, Any]]:
        """Take everything out of the reassembly queue."""
        url = self.aws.settings.reassembly_queue_url
        messages = self.aws.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", [])
        for message in messages:
            self.aws.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return [json.loads(message["Body"]) for message in messages]

    def leftovers(self) -> list[Path]:
        """What is left in /tmp."""
        return [path for path in (self.temporary / "media-worker").glob("*") if path.is_dir()]


def s3_event(key: str, bucket: str = INPUT) -> dict[str, Any]:
    """An S3 event notification, its key encoded as S3 does."""
    record = {
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": bucket}, "object": {"key": quote_plus(key, safe="/")}},
    }
    return {"Records": [record]}


def sqs_event(*bodies: Any, receive_count: int = 1) -> dict[str, Any]:
    """An SQS batch; a body that is no text is sent as JSON."""
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
    """A table with a hash key and perhaps a range key."""
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
