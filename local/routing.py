"""Which run gets which segment.

All jobs of a stack share one segment queue, so a run would receive, and hold up, segments of others. Therefore each
run has a queue of its own in the local cloud, and passes every message of the shared queue on to the queue of the run
that it belongs to, whoever happens to receive it. A message is copied first and deleted then: a crash between doubles
it, which a segment worker has to bear anyway, and never loses it.
"""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from media_worker.aws import Aws
from media_worker.jobs import JobStatus, read_job

from examples.segment_worker import segments_in

_POLL_S = 1
# After a crash between receiving and passing on, the next run gets the message this much later.
_HELD_S = 30
# A message of a job that no run works on is for a worker that the user has started: it gets this long to take it.
_PUT_BACK_S = 2
_OVER = (JobStatus.COMPLETED, JobStatus.DELETED)


def build_queue_name(job_id: str) -> str:
    """The name of a run's own queue. A job id may hold what a queue name may not."""
    return f"media-worker-run-{hashlib.sha256(job_id.encode()).hexdigest()[:32]}"


@contextmanager
def own_queue(aws: Aws, job_id: str) -> Iterator[str]:
    """The URL of a queue that gets this job's segments alone."""
    queue_url = aws.sqs.create_queue(QueueName=build_queue_name(job_id))["QueueUrl"]
    try:
        yield queue_url
    finally:
        aws.sqs.delete_queue(QueueUrl=queue_url)


def pass_on(aws: Aws, shared_queue_url: str, stop: threading.Event) -> None:
    """Pass messages on until told to stop. Ends within a second, and never with a message in hand."""
    while not stop.is_set():
        received = aws.sqs.receive_message(
            QueueUrl=shared_queue_url, MaxNumberOfMessages=10, WaitTimeSeconds=_POLL_S, VisibilityTimeout=_HELD_S
        ).get("Messages", [])
        for message in received:
            try:
                # S3 announces one object a message, so the first segment's job is the message's.
                job_id = next((segment.job_id for segment in segments_in(message["Body"])), None)
            except (ValueError, LookupError, TypeError, AttributeError):
                continue  # nobody can read it: it goes the queue's way to the dead letters
            if job_id:
                _route(aws, shared_queue_url, job_id, message["Body"])
            aws.sqs.delete_message(QueueUrl=shared_queue_url, ReceiptHandle=message["ReceiptHandle"])


def _route(aws: Aws, shared_queue_url: str, job_id: str, body: str) -> None:
    try:
        queue_url = aws.sqs.get_queue_url(QueueName=build_queue_name(job_id))["QueueUrl"]
        aws.sqs.send_message(QueueUrl=queue_url, MessageBody=body)
    except aws.sqs.exceptions.QueueDoesNotExist:
        job = read_job(aws, job_id)
        if job and job.status not in _OVER:
            # A copy, because making the old one visible again would count as one more failed receive.
            aws.sqs.send_message(QueueUrl=shared_queue_url, MessageBody=body, DelaySeconds=_PUT_BACK_S)
