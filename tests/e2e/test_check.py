"""`media-worker check` against the real template in the local cloud."""

import json
from pathlib import Path
from typing import Any

import boto3
from media_worker.aws import Aws
from media_worker.settings import Settings

from tests.e2e.conftest import CommandLine
from tests.e2e.test_pipeline import wait_for


def objects_of_checks(aws: Aws) -> list[str]:
    buckets = (aws.settings.input_bucket_name, aws.settings.output_bucket_name)
    found = [each for bucket in buckets for each in aws.s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
    return [each["Key"] for each in found if "/check-" in each["Key"]]


def rows_of_checks(aws: Aws) -> list[str]:
    settings = aws.settings
    tables = (
        *(settings.jobs_table_name, settings.segment_completions_table_name),
        *(settings.reassembly_triggered_table_name, settings.segment_attempts_table_name or ""),
    )
    ids = [row["job_id"]["S"] for table in tables for row in aws.dynamodb.scan(TableName=table)["Items"]]
    return [job_id for job_id in ids if job_id.startswith("check-")]


def rules_and_queues_of_checks(aws: Aws) -> tuple[list[Any], list[str]]:
    events = boto3.client("events", region_name=aws.settings.aws_region, endpoint_url=aws.settings.aws_endpoint_url)
    prefix = "media-worker-check"
    rules: Any = events.list_rules(NamePrefix=prefix)["Rules"]
    return rules, aws.sqs.list_queues(QueueNamePrefix=prefix).get("QueueUrls", [])


def test_a_healthy_stack_passes_and_nothing_is_left(cloud: CommandLine, tmp_path: Path) -> None:
    """Both engines split and join; both ends arrive as events; the report has the results; nothing stays."""
    report = tmp_path / "report.json"
    ended = cloud("check", "--report", report)
    assert ended.code == 0, ended.out + ended.err
    found = json.loads(report.read_text())
    results = {each["check"]: each["result"] for each in found["checks"]}
    assert found["passed"]
    # The local cloud accepts any credentials and has no lifecycle rules, and the check notices that.
    assert {results.pop("rights of workers"), results.pop("expiry")} == {"not checked"}
    assert set(results.values()) == {"proven"}, ended.out
    assert {"split by part copies", "split by ffmpeg", "conditional writes", "segments announced"} <= results.keys()
    assert {"worker policy", "rule for events", "events", "cleanup"} <= results.keys()
    aws = Aws.connect(Settings.from_environment(cloud.stack_environment()))
    assert objects_of_checks(aws) == []
    assert rows_of_checks(aws) == []
    assert rules_and_queues_of_checks(aws) == ([], [])


def test_ctrl_c_removes_everything(cloud: CommandLine) -> None:
    """The table has what was proven until then, and the cleanup."""
    aws = Aws.connect(Settings.from_environment(cloud.stack_environment()))
    process = cloud.start("check")
    wait_for(lambda: objects_of_checks(aws))
    assert all(rules_and_queues_of_checks(aws))
    ended = cloud.interrupt(process)
    assert (ended.code, ended.last_error) == (130, "media-worker: interrupted")
    assert ended.out.splitlines()[-1].startswith("PROVEN  cleanup")
    assert objects_of_checks(aws) == []
    assert rows_of_checks(aws) == []
    assert rules_and_queues_of_checks(aws) == ([], [])
