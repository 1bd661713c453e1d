"""The events are what SQS would really hand over."""

import hashlib
import json
import urllib.parse
from pathlib import Path
from typing import Any

import pytest
from media_worker.keys import parse_input_key

type Json = dict[str, Any]

EVENTS = ("s3_put", "s3_put_encoded_key", "s3_test_event", "two_records", "reassembly")


def records(root: Path, name: str) -> list[Json]:
    found: list[Json] = json.loads((root / "events" / f"{name}.json").read_text())["Records"]
    return found


def job_ids(root: Path, name: str) -> list[str | None]:
    notifications = [json.loads(record["body"])["Records"] for record in records(root, name)]
    keys = [one["s3"]["object"]["key"] for notification in notifications for one in notification]
    return [parse_input_key(urllib.parse.unquote_plus(key)) for key in keys]


@pytest.mark.parametrize("name", EVENTS)
def test_records(root: Path, name: str) -> None:
    """Every record has what a record from SQS has, and its checksum is its body's."""
    for record in records(root, name):
        assert record["eventSource"] == "aws:sqs"
        assert record["md5OfBody"] == hashlib.md5(record["body"].encode()).hexdigest()
        assert {"messageId", "receiptHandle", "eventSourceARN"} <= record.keys()
        assert record["attributes"]["ApproximateReceiveCount"] == "1"


def test_all_are_known(root: Path) -> None:
    """No event lies there untested."""
    assert {path.stem for path in (root / "events").glob("*.json")} == set(EVENTS)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("s3_put", ["job-1"]), ("s3_put_encoded_key", ["job 3 + 50% ü"]), ("two_records", ["job-1", "job-2"])],
)
def test_jobs(root: Path, name: str, expected: list[str]) -> None:
    """An upload's event is about the job in its key, which S3 encodes."""
    assert job_ids(root, name) == expected


def test_two_records_are_two_messages(root: Path) -> None:
    """The batch has two messages, so that one can fail without the other."""
    assert len({record["messageId"] for record in records(root, "two_records")}) == 2


def test_reassembly(root: Path) -> None:
    """The reassembly event is about the same job as the upload's."""
    (record,) = records(root, "reassembly")
    assert json.loads(record["body"]) == {"job_id": "job-1"}
