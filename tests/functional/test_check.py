"""What `media-worker check` says about a stack that does not do what it should."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from itertools import count, takewhile
from pathlib import Path
from typing import Any, NoReturn

import boto3
import pytest
from botocore.awsrequest import AWSResponse, HTTPHeaders
from botocore.exceptions import ClientError
from media_worker.events import build_events_handler
from media_worker.jobs import Job, JobStatus
from media_worker.keys import build_segment_key
from media_worker.messages import build_object_created_body
from media_worker.s3 import describe
from media_worker_cli.check import command, events, jobs, rights, storage
from media_worker_cli.check.clip import make_clip
from media_worker_cli.check.command import STEPS, Finding, Step, examine
from media_worker_cli.check.smoke import Disproven, NotChecked, Smoke, Trial
from media_worker_cli.local.ffmpeg import ffmpeg_path
from media_worker_cli.stack import Stack as CliStack

from tests.functional.stack import ENVIRONMENT, INPUT, OUTPUT, Stack
from tests.rights.policies import Grant, Policy, queue_arn, table_arn

SMALL = make_clip(64, 48, 48)


class Silent:
    def say(self, text: str) -> None:
        """Nothing."""

    def show(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def smoke(stack: Stack) -> Smoke:
    url = stack.aws.sqs.create_queue(QueueName="segments")["QueueUrl"]
    environment = ENVIRONMENT | {"SEGMENT_QUEUE_URL": url}
    trials = [Trial("copy", "check-copy-1", SMALL), Trial("ffmpeg", "check-ffmpeg-2", SMALL)]
    return Smoke(CliStack("mine", stack.aws, environment), timeout_s=0.1, interval_s=0.01, trials=trials)


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
    begun = [step for step in STEPS if step.name in {"rule for events", "upload"}]
    monkeypatch.setattr(command, "STEPS", (*begun, Step("interrupted", None, lambda _: interrupt())))
    findings: list[Finding] = []
    with pytest.raises(KeyboardInterrupt):
        examine(smoke, Silent(), findings)
    assert [finding.check for finding in findings] == ["rule for events", "upload", "cleanup"]
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


@pytest.mark.parametrize(("limit", "applies"), [(0, True), (131_072, False)])
def test_a_rule_for_large_objects_does_not_count(limit: int, applies: bool) -> None:
    """It would leave small segments. A limit of 0 is none."""
    rule = {"Filter": {"And": {"Prefix": "jobs/", "ObjectSizeGreaterThan": limit}}}
    assert storage._applies(rule, "jobs/a/segments/0.mp4", {}) == applies


TAGGED = {"And": {"Prefix": "jobs/", "Tags": [{"Key": "kind", "Value": "processed-segment"}]}}
OTHER_TAG = {"And": {"Prefix": "jobs/", "Tags": [{"Key": "kind", "Value": "temporary"}]}}


@pytest.mark.parametrize(
    ("inputs", "outputs", "found"),
    [
        (
            {"Prefix": "segments/"},
            TAGGED,
            "segments after 7 days, processed segments by the tag kind=processed-segment after 7 days, finals never",
        ),
        ({"Prefix": "input/"}, TAGGED, "no lifecycle rule removes segments"),
        ({"Prefix": "segments/"}, OTHER_TAG, "no lifecycle rule removes processed segments, whose tag is kind="),
        ({"Prefix": "segments/"}, {"Prefix": "jobs/"}, "a lifecycle rule removes finals after 7 days"),
    ],
)
def test_segments_expire_and_finals_do_not(smoke: Smoke, inputs: Any, outputs: Any, found: str) -> None:
    """The tag of a processed segment must be that of the output bucket's rule."""
    s3, trial = smoke.aws.s3, smoke.trial("copy")
    trial.job = Job(trial.job_id, JobStatus.COMPLETED, "sbs")
    s3.put_object(Bucket=INPUT, Key=build_segment_key(trial.job_id, 0, 2, "sbs"))
    bucket, key = smoke.processed(trial, 0)
    s3.put_object(Bucket=bucket, Key=key, Tagging="kind=processed-segment")
    for name, applies_to in ((INPUT, inputs), (OUTPUT, outputs)):
        rules: Any = [{"ID": "a", "Status": "Enabled", "Expiration": {"Days": 7}, "Filter": applies_to}]
        s3.put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": rules})
    try:
        seen = storage.expiry(smoke)
    except Disproven as error:
        seen = str(error)
    assert seen.startswith(found)


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


def end(smoke: Smoke, stack: Stack, status: str = "completed", **differing: Any) -> None:
    """Both jobs end, and the stack sends an event about each."""
    for trial in smoke.trials:
        stack.add_job(trial.job_id, status={"S": status}, total_segments={"N": "2"})
        row = stack.row("Jobs", trial.job_id)
        record = {"eventID": "1", "dynamodb": {"NewImage": row | differing}}
        build_events_handler(smoke.client("events"), stack="mine", output_bucket=OUTPUT)({"Records": [record]}, None)


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_the_events_of_both_jobs_arrive(smoke: Smoke, stack: Stack, status: str) -> None:
    """Only this rule may send to the queue. Nothing is left of both."""
    events.listen(smoke)
    (rule,), (url,) = rules_and_queues(smoke)
    policy = smoke.aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["Policy"])["Attributes"]["Policy"]
    (statement,) = json.loads(policy)["Statement"]
    assert statement["Resource"] == f"arn:aws:sqs:us-east-1:123456789012:{rule}"
    assert statement["Condition"] == {
        "ArnEquals": {"aws:SourceArn": f"arn:aws:events:us-east-1:123456789012:rule/{rule}"}
    }
    end(smoke, stack, status)
    assert events.events(smoke) == "one for each end of a job: " + ", ".join(2 * [f"Job {status.title()}"])
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


