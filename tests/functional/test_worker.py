"""The loop of a segment worker: a segment that is announced twice is processed once."""

import json
import shutil
from pathlib import Path

from media_worker.completions import read_completions
from media_worker.keys import SegmentKey
from media_worker.worker import process_next_message

from tests.functional.conftest import ClipMaker
from tests.functional.stack import Stack, s3_event


def process_all(stack: Stack, keys: list[str]) -> list[int]:
    """Announce these segments and process all messages. Returns the indexes of the processed segments."""
    url = stack.aws.sqs.create_queue(QueueName="segments")["QueueUrl"]
    for key in keys:
        stack.aws.sqs.send_message(QueueUrl=url, MessageBody=json.dumps(s3_event(key)))
    processed: list[int] = []

    def process(segment: SegmentKey, source: Path, target: Path) -> None:
        processed.append(segment.segment_index)
        shutil.copyfile(source, target)

    while process_next_message(stack.aws, url, process, wait_s=0):
        pass
    return processed


def test_a_segment_that_is_announced_twice_is_processed_once(stack: Stack, clip: ClipMaker) -> None:
    """S3 and SQS deliver at least once."""
    stack.add_job()
    stack.upload(clip("plain"))
    assert stack.chunk() == []
    keys = stack.segment_keys()
    assert process_all(stack, [*keys, *keys]) == list(range(len(keys)))
    assert len(read_completions(stack.aws, "job-1")) == len(keys)
    assert stack.reassembly_messages() == [{"job_id": "job-1"}]


def test_a_segment_of_a_new_source_is_processed_again(stack: Stack, clip: ClipMaker) -> None:
    """It has the same key as the segment of the replaced source."""
    stack.add_job()
    stack.upload(clip("plain"))
    assert stack.chunk() == []
    assert process_all(stack, stack.segment_keys()[:1]) == [0]
    stack.upload(clip("two_audio"))
    stack.add_job()
    assert stack.chunk() == []
    assert process_all(stack, stack.segment_keys()[:1]) == [0]
