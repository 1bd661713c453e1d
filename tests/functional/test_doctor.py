"""`doctor` finds what keeps jobs from working, and says what to do."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from media_worker_cli import doctor
from media_worker_cli.doctor import Check, check_ffmpeg, check_queue, check_table, examine
from media_worker_cli.errors import UsageError
from media_worker_cli.local.ffmpeg import ffmpeg_path
from media_worker_cli.main import main
from media_worker_cli.stack import Stack as CliStack

from tests.functional.stack import ENVIRONMENT, INPUT, Stack

ARN = "arn:aws:sqs:us-east-1:123456789012:{}"
DEFAULT = {"VisibilityTimeout": "960", "maxReceiveCount": 6}


class Services:
    """What Lambda, CloudFormation and STS answer: everything is well."""

    limit = 1_000
    mapping = "Enabled"

    def get_caller_identity(self) -> Any:
        return {"Arn": "arn:aws:iam::123456789012:user/ann"}

    def describe_stack_resources(self, **_: Any) -> Any:
        names = ("ChunkingFunction", "ReassemblyFunction")
        found = [{"LogicalResourceId": each, "PhysicalResourceId": each.lower()} for each in names]
        return {"StackResources": [each | {"ResourceType": "AWS::Lambda::Function"} for each in found]}

    def get_function_configuration(self, **_: Any) -> Any:
        return {"State": "Active"}

    def list_event_source_mappings(self, FunctionName: str) -> Any:  # noqa: N803 - boto3's name
        queue = FunctionName.removesuffix("function")
        return {"EventSourceMappings": [{"EventSourceArn": ARN.format(queue), "State": self.mapping}]}

    def get_account_settings(self) -> Any:
        limits = {"ConcurrentExecutions": self.limit, "UnreservedConcurrentExecutions": self.limit}
        return {"AccountLimit": limits}


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> Services:
    services = Services()
    monkeypatch.setattr(doctor, "_client", lambda *_: services)
    return services


def set_queue(stack: Stack, name: str, settings: dict[str, Any]) -> str:
    """A queue with a dead-letter queue."""
    stack.aws.sqs.create_queue(QueueName=f"{name}-dead")
    policy = {"deadLetterTargetArn": ARN.format(f"{name}-dead"), "maxReceiveCount": settings["maxReceiveCount"]}
    url = stack.aws.sqs.create_queue(QueueName=name)["QueueUrl"]
    attributes = {"VisibilityTimeout": settings["VisibilityTimeout"], "RedrivePolicy": json.dumps(policy)}
    stack.aws.sqs.set_queue_attributes(QueueUrl=url, Attributes=attributes)  # type: ignore[arg-type]
    return url


@pytest.fixture
def healthy(stack: Stack, services: Services) -> CliStack:
    """A stack without a problem."""
    for name in ("chunking", "reassembly"):
        set_queue(stack, name, DEFAULT)
    segments = set_queue(stack, "segments", DEFAULT | {"VisibilityTimeout": "60"})
    index = {"KeySchema": [{"AttributeName": "status", "KeyType": "HASH"}], "Projection": {"ProjectionType": "ALL"}}
    names = ("status-created_at", "status-completed_at")
    stack.aws.dynamodb.update_table(
        TableName="Jobs",
        AttributeDefinitions=[{"AttributeName": "status", "AttributeType": "S"}],
        GlobalSecondaryIndexUpdates=[{"Create": {"IndexName": name, **index}} for name in names],  # type: ignore[typeddict-item]
    )
    notify(stack, input="chunking", segments="segments")
    stack.aws = replace(stack.aws, settings=replace(stack.aws.settings, segment_queue_url=segments))
    return CliStack("mine", stack.aws, ENVIRONMENT | {"SEGMENT_QUEUE_URL": segments})


def notify(stack: Stack, **queues: str) -> None:
    configurations = [
        {
            "QueueArn": ARN.format(queue),
            "Events": ["s3:ObjectCreated:*"],
            "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": f"{prefix}/"}]}},
        }
        for prefix, queue in queues.items()
    ]
    stack.aws.s3.put_bucket_notification_configuration(
        Bucket=INPUT,
        NotificationConfiguration={"QueueConfigurations": configurations},  # type: ignore[typeddict-item]
    )


def checks(stack: CliStack) -> dict[str, Check]:
    return {check.name: check for check in examine(lambda: stack, str(ffmpeg_path()))}


def test_a_healthy_stack_has_no_problem(healthy: CliStack) -> None:
    """Everything is looked at."""
    found = checks(healthy)
    assert {check.verdict for check in found.values()} == {"ok"}
    assert len(found) == 14
    assert found["credentials"].found == "arn:aws:iam::123456789012:user/ann"


@pytest.mark.parametrize(
    ("settings", "found", "advice"),
    [
        ({"VisibilityTimeout": "900"}, "visibility timeout 900 s", "960 s"),
        ({"maxReceiveCount": 3}, "maxReceiveCount 3", "MAX_RECEIVE_COUNT, 6"),
    ],
)
def test_a_queue_with_bad_settings_is_a_problem(
    healthy: CliStack, stack: Stack, settings: dict[str, Any], found: str, advice: str
) -> None:
    """With these, messages are delivered while they are worked on, or jobs do not end."""
    set_queue(stack, "chunking", DEFAULT | settings)
    check = checks(healthy)["chunking queue"]
    assert (check.verdict, check.found) == ("problem", found)
    assert advice in check.advice


def test_a_queue_without_dead_letters_is_a_problem(stack: Stack) -> None:
    """A message that nobody can handle would be delivered until it expires."""
    url = stack.aws.sqs.create_queue(QueueName="plain", Attributes={"VisibilityTimeout": "960"})["QueueUrl"]
    check = check_queue(stack.aws, "plain", url, needs_function=True)
    assert (check.verdict, check.found) == ("problem", "no redrive policy")


def test_dead_letters_are_a_warning(healthy: CliStack, stack: Stack) -> None:
    """The advice names the command that shows them."""
    dead = stack.aws.sqs.get_queue_url(QueueName="segments-dead")["QueueUrl"]
    stack.aws.sqs.send_message(QueueUrl=dead, MessageBody="x")
    check = checks(healthy)["segment queue"]
    assert (check.verdict, check.found[-14:]) == ("warning", "1 dead letters")
    assert "media-worker dlq list" in check.advice


def test_a_bucket_that_announces_nothing_is_a_problem(healthy: CliStack, stack: Stack) -> None:
    """The most frequent mistake with a bucket of one's own."""
    notify(stack, input="chunking")
    check = checks(healthy)["notifications"]
    assert (check.verdict, check.found) == ("problem", "not announced: segments/ to segments")
    assert "doctor --notifications" in check.advice


