"""The notifications of a bucket that other software, or an earlier stack, has configured already."""

from typing import Any

import pytest
from media_worker_cli.notifications import merge_notifications, overlapping

from tests.functional.stack import INPUT, Stack

OLD, NEW = "arn:aws:sqs:us-east-1:123456789012:old", "arn:aws:sqs:us-east-1:123456789012:{}"
OUTPUTS = {"ChunkingQueueArn": NEW.format("chunking"), "SegmentQueueArn": NEW.format("segment")}


def entry(id_: str, prefix: str, suffix: str, event: str = "s3:ObjectCreated:*") -> dict[str, Any]:
    rules = [{"Name": "prefix", "Value": prefix}, {"Name": "suffix", "Value": suffix}]
    return {"Id": id_, "QueueArn": OLD, "Events": [event], "Filter": {"Key": {"FilterRules": rules}}}


OLDER: Any = {
    "QueueConfigurations": [
        entry("made-by-an-earlier-stack-1", "input/", ".mp4"),
        entry("made-by-an-earlier-stack-2", "segments/", ".mp4"),
        entry("thumbnails", "thumbnails/", ".png"),
        entry("removals", "input/", ".mp4", "s3:ObjectRemoved:*"),
    ]
}


def test_older_entries_of_media_worker_are_replaced(stack: Stack) -> None:
    """Those of other software stay. The bucket accepts the result, and merging once more changes nothing."""
    s3 = stack.aws.s3
    for queue in ("old", "chunking", "segment"):
        stack.aws.sqs.create_queue(QueueName=queue)
    s3.put_bucket_notification_configuration(Bucket=INPUT, NotificationConfiguration=OLDER)
    merged: Any = merge_notifications(s3.get_bucket_notification_configuration(Bucket=INPUT), OUTPUTS)
    s3.put_bucket_notification_configuration(Bucket=INPUT, NotificationConfiguration=merged)
    found: Any = s3.get_bucket_notification_configuration(Bucket=INPUT)
    queues = {each["Id"]: each["QueueArn"] for each in found["QueueConfigurations"]}
    assert queues == {
        "thumbnails": OLD,
        "removals": OLD,
        "media-worker-sources": OUTPUTS["ChunkingQueueArn"],
        "media-worker-segments": OUTPUTS["SegmentQueueArn"],
    }
    assert overlapping(merged) == []
    assert merge_notifications(found, OUTPUTS)["QueueConfigurations"] == merged["QueueConfigurations"]


def test_other_destinations_stay() -> None:
    """Topics, functions and EventBridge are in the merged configuration as they were."""
    others = {
        "TopicConfigurations": [{"Id": "t", "TopicArn": "t", "Events": ["s3:ObjectRemoved:*"]}],
        "LambdaFunctionConfigurations": [{"Id": "f", "LambdaFunctionArn": "f", "Events": ["s3:ObjectRestore:*"]}],
        "EventBridgeConfiguration": {},
    }
    merged = merge_notifications(others | {"ResponseMetadata": {}}, OUTPUTS)
    assert {name: merged[name] for name in others} == others
    assert "ResponseMetadata" not in merged


@pytest.mark.parametrize(
    ("prefix", "suffix", "overlaps"),
    [
        ("", "", True),
        ("in", "", True),
        ("input/holiday/", ".mp4", True),
        ("segments/", "mp4", True),
        ("input/", ".mov", False),
        ("other/", ".mp4", False),
    ],
)
def test_an_entry_that_s3_will_refuse_is_named(prefix: str, suffix: str, *, overlaps: bool) -> None:
    """Overlapping prefixes and overlapping suffixes together are refused for the same event."""
    merged = merge_notifications({"QueueConfigurations": [entry("another", prefix, suffix)]}, OUTPUTS)
    assert bool(overlapping(merged)) is overlaps
