"""Message bodies: the requests that they carry, and why some are ignored."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_worker.errors import MessageError
from media_worker.keys import build_source_key, is_job_id
from media_worker.messages import (
    ChunkRequest,
    Ignored,
    ReassemblyRequest,
    build_reassembly_body,
    parse_chunking_body,
    parse_reassembly_body,
)

EVENTS = Path(__file__).parents[2] / "events"
BUCKET = "media-worker-input"

job_ids = st.text(min_size=1).filter(is_job_id)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["Records", "s3", "eventName", "job_id"]), inner),
)


def event(name: str) -> str:
    """The body of the first record of an event in `events/`."""
    body: str = json.loads((EVENTS / name).read_text())["Records"][0]["body"]
    return body


def s3_body(key: Any = "input/j/source.mp4", bucket: str = BUCKET, name: str = "ObjectCreated:Put") -> str:
    return json.dumps({"Records": [{"eventName": name, "s3": {"bucket": {"name": bucket}, "object": {"key": key}}}]})


def test_an_s3_event_requests_a_chunking() -> None:
    """The event in events/s3_put.json names job-1's source."""
    key = "input/job-1/source.mp4"
    assert parse_chunking_body(event("s3_put.json"), BUCKET) == [ChunkRequest("job-1", BUCKET, key)]


def test_a_key_is_decoded_as_s3_encodes_it() -> None:
    """A plus is a space, and %2B a plus: the event in events/s3_put_encoded_key.json has both."""
    key = "input/job 3 + 50% ü/source.mp4"
    assert parse_chunking_body(event("s3_put_encoded_key.json"), BUCKET) == [ChunkRequest("job 3 + 50% ü", BUCKET, key)]


@given(job_ids)
def test_every_job_id_survives_the_encoding(job_id: str) -> None:
    """The key is the one that S3 encoded."""
    key = build_source_key(job_id)
    assert parse_chunking_body(s3_body(quote_plus(key, safe="/")), BUCKET) == [ChunkRequest(job_id, BUCKET, key)]


def test_the_test_event_is_ignored() -> None:
    """The test event that S3 sends when a notification is configured has no request."""
    assert parse_chunking_body(event("s3_test_event.json"), BUCKET) == [Ignored("s3:TestEvent")]


@pytest.mark.parametrize("name", ["Put", "Post", "Copy", "CompleteMultipartUpload"])
def test_every_way_to_create_an_object_counts(name: str) -> None:
    """A multipart upload creates a source too."""
    (request,) = parse_chunking_body(s3_body(name=f"ObjectCreated:{name}"), BUCKET)
    assert isinstance(request, ChunkRequest)


def test_a_record_without_an_event_name_counts() -> None:
    """Other software that sends such messages may leave it out."""
    body = json.dumps({"Records": [{"s3": {"bucket": {"name": BUCKET}, "object": {"key": "input/j/source.mp4"}}}]})
    assert parse_chunking_body(body, BUCKET) == [ChunkRequest("j", BUCKET, "input/j/source.mp4")]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (s3_body(name="ObjectRemoved:Delete"), "event 'ObjectRemoved:Delete' creates no object"),
        (s3_body(bucket="other"), "bucket 'other' is not the input bucket"),
        (s3_body("input/j/other.mp4"), "key 'input/j/other.mp4' is not input/{job_id}/source.mp4"),
        (s3_body("input/a%2Fb/source.mp4"), "key 'input/a/b/source.mp4' is not input/{job_id}/source.mp4"),
    ],
)
def test_other_events_are_ignored_with_a_reason(body: str, reason: str) -> None:
    """Another event, bucket or key is not an error."""
    assert parse_chunking_body(body, BUCKET) == [Ignored(reason)]


def test_every_record_is_parsed() -> None:
    """One body can carry several records."""
    records = [json.loads(s3_body(key))["Records"][0] for key in ("input/a/source.mp4", "x", "input/b/source.mp4")]
    requests = parse_chunking_body(json.dumps({"Records": records}), BUCKET)
    assert [getattr(request, "job_id", None) for request in requests] == ["a", None, "b"]


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("", "not JSON"),
        ("not json", r"not JSON \('not json'\)"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a JSON object"),
        ('"text"', "not a JSON object"),
        ("{}", "no Records"),
        ('{"job_id": "j"}', "no Records"),
        ('{"Records": []}', "no Records"),
        ('{"Records": {}}', "no Records"),
        ('{"Records": [{}]}', "not an S3 event's"),
        ('{"Records": ["x"]}', "not an S3 event's"),
        (s3_body(5), "not an S3 event's"),
        (s3_body("input/%ff/source.mp4"), "not an S3 event's"),
    ],
)
def test_a_body_that_is_not_an_s3_event_is_an_error(body: str, complaint: str) -> None:
    """The error says what is wrong and shows the body."""
    with pytest.raises(MessageError, match=complaint):
        parse_chunking_body(body, BUCKET)


def test_an_error_shows_only_the_beginning_of_a_body() -> None:
    """A large body does not fill the log."""
    with pytest.raises(MessageError) as caught:
        parse_chunking_body("x" * 100_000, BUCKET)
    assert len(str(caught.value)) < 300


@given(st.text() | json_values.map(json.dumps))
def test_any_body_is_parsed_or_refused(body: str) -> None:
    """No body makes a parser raise another error."""
    for parse in (lambda: parse_chunking_body(body, BUCKET), lambda: parse_reassembly_body(body)):
        try:
            parse()
        except MessageError:
            continue


def test_a_reassembly_message_names_its_job() -> None:
    """The event in events/reassembly.json requests the reassembly of job-1."""
    assert parse_reassembly_body(event("reassembly.json")) == [ReassemblyRequest("job-1")]


@given(job_ids)
def test_a_reassembly_message_is_parsed_as_it_was_built(job_id: str) -> None:
    """parse(build(job)) == job."""
    assert parse_reassembly_body(build_reassembly_body(job_id)) == [ReassemblyRequest(job_id)]


@pytest.mark.parametrize(
    "body", ["x", "[]", "{}", '{"job_id": 5}', '{"job_id": ""}', '{"job_id": "a/b"}', '{"job_id": ".."}', s3_body()]
)
def test_a_body_without_a_job_is_an_error(body: str) -> None:
    """A job id is text and one path component."""
    with pytest.raises(MessageError):
        parse_reassembly_body(body)
