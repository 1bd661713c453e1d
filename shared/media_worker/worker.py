"""The loop of a segment worker: receive a message, process its segments, upload and record the results."""

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote_plus

from media_worker.completions import is_processed, record_segment, require_current_plan
from media_worker.jobs import read_job
from media_worker.keys import SegmentKey, build_output_segment_key, build_segment_key, parse_segment_key

if TYPE_CHECKING:
    from media_worker.aws import Aws

# The visibility timeout of a message until the worker has it in hand. Short, so that a message that was sent to a
# worker which has just died is soon delivered again.
RECEIVE_VISIBILITY_S = 60
# The visibility timeout while its segments are processed. It has to be longer than the slowest segment takes.
PROCESSING_VISIBILITY_S = 6 * 3600

Process: TypeAlias = Callable[[SegmentKey, Path, Path], None]


def process_next_message(aws: "Aws", queue_url: str, process: Process, wait_s: int = 20) -> bool:
    """Wait up to `wait_s` for a message and process its segments. Returns whether there was a message.

    `process(segment, source, target)` reads the file `source` and writes the file `target`. The message is deleted
    last, so after a crash SQS delivers it again.
    """
    messages = aws.sqs.receive_message(
        QueueUrl=queue_url, WaitTimeSeconds=wait_s, VisibilityTimeout=RECEIVE_VISIBILITY_S
    ).get("Messages", [])
    for message in messages:
        receipt = message["ReceiptHandle"]
        aws.sqs.change_message_visibility(
            QueueUrl=queue_url, ReceiptHandle=receipt, VisibilityTimeout=PROCESSING_VISIBILITY_S
        )
        for segment in parse_segments(message["Body"]):
            process_segment(aws, segment, process)
        aws.sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=receipt)
    return bool(messages)


def parse_segments(body: str) -> list[SegmentKey]:
    """The segments that an S3 event notification announces. S3 URL-encodes the keys in it."""
    objects = [record["s3"] for record in json.loads(body).get("Records", [])]
    keys = [parse_segment_key(found["bucket"]["name"], unquote_plus(found["object"]["key"])) for found in objects]
    return [key for key in keys if key]


def process_segment(aws: "Aws", segment: SegmentKey, process: Process) -> None:
    """Process a segment, upload the result and record it. After the last segment this triggers the reassembly.

    S3 and SQS may announce a segment more than once; a segment that has its completion is not processed again.
    """
    job_id, index = segment.job_id, segment.segment_index
    source_key = build_segment_key(job_id, index, segment.total_segments, segment.mode)
    bucket, key = aws.settings.output_bucket_name, build_output_segment_key(job_id, index)
    plan = aws.s3.head_object(Bucket=segment.bucket, Key=source_key)["Metadata"].get("plan")
    if not is_processed(aws, job_id=job_id, segment_index=index, plan=plan):
        with TemporaryDirectory(prefix="segment-") as directory:
            source, target = Path(directory, "segment.mp4"), Path(directory, "processed.mp4")
            aws.s3.download_file(segment.bucket, source_key, str(source))
            process(segment, source, target)
            require_current_plan(read_job(aws, job_id), plan)
            aws.s3.upload_file(str(target), bucket, key, ExtraArgs={"Metadata": {"plan": plan} if plan else {}})
    record_segment(aws, job_id=job_id, segment_index=index, output_s3_uri=f"s3://{bucket}/{key}", plan=plan)
