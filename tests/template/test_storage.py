"""Buckets and tables."""

import json
from collections.abc import Callable
from typing import Any

import pytest

type Json = dict[str, Any]

BUCKETS = ("InputBucket", "OutputBucket")
TABLES = {
    "JobsTable": {"job_id": ("S", "HASH")},
    "SegmentCompletionsTable": {"job_id": ("S", "HASH"), "segment_index": ("N", "RANGE")},
    "ReassemblyTriggeredTable": {"job_id": ("S", "HASH")},
}


def typed_keys(table: Json, keys: list[Json]) -> dict[str, tuple[str, str]]:
    types = {attribute["AttributeName"]: attribute["AttributeType"] for attribute in table["AttributeDefinitions"]}
    return {key["AttributeName"]: (types[key["AttributeName"]], key["KeyType"]) for key in keys}


def rules(resources: Json, bucket: str) -> dict[str, Json]:
    return {rule["Id"]: rule for rule in resources[bucket]["Properties"]["LifecycleConfiguration"]["Rules"]}


@pytest.mark.parametrize("name", BUCKETS)
def test_buckets_are_private(resources: Json, name: str) -> None:
    """A bucket is closed to the public, knows no ACLs, and is encrypted."""
    bucket = resources[name]["Properties"]
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert all(value is True for value in bucket["PublicAccessBlockConfiguration"].values())
    assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    (encryption,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert encryption == {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}


@pytest.mark.parametrize("name", BUCKETS)
def test_only_tls(resources: Json, name: str) -> None:
    """Whatever is asked of a bucket without TLS is refused."""
    policy = resources[f"{name}Policy"]["Properties"]
    assert policy["Bucket"] == {"Ref": name}
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "s3:*")
    assert statement["Resource"] == [{"Fn::GetAtt": [name, "Arn"]}, {"Fn::Sub": f"${{{name}.Arn}}/*"}]


@pytest.mark.parametrize("name", BUCKETS)
def test_incomplete_uploads_go(resources: Json, name: str) -> None:
    """What a killed upload left is deleted, wherever in the bucket it is."""
    rule = rules(resources, name)["abort-incomplete-uploads"]
    assert rule == {
        "Id": "abort-incomplete-uploads",
        "Status": "Enabled",
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2},
    }


def test_segments_expire(resources: Json) -> None:
    """Segments are deleted after a while, sources never."""
    input_rules = rules(resources, "InputBucket")
    assert input_rules.keys() == {"abort-incomplete-uploads", "expire-segments"}
    assert input_rules["expire-segments"]["Prefix"] == "segments/"
    assert input_rules["expire-segments"]["ExpirationInDays"] == 30


def test_processed_segments_expire_and_finals_stay(resources: Json) -> None:
    """Only what a segment worker tagged is deleted: finals are under the same prefix."""
    output_rules = rules(resources, "OutputBucket")
    assert output_rules.keys() == {"abort-incomplete-uploads", "expire-processed-segments"}
    rule = output_rules["expire-processed-segments"]
    assert rule["TagFilters"] == [{"Key": "kind", "Value": "processed-segment"}]
    assert rule["ExpirationInDays"] == 30


def test_the_expiry_tag_can_be_chosen(stack: Json, stack_with: Callable[..., Json]) -> None:
    """The lifecycle rule, the functions, and the outputs for workers and for owners of a bucket have the same tag."""
    assert stack["Outputs"]["ExpiryTag"]["Value"] == "kind=processed-segment"
    changed = stack_with(ExpiryTagKey="remove", ExpiryTagValue="soon")
    rule = rules(changed["Resources"], "OutputBucket")["expire-processed-segments"]
    assert rule["TagFilters"] == [{"Key": "remove", "Value": "soon"}]
    for name in ("ChunkingFunction", "ReassemblyFunction"):
        assert changed["Resources"][name]["Properties"]["Environment"]["Variables"]["EXPIRY_TAG"] == "remove=soon"
    assert changed["Outputs"]["ExpiryTag"]["Value"] == "remove=soon"
    owned = stack_with(ExpiryTagKey="remove", ExpiryTagValue="soon", ExistingOutputBucket="mine")["Outputs"]
    todo = json.loads(owned["TodoOutputBucketLifecycle"]["Value"])["Rules"][1]
    assert todo["Filter"]["And"]["Tags"] == [{"Key": "remove", "Value": "soon"}]


@pytest.mark.parametrize("name", ["Chunking", "Segment", "Reassembly"])
def test_segments_outlast_messages(template: Json, resources: Json, name: str) -> None:
    """No setting lets a segment expire before a dead letter about it does."""
    retention_s = resources[f"{name}DeadLetterQueue"]["Properties"]["MessageRetentionPeriod"]
    assert template["Parameters"]["SegmentExpirationDays"]["MinValue"] * 86400 > retention_s


@pytest.mark.parametrize(("name", "keys"), TABLES.items())
def test_tables(resources: Json, name: str, keys: dict[str, tuple[str, str]]) -> None:
    """A table has the keys of the contract, is paid by use, and can be restored to any second."""
    table = resources[name]["Properties"]
    assert typed_keys(table, table["KeySchema"]) == keys
    assert table["BillingMode"] == "PAY_PER_REQUEST"
    assert table["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}


def test_tables_have_streams(resources: Json) -> None:
    """Other software can follow each table that the stack makes, with rows before and after each change."""
    tables = [one["Properties"] for one in resources.values() if one["Type"] == "AWS::DynamoDB::Table"]
    assert len(tables) == 4
    assert all(table["StreamSpecification"] == {"StreamViewType": "NEW_AND_OLD_IMAGES"} for table in tables)


@pytest.mark.parametrize("time", ["completed_at", "created_at"])
def test_job_indexes(resources: Json, time: str) -> None:
    """Jobs of a status are found in the order they were made or completed, with all their attributes."""
    table = resources["JobsTable"]["Properties"]
    assert len(table["GlobalSecondaryIndexes"]) == 2
    (index,) = (one for one in table["GlobalSecondaryIndexes"] if one["IndexName"] == f"status-{time}")
    assert typed_keys(table, index["KeySchema"]) == {"status": ("S", "HASH"), time: ("N", "RANGE")}
    assert index["Projection"] == {"ProjectionType": "ALL"}


def test_triggers_are_forgotten(resources: Json) -> None:
    """ReassemblyTriggered rows go at their ttl."""
    table = resources["ReassemblyTriggeredTable"]["Properties"]
    assert table["TimeToLiveSpecification"] == {"AttributeName": "ttl", "Enabled": True}


def test_cors_only_for_the_page_that_is_given(resources: Json, stack_with: Callable[..., Json]) -> None:
    """A browser uploads to one bucket and reads from the other. Without the parameter there are no rules."""
    methods = {"InputBucket": ["PUT", "POST"], "OutputBucket": ["GET", "HEAD"]}
    opened = stack_with(CorsPage="https://example.com")["Resources"]
    for name, allowed in methods.items():
        assert "CorsConfiguration" not in resources[name]["Properties"]
        (rule,) = opened[name]["Properties"]["CorsConfiguration"]["CorsRules"]
        assert rule["AllowedMethods"] == allowed
        assert rule["AllowedOrigins"] == ["https://example.com"]  # codespell:ignore