# moto has no policy simulator, so the evaluator of the rights tests answers in its name. The local cloud has one.
KEY = "arn:aws:kms:us-east-1:123456789012:key/1"
ARNS = {
    "InputBucket": f"arn:aws:s3:::{INPUT}",
    "OutputBucket": f"arn:aws:s3:::{OUTPUT}",
    "SegmentQueue": queue_arn("segments"),
    "ReassemblyQueue": queue_arn("reassembly"),
    **{f"{name}Table": table_arn(name) for name in ("Jobs", "SegmentCompletions", "SegmentAttempts")},
    "ReassemblyTriggeredTable": table_arn("ReassemblyTriggered"),
}


def document_of_workers() -> str:
    text = (Path(__file__).parents[2] / "docs" / "segment-worker-policy.json").read_text()
    for logical_id, arn in ARNS.items():
        text = text.replace(f"${{{logical_id}.Arn}}", arn)
    return text


DOCUMENT = document_of_workers()


def simulate(params: Any, **_: Any) -> Any:
    """Answers SimulateCustomPolicy."""
    asked, number = params["body"], count(1)
    policy = Policy.parse([json.loads(asked["PolicyInputList.member.1"])])
    resource = asked["ResourceArns.member.1"]
    assert "ResourceArns.member.2" not in asked
    actions = takewhile(bool, (asked.get(f"ActionNames.member.{each}") for each in number))
    results = [
        {"EvalActionName": each, "EvalDecision": "allowed" if policy.allows(each, resource) else "implicitDeny"}
        for each in actions
    ]
    return AWSResponse("", 200, HTTPHeaders(), None), {"EvaluationResults": results, "IsTruncated": False}


@pytest.fixture
def examine_policy(smoke: Smoke, hook: Hook) -> Callable[[str], str]:
    """Makes a stack whose managed policy has a document, and checks that policy."""
    hook("before-call.iam.SimulateCustomPolicy", simulate)
    settings, numbers = replace(smoke.aws.settings, segment_attempts_table_name="SegmentAttempts"), count()

    def examine_policy(document: str, **parameters: str) -> str:
        created = smoke.client("iam").create_policy(PolicyName=f"worker-{next(numbers)}", PolicyDocument=document)
        outputs = {"SegmentWorkerPolicyArn": created["Policy"]["Arn"]}
        smoke.stack = replace(
            smoke.stack, aws=replace(smoke.aws, settings=settings), outputs=outputs, parameters=parameters
        )
        return rights.worker_policy(smoke)

    return examine_policy


def test_the_policy_is_checked_for_all_that_the_kit_uses(smoke: Smoke, examine_policy: Callable[[str], str]) -> None:
    """It is the policy that the tests of the kit prove to be enough and no more. So no right is left out."""
    found = examine_policy(DOCUMENT)
    resources = rights._resources(smoke, smoke.stack.outputs["SegmentWorkerPolicyArn"])
    used = [
        (action, resources[name]) for name, actions in rights.USED.items() if name in resources for action in actions
    ]
    policy = Policy.parse([json.loads(DOCUMENT)])
    grants = {Grant(one.sid, right[0]) for one in policy.statements for right in used if one.concerns(*right)}
    assert grants == set(policy.grants)
    assert found.startswith(f"allows all {len(used)} rights that a worker uses, and none of 6 ")


def test_every_right_that_workers_lack_is_found(examine_policy: Callable[[str], str]) -> None:
    """The finding names the action and the resource."""
    for action in {grant.action for grant in Policy.parse([json.loads(DOCUMENT)]).grants}:
        with pytest.raises(Disproven, match=f"it does not allow {action} on arn:"):
            examine_policy(DOCUMENT.replace(f'"{action}"', '"none:None"'))


def test_rights_that_workers_must_not_have_are_found(examine_policy: Callable[[str], str]) -> None:
    """Sources, finals, and deleting."""
    allowing = {"Sid": "All", "Effect": "Allow", "Action": "*", "Resource": "*"}
    with pytest.raises(Disproven, match=r"it allows s3:GetObject on .*source.mp4; .*it allows s3:PutObject on .*final"):
        examine_policy(json.dumps({"Version": "2012-10-17", "Statement": [allowing]}))


def test_a_key_of_the_stack_is_checked(examine_policy: Callable[..., str]) -> None:
    """Without it, a worker could read and write nothing."""
    with pytest.raises(Disproven, match=f"it does not allow kms:Decrypt on {KEY}"):
        examine_policy(DOCUMENT, KmsKeyArn=KEY)


@pytest.mark.parametrize("right", ["iam:GetPolicy", "iam:GetPolicyVersion", "iam:SimulateCustomPolicy"])
def test_reading_the_policy_needs_rights(examine_policy: Callable[[str], str], hook: Hook, right: str) -> None:
    """Without one, the policy is not checked."""
    hook(f"before-parameter-build.{right.replace(':', '.')}", deny)
    with pytest.raises(NotChecked, match=f"not permitted: {right}"):
        examine_policy(DOCUMENT)


def test_a_stack_of_an_older_version_has_no_policy(smoke: Smoke) -> None:
    """Then there is nothing to check."""
    with pytest.raises(NotChecked, match="no output SegmentWorkerPolicyArn"):
        rights.worker_policy(smoke)