def test_a_jobs_table_without_its_indexes_is_a_problem(stack: Stack) -> None:
    """Listings read them."""
    check = check_table(stack.aws, "Jobs")
    assert (check.verdict, check.found) == ("problem", "without the index status-completed_at, status-created_at")


def test_a_disabled_event_source_is_a_problem(healthy: CliStack, services: Services) -> None:
    """Messages wait, and nothing fails."""
    services.mapping = "Disabled"
    assert checks(healthy)["functions"].found.startswith("ChunkingFunction's event source mapping is Disabled")


def test_a_new_account_is_a_warning(healthy: CliStack, services: Services) -> None:
    """It can run ten functions at once."""
    services.limit = 10
    check = checks(healthy)["concurrency"]
    assert (check.verdict, check.found) == ("warning", "10 concurrent executions, 10 of them unreserved")


def test_what_may_not_be_read_is_unknown(
    healthy: CliStack, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the permission. The other checks go on."""

    def deny() -> Any:
        raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetAccountSettings")

    monkeypatch.setattr(services, "get_account_settings", deny)
    check = checks(healthy)["concurrency"]
    assert (check.verdict, check.found) == ("unknown", "not permitted: lambda:GetAccountSettings")


def test_a_resource_that_is_gone_is_a_problem(healthy: CliStack, stack: Stack) -> None:
    """And ends the command with 1."""
    stack.aws.dynamodb.delete_table(TableName="SegmentCompletions")
    assert checks(healthy)["table SegmentCompletions"].verdict == "problem"


def test_without_a_stack_nothing_else_is_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 1, and the advice says what to do."""

    def find(_: object) -> Any:
        raise UsageError("there is no stack 'mine' in eu-west-1")

    monkeypatch.setattr(doctor, "choose_stack", find)
    assert main(["doctor", "--stack", "mine", "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in printed] == ["ffmpeg", "stack"]
    assert printed[1]["verdict"] == "problem"


def test_an_ffmpeg_that_does_not_run_is_a_warning(tmp_path: Path) -> None:
    """The functions have their own."""
    broken = tmp_path / "ffmpeg"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert check_ffmpeg(str(broken)).verdict == "warning"
    assert check_ffmpeg(None).found == "there is none on PATH"
