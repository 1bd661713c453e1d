"""Events in the local cloud: a rule sends them to a queue."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from media_worker.attempts import Attempt, AttemptState, begin_attempt, end_attempt
from media_worker.aws import Aws
from media_worker.settings import Settings

from tests.e2e.conftest import CommandLine

type Event = dict[str, Any]
type Wait = Callable[[str, str], Event]

PATTERN = {"source": ["media-worker"], "detail": {"stack": ["media-worker"]}}


@pytest.fixture(scope="module")
def environment(cloud: CommandLine) -> dict[str, str]:
    return cloud.stack_environment()


@pytest.fixture(scope="module")
def wait_for(environment: dict[str, str]) -> Wait:
    """Waits for the event of a type and a job that reaches the queue of a rule, and that there is only one."""
    credentials = {
        "endpoint_url": environment["AWS_ENDPOINT_URL"],
        "region_name": environment["AWS_REGION"],
        "aws_access_key_id": environment["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": environment["AWS_SECRET_ACCESS_KEY"],
    }
    sqs: Any = boto3.client("sqs", **credentials)  # type: ignore[call-overload]
    events: Any = boto3.client("events", **credentials)  # type: ignore[call-overload]
    url = sqs.create_queue(QueueName="media-worker-events")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name="media-worker-events", EventPattern=json.dumps(PATTERN))
    events.put_targets(Rule="media-worker-events", Targets=[{"Id": "queue", "Arn": arn}])
    received: list[Event] = []

    def wait(detail_type: str, job_id: str) -> Event:
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:
            for message in sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1).get(
                "Messages", []
            ):
                received.append(json.loads(message["Body"]))
                sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
            found = [each for each in received if each["detail"]["job_id"] == job_id]
            if matching := [each for each in found if each["detail-type"] == detail_type]:
                assert len(matching) == 1
                return matching[0]
        pytest.fail(f"no {detail_type} of {job_id}, only {received}")

    return wait


def test_a_completed_job(cloud: CommandLine, wait_for: Wait, clip: Path, tmp_path: Path) -> None:
    """The event of a job that ran through the deployed functions."""
    ran = cloud("run", clip, "--out", tmp_path / "final.mp4", "--segment-seconds", "4", "--json")
    assert ran.code == 0, ran.err
    summary = json.loads(ran.out)
    job_id = summary["job_id"]
    event = wait_for("Job Completed", job_id)
    detail = event["detail"]
    assert event["source"] == "media-worker"
    assert detail["status"] == "completed"
    assert detail["final_uri"].endswith(f"/jobs/{job_id}/final.mp4")
    assert detail["segments"] == summary["segments"] > 1
    assert detail["frames"] == summary["frames_in"] > 1
    assert detail["seconds"]["reassembly"]["join"] >= 0


def test_a_cancelled_job_and_a_failed_segment(
    cloud: CommandLine, environment: dict[str, str], wait_for: Wait, clip: Path
) -> None:
    """A person cancels a job, and a segment worker's attempt fails."""
    job_id = cloud("submit", clip, "--segment-seconds", "4").out.strip()
    aws = Aws.connect(Settings.from_environment(environment))
    now = int(time.time())
    attempt = Attempt(job_id, 0, 1, "worker-1", "message/1", started_at=now, heartbeat_at=now, expires_at=now + 60)
    begin_attempt(aws, attempt)
    end_attempt(aws, attempt, AttemptState.FAILED, "out of memory")
    failed = wait_for("Segment Failed", job_id)["detail"]
    assert (failed["segment_index"], failed["error"], failed["worker"]) == (0, "out of memory", "worker-1")
    assert cloud("cancel", job_id).code == 0
    detail = wait_for("Job Failed", job_id)["detail"]
    assert (detail["cancelled"], detail["final_uri"]) == (True, None)
    assert detail["error"].startswith("cancelled by ")
