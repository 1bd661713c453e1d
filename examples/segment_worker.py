"""A complete segment worker: take a segment from the queue, run a command on it, hand back what that made.

    python examples/segment_worker.py ffmpeg -i {input} -vf negate -c:a copy {output}

The environment holds SEGMENT_QUEUE_URL and the settings of the functions; `media-worker status --env` prints them.
"""

import json
import os
import subprocess  # noqa: TID251 - a worker of one's own starts what it likes
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote_plus

from media_worker.aws import Aws
from media_worker.completions import is_processed, record_segment
from media_worker.keys import SegmentKey, build_output_segment_key, build_segment_key, parse_segment_key
from media_worker.settings import Settings

RECEIPT_S = 60  # a message on its way to a worker that has just died comes back after this
LONGEST_WORK_S = 6 * 3600  # one that is worked on comes back after this

type Process = Callable[[SegmentKey, Path, Path], None]


def work_on_next(aws: Aws, queue_url: str, process: Process, wait_s: int = 20) -> bool:
    """Work on the next message, if one comes within `wait_s`. It is deleted last: after a crash it comes back."""
    received = aws.sqs.receive_message(QueueUrl=queue_url, WaitTimeSeconds=wait_s, VisibilityTimeout=RECEIPT_S)
    for message in received.get("Messages", []):
        receipt = message["ReceiptHandle"]
        aws.sqs.change_message_visibility(QueueUrl=queue_url, ReceiptHandle=receipt, VisibilityTimeout=LONGEST_WORK_S)
        for segment in segments_in(message["Body"]):
            work_on(aws, segment, process)
        aws.sqs.delete_message(QueueUrl=queue_url, ReceiptHandle=receipt)
    return bool(received.get("Messages"))


def segments_in(body: str) -> list[SegmentKey]:
    """The segments that an S3 event notification announces; in it, keys are URL-encoded."""
    places = [record["s3"] for record in json.loads(body).get("Records", [])]
    keys = [parse_segment_key(place["bucket"]["name"], unquote_plus(place["object"]["key"])) for place in places]
    return [key for key in keys if key]


def work_on(aws: Aws, segment: SegmentKey, process: Process) -> None:
    """Process a segment unless that is done, and say so; after the last one that asks for the reassembly."""
    job_id, index = segment.job_id, segment.segment_index
    source_key = build_segment_key(job_id, index, segment.total_segments, segment.mode)
    bucket, key = aws.settings.output_bucket_name, build_output_segment_key(job_id, index)
    etag = aws.s3.head_object(Bucket=segment.bucket, Key=source_key)["Metadata"].get("source-etag")
    if not is_processed(aws, job_id=job_id, segment_index=index, source_etag=etag):  # S3 and SQS may say it twice
        with TemporaryDirectory(prefix="segment-") as directory:
            source, processed = Path(directory, "segment.mp4"), Path(directory, "processed.mp4")
            aws.s3.download_file(segment.bucket, source_key, str(source))
            process(segment, source, processed)
            aws.s3.upload_file(str(processed), bucket, key)
    record_segment(aws, job_id=job_id, segment_index=index, output_s3_uri=f"s3://{bucket}/{key}", source_etag=etag)


def run_command(_segment: SegmentKey, source: Path, processed: Path) -> None:
    """Run the command that this program was given, with the two files filled in."""
    files = {"{input}": str(source), "{output}": str(processed)}
    subprocess.run([files.get(word, word) for word in sys.argv[1:]], check=True)


if __name__ == "__main__":
    connected = Aws.connect(Settings.from_environment(os.environ))
    while True:
        work_on_next(connected, os.environ["SEGMENT_QUEUE_URL"], run_command)
