"""The input bucket's notification configuration, merged with what it has already.

S3 replaces the whole configuration, and refuses two entries for the same event whose prefixes and suffixes overlap:
https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-how-to-filtering.html
"""

from collections.abc import Mapping
from typing import Any

_KINDS = ("QueueConfigurations", "TopicConfigurations", "LambdaFunctionConfigurations")
_CREATED = "s3:ObjectCreated:"
_SUFFIX = ".mp4"
# Id and prefix of each entry, and the output of the stack with the ARN of its queue.
_OURS = (
    ("media-worker-sources", "input/", "ChunkingQueueArn"),
    ("media-worker-segments", "segments/", "SegmentQueueArn"),
)


def merge_notifications(existing: Mapping[str, Any], outputs: Mapping[str, str]) -> dict[str, Any]:
    """The configuration to set: everything that the bucket has, with media-worker's own entries replaced.

    Own entries are those with our ids, and those that a stack made before: same events, prefix and suffix.
    """
    kept = {name: value for name, value in existing.items() if name != "ResponseMetadata"}
    merged = {
        kind: entries
        for kind in _KINDS
        if (entries := [each for each in kept.get(kind, []) if not _is_ours(kind, each)])
    }
    if "EventBridgeConfiguration" in kept:
        merged["EventBridgeConfiguration"] = kept["EventBridgeConfiguration"]
    ours = [_entry(id_, prefix, outputs[arn]) for id_, prefix, arn in _OURS]
    return merged | {"QueueConfigurations": [*merged.get("QueueConfigurations", []), *ours]}


def overlapping(merged: Mapping[str, Any]) -> list[str]:
    """Entries of other software that S3 will refuse beside ours, as text."""
    ids = {id_ for id_, _, _ in _OURS}
    others = [each for kind in _KINDS for each in merged.get(kind, []) if each.get("Id") not in ids]
    return [
        f"{each.get('Id', 'an entry without id')} ({prefix or 'every prefix'}, {suffix or 'every suffix'})"
        for each in others
        if _is_about_creation(each)
        for prefix, suffix in [_filter_of(each)]
        if _overlap(prefix, suffix)
    ]


def _overlap(prefix: str, suffix: str) -> bool:
    ends = suffix.endswith(_SUFFIX) or _SUFFIX.endswith(suffix)
    return ends and any(prefix.startswith(ours) or ours.startswith(prefix) for _, ours, _ in _OURS)


def _is_ours(kind: str, entry: Mapping[str, Any]) -> bool:
    if kind != "QueueConfigurations":
        return False
    if entry.get("Id") in {id_ for id_, _, _ in _OURS}:
        return True
    return _is_about_creation(entry) and _filter_of(entry) in {(prefix, _SUFFIX) for _, prefix, _ in _OURS}


def _is_about_creation(entry: Mapping[str, Any]) -> bool:
    return any(event.startswith(_CREATED) for event in entry["Events"])


def _filter_of(entry: Mapping[str, Any]) -> tuple[str, str]:
    rules = entry.get("Filter", {}).get("Key", {}).get("FilterRules", [])
    found = {rule["Name"].lower(): rule["Value"] for rule in rules}
    return found.get("prefix", ""), found.get("suffix", "")


def _entry(id_: str, prefix: str, arn: str) -> dict[str, Any]:
    rules = [{"Name": "prefix", "Value": prefix}, {"Name": "suffix", "Value": _SUFFIX}]
    return {"Id": id_, "QueueArn": arn, "Events": [f"{_CREATED}*"], "Filter": {"Key": {"FilterRules": rules}}}
