"""The nested stack that sends events."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

from tests.template.conftest import ROOT
from tests.template.intrinsics import resolved

type Json = dict[str, Any]

JOBS_STREAM = "arn:aws:dynamodb:us-east-1:123456789012:table/their-jobs/stream/2026-01-01T00:00:00.000"


@pytest.fixture(scope="session")
def events_with(stack_with: Callable[..., Json], root: Path) -> Callable[..., Json]:
    """The nested stack as the stack with these parameters makes it."""
    written = {"Outputs": {}} | yaml_parse((root / "events.yaml").read_text())

    def build(**given: Any) -> Json:
        passed = stack_with(**given)["Resources"]["Events"]["Properties"]["Parameters"]
        assert passed.keys() == written["Parameters"].keys()
        return resolved(written, passed)

    return build


def test_rights(events_with: Callable[..., Json]) -> None:
    """The function reads the two streams, writes its log and sends to the default bus, and nothing else."""
    (policy,) = events_with()["Resources"]["EventsRole"]["Properties"]["Policies"]
    rights = {each["Sid"]: (each["Action"], each["Resource"]) for each in policy["PolicyDocument"]["Statement"]}
    assert rights == {
        "Log": (["logs:CreateLogStream", "logs:PutLogEvents"], {"Fn::GetAtt": ["EventsLogGroup", "Arn"]}),
        "ReadStreams": (
            [f"dynamodb:{name}" for name in ("DescribeStream", "GetRecords", "GetShardIterator", "ListStreams")],
            [{"Fn::GetAtt": ["SegmentAttemptsTable", "StreamArn"]}, {"Fn::GetAtt": ["JobsTable", "StreamArn"]}],
        ),
        "SendEvents": (
            "events:PutEvents",
            {"Fn::Sub": "arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:event-bus/default"},
        ),
    }


def test_the_key_of_the_streams(events_with: Callable[..., Json]) -> None:
    """With a KMS key for the tables, the function may decrypt with it, and gets no other right."""
    key = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"

    def statements(**given: Any) -> list[Json]:
        (policy,) = events_with(**given)["Resources"]["EventsRole"]["Properties"]["Policies"]
        listed: list[Json] = policy["PolicyDocument"]["Statement"]
        return listed

    added = [one for one in statements(KmsKeyArn=key) if one not in statements()]
    assert added == [{"Sid": "UseKey", "Effect": "Allow", "Action": "kms:Decrypt", "Resource": key}]
    assert len(statements(KmsKeyArn=key)) == len(statements()) + 1


def test_streams_have_both_images(stack: Json) -> None:
    """An end is a change of the status, and a failure is one that was not there before."""
    for name in ("JobsTable", "SegmentAttemptsTable"):
        assert stack["Resources"][name]["Properties"]["StreamSpecification"] == {"StreamViewType": "NEW_AND_OLD_IMAGES"}


def test_nothing_is_missed(events_with: Callable[..., Json]) -> None:
    """Both mappings begin with the oldest change, and repeat a failed batch until it is as old as the stream."""
    mappings = {
        name: one["Properties"]
        for name, one in events_with()["Resources"].items()
        if one["Type"] == "AWS::Lambda::EventSourceMapping"
    }
    assert mappings.keys() == {"JobEnds", "SegmentFailures"}
    for mapping in mappings.values():
        assert mapping["StartingPosition"] == "TRIM_HORIZON"
        assert not {"MaximumRetryAttempts", "MaximumRecordAgeInSeconds"} & mapping.keys()
        assert all(json.loads(each["Pattern"]) for each in mapping["FilterCriteria"]["Filters"])


def test_an_existing_jobs_table(events_with: Callable[..., Json]) -> None:
    """Its stream is used if it is given. Without one there are no events about jobs, but those about segments."""
    without = events_with(ExistingJobsTable="their-jobs")["Resources"]
    assert "JobEnds" not in without
    assert "SegmentFailures" in without
    given = events_with(ExistingJobsTable="their-jobs", ExistingJobsTableStreamArn=JOBS_STREAM)["Resources"]
    assert given["JobEnds"]["Properties"]["EventSourceArn"] == JOBS_STREAM


@pytest.mark.parametrize("example", re.findall(r"```yaml\n(.+?)```", (ROOT / "docs/events.md").read_text(), re.DOTALL))
def test_the_examples_are_about_these_events(example: str) -> None:
    """Each example in docs/events.md is YAML with a rule for our source and our types."""
    text = json.dumps(yaml_parse(example))
    assert '["media-worker"]' in text
    (types,) = re.findall(r'"detail-type": (\[.*?\])', text)
    assert set(json.loads(types)) <= {"Job Completed", "Job Failed", "Segment Failed"}


def test_code(events_with: Callable[..., Json], root: Path) -> None:
    """The function's code is where the template says, and its log group forgets after a while."""
    resources = events_with()["Resources"]
    assert (root / resources["EventsFunction"]["Properties"]["Code"] / "app.py").is_file()
    assert resources["EventsLogGroup"]["Properties"]["RetentionInDays"] == 30
