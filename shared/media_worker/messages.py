"""Message bodies and the requests they carry."""

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus, unquote_plus

from media_worker.errors import MessageError
from media_worker.keys import SegmentKey, is_job_id, parse_input_key, parse_segment_key

_EXCERPT_CHARS = 200


@dataclass(frozen=True, slots=True)
class ChunkRequest:
    """A source was uploaded: split it."""

    job_id: str
    bucket: str
    key: str


@dataclass(frozen=True, slots=True)
class ReassemblyRequest:
    """All segments of a job are processed: join them."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """A record without a request, and why."""

    reason: str


def parse_chunking_body(body: str, input_bucket: str) -> list[ChunkRequest | Ignored]:
    """The requests of an S3 event notification, one for each record.

    Raises:
        MessageError: the body is not an S3 event.
    """
    records = _s3_records(body)
    return [_chunk_request(record, input_bucket) for record in records] if records else [Ignored("s3:TestEvent")]


def parse_segment_body(body: str, input_bucket: str) -> list[SegmentKey]:
    """The segments that an S3 event notification announces. Records about other objects are left out.

    Raises:
        MessageError: the body is not an S3 event.
    """
    created = (_created_object(record) for record in _s3_records(body))
    keys = (parse_segment_key(*each) for each in created if not isinstance(each, Ignored))
    return [key for key in keys if key and key.bucket == input_bucket]


def parse_reassembly_body(body: str) -> list[ReassemblyRequest]:
    """The job that a reassembly message names, as a list of one.

    Raises:
        MessageError: the body is not `{"job_id": "..."}`.
    """
    job_id = _json_object(body).get("job_id")
    if not isinstance(job_id, str) or not is_job_id(job_id):
        raise MessageError(f'the message names no job: expected {{"job_id": "..."}} ({_excerpt(body)})')
    return [ReassemblyRequest(job_id)]


def build_reassembly_body(job_id: str) -> str:
    """The message that requests a job's reassembly."""
    return json.dumps({"job_id": job_id})


def build_object_created_body(bucket: str, key: str) -> str:
    """The message that announces an object, with what we read of an S3 event notification."""
    found = {"bucket": {"name": bucket}, "object": {"key": quote_plus(key, safe="/")}}
    return json.dumps({"Records": [{"eventSource": "media-worker", "eventName": "ObjectCreated:Put", "s3": found}]})


def _chunk_request(record: Any, input_bucket: str) -> ChunkRequest | Ignored:
    created = _created_object(record)
    if isinstance(created, Ignored):
        return created
    bucket, key = created
    if bucket != input_bucket:
        return Ignored(f"bucket {bucket!r} is not the input bucket")
    if (job_id := parse_input_key(key)) is None:
        return Ignored(f"key {key!r} is not input/{{job_id}}/source.mp4")
    return ChunkRequest(job_id, bucket, key)


def _s3_records(body: str) -> list[Any]:
    """The records of an S3 event notification; none of the test event that S3 sends when it is configured."""
    event = _json_object(body)
    if event.get("Event") == "s3:TestEvent":
        return []
    records = event.get("Records")
    if not isinstance(records, list) or not records:
        raise MessageError(f"the message is not an S3 event notification: it has no Records ({_excerpt(body)})")
    return records


def _created_object(record: Any) -> tuple[str, str] | Ignored:
    """Bucket and key of the object that was created. S3 URL-encodes keys in events, a space as `+`
    (https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html).
    """
    try:
        bucket, encoded = record["s3"]["bucket"]["name"], record["s3"]["object"]["key"]
        # Other software that sends such messages may leave the event's name out.
        event_name = record.get("eventName") or "ObjectCreated:"
        key = unquote_plus(encoded, errors="strict")
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise MessageError(f"the record is not an S3 event's ({_excerpt(json.dumps(record))})") from error
    if not str(event_name).startswith("ObjectCreated:"):
        return Ignored(f"event {event_name!r} creates no object")
    return bucket, key


def _json_object(body: str) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"the message is not JSON ({_excerpt(body)})") from error
    if not isinstance(value, dict):
        raise MessageError(f"the message is not a JSON object ({_excerpt(body)})")
    return value


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= _EXCERPT_CHARS else text[:_EXCERPT_CHARS] + "...")
