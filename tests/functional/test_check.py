"""What `media-worker check` says about a stack that does not do what it should."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from media_worker.messages import build_object_created_body
from media_worker.s3 import describe
from media_worker_cli.check import command, jobs, storage
from media_worker_cli.check.clip import make_clip
from media_worker_cli.check.command import STEPS, Finding, Step, examine
from media_worker_cli.check.smoke import NotChecked, Smoke
from media_worker_cli.local.ffmpeg import ffmpeg_path
from media_worker_cli.stack import Stack as CliStack

from tests.functional.stack import ENVIRONMENT, INPUT, OUTPUT, Stack


class Silent:
    def say(self, text: str) -> None:
        """Nothing."""

    def show(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def smoke(stack: Stack) -> Smoke:
    url = stack.aws.sqs.create_queue(QueueName="segments")["QueueUrl"]
    environment = ENVIRONMENT | {"SEGMENT_QUEUE_URL": url}
    return Smoke(CliStack("mine", stack.aws, environment), timeout_s=0.1, interval_s=0.01)


def run(smoke: Smoke) -> dict[str, Finding]:
    findings: list[Finding] = []
    examine(smoke, Silent(), findings)
    return {finding.check: finding for finding in findings}


@pytest.mark.parametrize("size", [(640, 480), (64, 48)])
def test_the_clip_decodes_without_an_error(size: tuple[int, int], tmp_path: Path) -> None:
    """Its 48 frames are all different."""
    path = tmp_path / "clip.mp4"
    path.write_bytes(make_clip(*size, 48).content)
    argv = [str(ffmpeg_path()), "-v", "warning", "-i", str(path), "-f", "framemd5", "-"]
    decoded = subprocess.run(argv, capture_output=True, text=True, check=True)
    hashes = [line.rpartition(",")[2] for line in decoded.stdout.splitlines() if not line.startswith("#")]
    assert (decoded.stderr, len(hashes), len(set(hashes))) == ("", 48, 48)


def test_a_stack_whose_functions_do_not_run_fails(smoke: Smoke) -> None:
    """Both splits fail; what needs them is not checked; the jobs are removed all the same."""
    found = run(smoke)
    assert (found["split by part copies"].result, found["split by ffmpeg"].result) == ("failed", "failed")
    assert "still created after" in found["split by ffmpeg"].found
    assert found["join by ffmpeg"].result == "not checked"
    assert found["cleanup"].result == "proven"
    aws = smoke.aws
    for bucket in (INPUT, OUTPUT):
        assert "Contents" not in aws.s3.list_objects_v2(Bucket=bucket)
    assert aws.dynamodb.scan(TableName="Jobs")["Items"] == []


def test_an_error_or_ctrl_c_removes_the_jobs(smoke: Smoke, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last finding is the cleanup, and the exception goes on."""

    def interrupt(_: Smoke) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "STEPS", (*STEPS[:2], Step("interrupted", None, interrupt)))
    findings: list[Finding] = []
    with pytest.raises(KeyboardInterrupt):
        examine(smoke, Silent(), findings)
    assert [finding.check for finding in findings] == ["account", "upload", "cleanup"]
    assert describe(smoke.aws, INPUT, f"input/{smoke.trials[0].job_id}/source.mp4") is None
    assert smoke.aws.dynamodb.scan(TableName="Jobs")["Items"] == []


@pytest.mark.parametrize(
    ("rule", "days"),
    [
        ({"Filter": {"Prefix": "jobs/"}}, 7),
        ({"Filter": {"And": {"Prefix": "jobs/", "Tags": [{"Key": "kind", "Value": "processed-segment"}]}}}, 7),
        ({"Filter": {"Tag": {"Key": "kind", "Value": "other"}}}, None),
        ({"Filter": {"Prefix": "segments/"}}, None),
    ],
)
def test_only_a_rule_that_applies_counts(smoke: Smoke, rule: dict[str, Any], days: int | None) -> None:
    """Prefix and all tags of the rule must fit the object."""
    rules: Any = [rule | {"ID": "a", "Status": "Enabled", "Expiration": {"Days": 7}}]
    smoke.aws.s3.put_bucket_lifecycle_configuration(Bucket=OUTPUT, LifecycleConfiguration={"Rules": rules})
    tags = {"kind": "processed-segment"}
    assert storage._expires_after(smoke, OUTPUT, "jobs/a/segments/0.mp4", tags) == days


def test_messages_about_other_jobs_stay_in_the_queue(smoke: Smoke) -> None:
    """The check does not remove them, and says why it stopped looking."""
    url = smoke.stack.segment_queue_url
    smoke.aws.sqs.send_message(
        QueueUrl=url, MessageBody=build_object_created_body(INPUT, "segments/b/00000_00001_sbs.mp4")
    )
    with pytest.raises(NotChecked, match="other jobs"):
        jobs._receive_announcements(smoke, {"ours"})
    assert len(smoke.aws.sqs.receive_message(QueueUrl=url)["Messages"]) == 1
