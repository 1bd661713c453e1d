"""Hostile messages: no exception leaves the handler, and no other record is affected."""

import json
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, example, given, settings
from media_worker.keys import is_job_id

from tests.functional.conftest import stack
from tests.functional.stack import INPUT, Stack, s3_event

__all__ = ["stack"]
WILD = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
NAMES = st.sampled_from(["Records", "s3", "bucket", "object", "name", "key", "eventName", "Event", "job_id"])
near_misses = st.recursive(
    values | st.sampled_from([INPUT, "ObjectCreated:Put", "input/x/source.mp4", "s3:TestEvent"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
)
hostile_keys = st.sampled_from(
    [
        *("input/../source.mp4", "input//source.mp4", "input/./source.mp4", "//", "..", "input/%2e%2e/source.mp4"),
        *("input/a\nb/source.mp4", "input/a'b/source.mp4", 'input/a"b/source.mp4', "input/a\0b/source.mp4"),
        *("input/$(id)/source.mp4", "input/-i/source.mp4", "input/a\\b/source.mp4", "input/\u202e/source.mp4"),
        *(f"input/{'x' * 1007}/source.mp4", f"input/{'ü' * 500}/source.mp4", "input/file:x/source.mp4"),
    ]
)
bodies = (
    st.text()
    | values.map(json.dumps)
    | near_misses.map(json.dumps)
    | hostile_keys.map(lambda k: json.dumps(s3_event(k)))
)


@WILD
@given(st.lists(bodies, max_size=9), st.integers(0, 9))
@example(["[" * 100_000, "1" * 5000, '{"Records": [{"s3": 1}]}', '"\ud800"'], 2)
def test_the_chunking_handler_survives_any_message(stack: Stack, wild: list[str], position: int) -> None:
    """A test event among them is acknowledged."""
    batch: list[Any] = [*wild[:position], {"Event": "s3:TestEvent"}, *wild[position:]]
    failures = stack.deliver(stack.chunking, *batch)
    assert f"message-{min(position, len(wild))}" not in failures


@WILD
@given(st.lists(bodies, max_size=9), st.integers(0, 9))
@example([json.dumps({"job_id": "x" * 5000})], 0)
def test_the_reassembly_handler_survives_any_message(stack: Stack, wild: list[str], position: int) -> None:
    """A message for an unknown job among them is acknowledged."""
    batch: list[Any] = [*wild[:position], {"job_id": "unknown"}, *wild[position:]]
    failures = stack.deliver(stack.reassembly, *batch)
    assert f"message-{min(position, len(wild))}" not in failures


@WILD
@given(st.dictionaries(st.sampled_from(["ApproximateReceiveCount", "SentTimestamp", "x"]), st.text(max_size=5)))
def test_attributes_may_be_anything(stack: Stack, attributes: dict[str, str]) -> None:
    """A receive count that is not a number counts as the first receive."""
    event = {
        "Records": [
            {
                "messageId": "message-0",
                "receiptHandle": "r",
                "body": '{"Event": "s3:TestEvent"}',
                "attributes": attributes,
            }
        ]
    }
    assert stack.chunking(event, stack.context) == {"batchItemFailures": []}


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "a\nb", "a\0b", "\ud800", "x" * 1000])
def test_texts_that_are_not_job_ids(text: str) -> None:
    """No path, no control character, and nothing longer than S3's keys allow."""
    assert not is_job_id(text)
