"""`media-worker doctor`: checks everything that a job needs, and says for each problem what to do."""

# ruff: noqa: T201 - a command line prints

import json
import os
import shutil
import subprocess
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from media_worker.queues import read_queue_state

from media_worker_cli.errors import ACCESS_DENIED, CommandError
from media_worker_cli.notifications import merge_notifications, overlapping
from media_worker_cli.stack import Stack, choose_stack
from media_worker_cli.tables import as_table

if TYPE_CHECKING:
    from media_worker.aws import Aws

Verdict = Literal["ok", "warning", "problem", "unknown"]

# A function's timeout: the queues' visibility timeout must be longer.
_FUNCTION_TIMEOUT_S = 900
_MIN_RECEIVE_COUNT = 2
# Below this, both functions and everything else in the account soon wait for each other. New accounts have 10.
_FEW_CONCURRENT = 50
_FFMPEG_TIMEOUT_S = 20
# What S3 must announce: the prefix, and the setting with the URL of the queue.
_ANNOUNCED = (("input/", "CHUNKING_QUEUE_URL"), ("segments/", "SEGMENT_QUEUE_URL"))


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. `advice` says what to do, unless all is well."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""


def doctor(arguments: Namespace) -> int:
    """Check a stack: 0 if there is no problem, else 1. With `--notifications`, print a configuration instead."""
    if arguments.notifications:
        return _print_notifications(choose_stack(arguments.stack))
    checks = list(examine(lambda: choose_stack(arguments.stack), _find_ffmpeg(is_local=not arguments.stack)))
    problems = [check for check in checks if check.verdict == "problem"]
    if arguments.json:
        print(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        rows = [(check.verdict.upper(), check.name, check.found) for check in checks]
        print("\n".join(as_table(("RESULT", "CHECK", "FOUND"), rows)))
        for check in checks:
            if check.advice:
                print(f"\n{check.name}: {check.advice}")
    return 1 if problems else 0


def _print_notifications(stack: Stack) -> int:
    """The complete notification configuration for the input bucket: what it has, and media-worker's entries."""
    existing = stack.aws.s3.get_bucket_notification_configuration(Bucket=stack.aws.settings.input_bucket_name)
    merged = merge_notifications(existing, stack.outputs)
    print(json.dumps(merged, indent=2))
    if refused := overlapping(merged):
        raise CommandError(
            f"S3 refuses these entries beside media-worker's, because they overlap: {'; '.join(refused)}"
        )
    return 0


def _find_ffmpeg(*, is_local: bool) -> str | None:
    """The ffmpeg that this machine would use. The local cloud comes with one."""
    path = os.environ.get("FFMPEG_PATH") or shutil.which("ffmpeg")
    if path or not is_local:
        return path
    from media_worker_cli.local.ffmpeg import ffmpeg_path  # noqa: PLC0415 - see the package's docstring

    return str(ffmpeg_path())


def examine(find: Callable[[], Stack], ffmpeg: str | None) -> Iterator[Check]:
    """All checks. Those that need the stack follow only if it is found."""
    yield check_ffmpeg(ffmpeg)
    try:
        stack = find()
    except CommandError as error:
        yield Check("stack", "problem", str(error), "deploy the stack (docs/deploy.md) or correct its name or region")
        return
    yield Check("stack", "ok", f"{stack.name} in {stack.aws.settings.aws_region}: all outputs are there")
    yield _looked_at("credentials", "sts:GetCallerIdentity", partial(check_credentials, stack))
    for name, action, look in _checks_of(stack):
        yield _looked_at(name, action, look)


def _checks_of(stack: Stack) -> Iterator[tuple[str, str, Callable[[], Check]]]:
    """Name, required permission and function of each check of a stack."""
    aws, settings = stack.aws, stack.aws.settings
    for bucket in (settings.input_bucket_name, settings.output_bucket_name):
        yield f"bucket {bucket}", "s3:ListBucket", partial(check_bucket, aws, bucket)
    yield "notifications", "s3:GetBucketNotification", partial(check_notifications, stack)
    tables = [
        settings.jobs_table_name,
        settings.segment_completions_table_name,
        settings.reassembly_triggered_table_name,
        settings.segment_attempts_table_name,
    ]
    for table in filter(None, tables):
        yield f"table {table}", "dynamodb:DescribeTable", partial(check_table, aws, table)
    for name, url, is_ours in (
        ("chunking queue", settings.chunking_queue_url, True),
        ("segment queue", stack.segment_queue_url, False),
        ("reassembly queue", settings.reassembly_queue_url, True),
    ):
        yield (
            name,
            "sqs:GetQueueAttributes",
            partial(check_queue, aws, name, url, needs_function=is_ours),
        )
    yield "functions", "lambda:GetFunctionConfiguration", partial(check_functions, stack)
    yield "concurrency", "lambda:GetAccountSettings", partial(check_concurrency, stack)


def _looked_at(name: str, action: str, look: Callable[[], Check]) -> Check:
    """The check, or why it could not be made."""
    try:
        return look()
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in ACCESS_DENIED:
            return Check(name, "unknown", f"not permitted: {action}", f"allow {action} to have this checked")
        return Check(name, "problem", str(error), "the resource does not exist or is not reachable: deploy the stack")
    except BotoCoreError as error:
        return Check(name, "problem", str(error), "check credentials and network; `aws sts get-caller-identity` helps")


def check_ffmpeg(path: str | None) -> Check:
    """The ffmpeg of this machine, which `serve` and segment commands use. Functions have their own in a layer."""
    advice = "install ffmpeg or set FFMPEG_PATH; only `serve` and segment commands need it, the functions have a layer"
    if not path:
        return Check("ffmpeg", "warning", "there is none on PATH", advice)
    try:
        ended = subprocess.run(
            [path, "-version"], capture_output=True, text=True, timeout=_FFMPEG_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return Check("ffmpeg", "warning", f"{path} does not run: {error}", advice)
    return Check("ffmpeg", "ok", f"{path}, {ended.stdout.partition(' Copyright')[0]}")


def check_credentials(stack: Stack) -> Check:
    """Who calls."""
    identity = _client(stack, "sts").get_caller_identity()
    return Check("credentials", "ok", str(identity["Arn"]))


def check_bucket(aws: "Aws", bucket: str) -> Check:
    """A bucket exists and may be listed."""
    aws.s3.list_objects_v2(Bucket=bucket, MaxKeys=1)
    return Check(f"bucket {bucket}", "ok", "exists")


def check_notifications(stack: Stack) -> Check:
    """The input bucket announces sources and segments to their queues."""
    settings = stack.aws.settings
    configured = stack.aws.s3.get_bucket_notification_configuration(Bucket=settings.input_bucket_name)
    announced = {
        (_prefix_of(each), each["QueueArn"].rpartition(":")[2]): each["Events"]
        for each in configured.get("QueueConfigurations", [])
    }
    missing = []
    for prefix, setting in _ANNOUNCED:
        queue = stack.environment[setting].rpartition("/")[2]
        if not any(event.startswith("s3:ObjectCreated:") for event in announced.get((prefix, queue), [])):
            missing.append(f"{prefix} to {queue}")
    if missing:
        return Check(
            "notifications",
            "problem",
            f"not announced: {', '.join(missing)}",
            "for a bucket of your own, set what `media-worker doctor --notifications` prints "
            "(docs/existing-resources.md), else deploy the stack again",
        )
    return Check("notifications", "ok", "sources and segments are announced to their queues")


def _prefix_of(configured: Any) -> str:
    rules = configured.get("Filter", {}).get("Key", {}).get("FilterRules", [])
    return next((rule["Value"] for rule in rules if rule["Name"].lower() == "prefix"), "")


def check_table(aws: "Aws", table: str) -> Check:
    """A table is active; the Jobs table has the indexes by status."""
    described = aws.dynamodb.describe_table(TableName=table)["Table"]
    name = f"table {table}"
    if described["TableStatus"] != "ACTIVE":
        return Check(name, "warning", described["TableStatus"], "wait until the table is active")
    if table != aws.settings.jobs_table_name:
        return Check(name, "ok", "active")
    indexes = {each.get("IndexName") for each in described.get("GlobalSecondaryIndexes", [])}
    if missing := sorted({"status-created_at", "status-completed_at"} - indexes):
        return Check(
            name, "problem", f"without the index {', '.join(missing)}", "add the indexes of template.yaml to the table"
        )
    return Check(name, "ok", "active, with both indexes")


def check_queue(aws: "Aws", name: str, url: str, *, needs_function: bool) -> Check:
    """A queue's visibility timeout and redrive policy, and the messages in its dead-letter queue."""
    attributes: Any = aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    visibility_s = int(attributes["VisibilityTimeout"])
    if needs_function and visibility_s <= _FUNCTION_TIMEOUT_S:
        return Check(
            name,
            "problem",
            f"visibility timeout {visibility_s} s",
            f"set it above the function's timeout of {_FUNCTION_TIMEOUT_S} s: 960 s",
        )
    if "RedrivePolicy" not in attributes:
        return Check(name, "problem", "no redrive policy", "give the queue a dead-letter queue (maxReceiveCount 6)")
    policy = json.loads(attributes["RedrivePolicy"])
    receives = int(policy["maxReceiveCount"])
    if receives < _MIN_RECEIVE_COUNT or (needs_function and receives != aws.settings.max_receive_count):
        return Check(
            name,
            "problem",
            f"maxReceiveCount {receives}",
            f"set it to the functions' MAX_RECEIVE_COUNT, {aws.settings.max_receive_count}, which must be 2 or more",
        )
    return _check_dead_letters(aws, name, policy, f"visibility timeout {visibility_s} s, maxReceiveCount {receives}")


def _check_dead_letters(aws: "Aws", name: str, policy: Any, found: str) -> Check:
    *_, account, queue = policy["deadLetterTargetArn"].split(":")
    url = aws.sqs.get_queue_url(QueueName=queue, QueueOwnerAWSAccountId=account)["QueueUrl"]
    if dead := read_queue_state(aws, url).messages:
        return Check(
            name,
            "warning",
            f"{found}, {dead} dead letters",
            "`media-worker dlq list` says why, `media-worker dlq redrive` sends them again",
        )
    return Check(name, "ok", found)


def check_functions(stack: Stack) -> Check:
    """Both functions are active, and their queues start them."""
    lambda_, problems, settings = _client(stack, "lambda"), [], stack.aws.settings
    resources = _client(stack, "cloudformation").describe_stack_resources(StackName=stack.name)["StackResources"]
    functions = {
        each["LogicalResourceId"]: each["PhysicalResourceId"]
        for each in resources
        if each["ResourceType"] == "AWS::Lambda::Function"
    }
    for logical, queue_url in (
        ("ChunkingFunction", settings.chunking_queue_url),
        ("ReassemblyFunction", settings.reassembly_queue_url),
    ):
        if logical not in functions:
            problems.append(f"{logical} does not exist")
            continue
        problems += _problems_of(lambda_, logical, functions[logical], queue_url.rpartition("/")[2])
    if problems:
        return Check("functions", "problem", "; ".join(problems), "deploy the stack again; it sets all of these")
    return Check("functions", "ok", "both are active, and their queues start them")


def _problems_of(lambda_: Any, logical: str, name: str, queue: str) -> Sequence[str]:
    configuration = lambda_.get_function_configuration(FunctionName=name)
    state = configuration.get("State", "Active")
    found = [] if state in {"Active", "Inactive"} else [f"{logical} is {state}: {configuration.get('StateReason')}"]
    mappings = lambda_.list_event_source_mappings(FunctionName=name)["EventSourceMappings"]
    ours = [each for each in mappings if each.get("EventSourceArn", "").endswith(f":{queue}")]
    if not ours:
        found.append(f"{logical} has no event source mapping from {queue}")
    found += [f"{logical}'s event source mapping is {each['State']}" for each in ours if each["State"] != "Enabled"]
    return found


def check_concurrency(stack: Stack) -> Check:
    """How many functions of the account can run at once."""
    limits = _client(stack, "lambda").get_account_settings()["AccountLimit"]
    total, unreserved = limits["ConcurrentExecutions"], limits.get("UnreservedConcurrentExecutions", 0)
    found = f"{total} concurrent executions, {unreserved} of them unreserved"
    if unreserved < _FEW_CONCURRENT:
        return Check(
            "concurrency",
            "warning",
            found,
            "ask for more under Service Quotas, AWS Lambda, Concurrent executions; until then set MaximumConcurrency "
            "to less than half of it",
        )
    return Check("concurrency", "ok", found)


def _client(stack: Stack, service: Any) -> Any:
    settings = stack.aws.settings
    return boto3.client(service, region_name=settings.aws_region, endpoint_url=settings.aws_endpoint_url)
