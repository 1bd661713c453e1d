"""What `media-worker check` says about a stack that does not do what it should."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import boto3
import pytest
from botocore.exceptions import ClientError
from media_worker.events import build_events_handler
from media_worker.messages import build_object_created_body
from media_worker.s3 import describe
from media_worker_cli.check import command, events, jobs, storage
from media_worker_cli.check.clip import make_clip
from media_worker_cli.check.command import STEPS, Finding, Step, examine
from media_worker_cli.check.smoke import Disproven, NotChecked, Smoke
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
    monkeypatch.setattr(command, "STEPS", (*STEPS[:3], Step("interrupted", None, lambda _: interrupt())))
    findings: list[Finding] = []
    with pytest.raises(KeyboardInterrupt):
        examine(smoke, Silent(), findings)
    assert [finding.check for finding in findings] == ["account", "rule for events", "upload", "cleanup"]
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


type Hook = Callable[[str, Callable[..., None]], None]


@pytest.fixture
def hook(smoke: Smoke, monkeypatch: pytest.MonkeyPatch) -> Hook:
    """Registers a handler of a botocore event for all clients of the check."""
    session = boto3.Session(region_name="us-east-1")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", session)

    def register(event: str, handler: Callable[..., None]) -> None:
        # The session's is for clients that are made later.
        for emitter in (session.events, smoke.aws.sqs.meta.events):
            emitter.register(event, handler)

    return register


def deny(**_: Any) -> None:
    raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "not authorized"}}, "this")


def interrupt(**_: Any) -> NoReturn:
    raise KeyboardInterrupt


def rules_and_queues(smoke: Smoke) -> tuple[list[str], list[str]]:
    """What the check may have made for events."""
    rules = smoke.client("events").list_rules(NamePrefix="media-worker-check")["Rules"]
    queues = smoke.aws.sqs.list_queues(QueueNamePrefix="media-worker-check").get("QueueUrls", [])
    return [rule["Name"] for rule in rules], queues


def end(smoke: Smoke, stack: Stack, **differing: Any) -> None:
    """Both jobs complete, and the stack sends an event about each."""
    for trial in smoke.trials:
        stack.add_job(trial.job_id, status={"S": "completed"}, total_segments={"N": "2"})
        row = stack.row("Jobs", trial.job_id)
        record = {"eventID": "1", "dynamodb": {"NewImage": row | differing}}
        build_events_handler(smoke.client("events"), stack="mine", output_bucket=OUTPUT)({"Records": [record]}, None)


def test_the_events_of_both_jobs_arrive(smoke: Smoke, stack: Stack) -> None:
    """Only this rule may send to the queue. Nothing is left of both."""
    events.listen(smoke)
    (rule,), (url,) = rules_and_queues(smoke)
    policy = smoke.aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"])["Attributes"]["Policy"]
    (statement,) = json.loads(policy)["Statement"]
    assert statement["Resource"] == f"arn:aws:sqs:us-east-1:123456789012:{rule}"
    assert statement["Condition"] == {
        "ArnEquals": {"aws:SourceArn": f"arn:aws:events:us-east-1:123456789012:rule/{rule}"}
    }
    end(smoke, stack)
    assert events.events(smoke) == "one for each end of a job: Job Completed, Job Completed"
    assert command.clean_up(smoke).startswith("rule, queue, objects")
    assert rules_and_queues(smoke) == ([], [])


def test_an_event_that_does_not_come_is_a_failure(smoke: Smoke, stack: Stack) -> None:
    """So is one that says something else than the job's row."""
    events.listen(smoke)
    stack.add_job(smoke.trials[0].job_id, status={"S": "completed"})
    with pytest.raises(Disproven, match=f"no event about the end of {smoke.trials[0].job_id} within"):
        events.events(smoke)
    end(smoke, stack, total_segments={"N": "3"})
    with pytest.raises(Disproven, match="'segments': 3"):
        events.events(smoke)


def test_a_rule_that_sends_nothing_is_no_failure_of_the_stack(
    smoke: Smoke, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ends of jobs are not checked then."""

    def match_nothing(params: dict[str, Any], **_: Any) -> None:
        params["EventPattern"] = json.dumps({"source": ["another"]})

    hook("before-parameter-build.events.PutRule", match_nothing)
    monkeypatch.setattr(events, "_MATCHES_WITHIN_S", 0.01)
    found = run(smoke)
    assert (found["rule for events"].result, found["events"].found) == ("not checked", "it needs: rule for events")
    assert rules_and_queues(smoke) == ([], [])


@pytest.mark.parametrize("right", ["events:PutRule", "sqs:CreateQueue", "events:PutTargets", "events:PutEvents"])
def test_a_right_that_is_missing_is_named(smoke: Smoke, hook: Hook, right: str) -> None:
    """Events are not checked, and what was made by then is removed."""
    hook(f"before-parameter-build.{right.replace(':', '.')}", deny)
    with pytest.raises(NotChecked, match=f"not permitted: {right}"):
        events.listen(smoke)
    command.clean_up(smoke)
    assert rules_and_queues(smoke) == ([], [])


@pytest.mark.parametrize(
    "moment",
    [
        *("after-call.events.PutRule", "before-call.sqs.CreateQueue"),
        *("after-call.sqs.CreateQueue", "after-call.events.PutTargets"),
    ],
)
def test_ctrl_c_during_a_request_leaves_nothing(smoke: Smoke, hook: Hook, moment: str) -> None:
    """Whether the request has been carried out is not known."""
    hook(moment, interrupt)
    with pytest.raises(KeyboardInterrupt):
        events.listen(smoke)
    assert rules_and_queues(smoke) != ([], [])
    command.clean_up(smoke)
    assert rules_and_queues(smoke) == ([], [])


def test_what_cannot_be_removed_is_named(smoke: Smoke, hook: Hook) -> None:
    """The rest is removed all the same."""
    hook("before-parameter-build.events.DeleteRule", deny)
    events.listen(smoke)
    with pytest.raises(Disproven, match=r"rule media-worker-check-\w+: .*not authorized"):
        command.clean_up(smoke)
    assert rules_and_queues(smoke)[1] == []


def test_a_table_without_a_stream_has_no_events(smoke: Smoke) -> None:
    """That is how such a stack is meant to be."""
    smoke.stack = replace(smoke.stack, parameters={"ExistingJobsTable": "Jobs", "ExistingJobsTableStreamArn": ""})
    with pytest.raises(NotChecked, match="ExistingJobsTableStreamArn"):
        events.listen(smoke)
