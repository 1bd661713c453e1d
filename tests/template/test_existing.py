"""Buckets, tables and queues that exist already: what is given is used, and not made."""

import json
import re
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from tests.template.intrinsics import broken_rules

type Json = dict[str, Any]
type StackWith = Callable[..., Json]

# Terraform's names, and what each is given as.
BUCKETS = {"ExistingInputBucket": "their-input", "ExistingOutputBucket": "their-output"}
TABLES = {
    "ExistingJobsTable": "their-jobs",
    "ExistingSegmentCompletionsTable": "their-completions",
    "ExistingReassemblyTriggeredTable": "their-triggered",
}
QUEUES = {
    f"Existing{name}{kind}QueueArn": f"arn:aws:sqs:us-east-1:123456789012:their-{name.lower()}{kind.lower()}"
    for name, kind in product(("Chunking", "Segment", "Reassembly"), ("", "DeadLetter"))
}
ALL = BUCKETS | TABLES | QUEUES
MIXES = {"none": {}, "all": ALL, "queues": QUEUES, "buckets": BUCKETS, "tables": TABLES}

VARIABLES = {
    "INPUT_BUCKET_NAME": "their-input",
    "OUTPUT_BUCKET_NAME": "their-output",
    "JOBS_TABLE_NAME": "their-jobs",
    "SEGMENT_COMPLETIONS_TABLE_NAME": "their-completions",
    "REASSEMBLY_TRIGGERED_TABLE_NAME": "their-triggered",
    "CHUNKING_QUEUE_URL": "their-chunking",
    "REASSEMBLY_QUEUE_URL": "their-reassembly",
    "SEGMENT_QUEUE_URL": "their-segment",
}


def logical_ids(parameters: Json) -> set[str]:
    """The resources that these parameters stand for: those that must not be made."""
    return {name.removeprefix("Existing").removesuffix("Arn") for name in parameters}


def kinds(stack: Json, *types: str) -> set[str]:
    return {name for name, resource in stack["Resources"].items() if resource["Type"] in types}


def storage(stack: Json) -> set[str]:
    return kinds(stack, "AWS::S3::Bucket", "AWS::DynamoDB::Table", "AWS::SQS::Queue")


def references(value: Any) -> set[str]:
    """Every resource that a part of a template refers to."""
    found: set[str] = set()
    match value:
        case {"Ref": str(name)} | {"Fn::GetAtt": [str(name), _]}:
            found = {name}
        case {"Fn::Sub": [text, variables]}:
            found = references(text) - variables.keys() | references(variables)
        case dict() | list():
            parts = value.values() if isinstance(value, dict) else value
            found = set().union(*map(references, parts))
        case str():
            found = {part.split("}")[0].split(".")[0] for part in value.split("${")[1:]}
    return found


@pytest.mark.parametrize("given", MIXES.values(), ids=MIXES)
def test_given_is_not_made(stack: Json, stack_with: StackWith, given: Json) -> None:
    """What is given is not made, and everything else is."""
    assert storage(stack_with(**given)) == storage(stack) - logical_ids(given)


@pytest.mark.parametrize("name", [*BUCKETS, *TABLES])
def test_each_alone(stack: Json, stack_with: StackWith, name: str) -> None:
    """Each bucket and each table can be given by itself."""
    assert storage(stack_with(**{name: ALL[name]})) == storage(stack) - logical_ids({name: ""})


@pytest.mark.parametrize("given", MIXES.values(), ids=MIXES)
def test_nothing_hangs(stack_with: StackWith, given: Json) -> None:
    """Nothing refers to a resource that is not made: CloudFormation would refuse the template."""
    made = stack_with(**given)
    known = made["Resources"].keys()
    used = references(made["Resources"]) | references(made["Outputs"])
    assert {name for name in used if not name.startswith("AWS::")} <= known


@pytest.mark.parametrize(("variable", "name"), VARIABLES.items())
def test_functions_use_what_is_given(stack_with: StackWith, variable: str, name: str) -> None:
    """Both functions are told the given names; a queue's URL is made of its ARN."""
    resources = stack_with(**ALL)["Resources"]
    for function in ("ChunkingFunction", "ReassemblyFunction"):
        value = resources[function]["Properties"]["Environment"]["Variables"][variable]
        expected = name
        if variable.endswith("_URL"):
            expected = f"https://sqs.${{AWS::Region}}.${{AWS::URLSuffix}}/123456789012/{name}"
            value = value["Fn::Sub"]
        assert value == expected


@pytest.mark.parametrize("name", ["Chunking", "Reassembly"])
def test_event_source_is_the_given_queue(stack_with: StackWith, name: str) -> None:
    """A function is fed by the very queue that was given."""
    mapping = stack_with(**ALL)["Resources"][f"{name}FunctionQueue"]["Properties"]
    assert mapping["EventSourceArn"] == QUEUES[f"Existing{name}QueueArn"]


def as_given(resource: Any) -> Any:
    """A policy's resources in a stack that makes everything, with the given name or ARN instead of the one made."""
    match resource:
        case list():
            return [as_given(one) for one in resource]
        case {"Fn::GetAtt": [name, "Arn"]}:
            return QUEUES.get(f"Existing{name}Arn", resource)
        case {"Fn::Sub": text}:
            return {"Fn::Sub": re.sub(r"\$\{(\w+)\}", lambda name: (BUCKETS | TABLES)[f"Existing{name[1]}"], text)}
    raise NotImplementedError(resource)


@pytest.mark.parametrize("name", ["Chunking", "Reassembly"])
def test_roles_follow(stack: Json, stack_with: StackWith, name: str) -> None:
    """A role has the same rights on what is given as on what is made, and on nothing else."""

    def statements(made: Json) -> list[Json]:
        (policy,) = made["Resources"][f"{name}Role"]["Properties"]["Policies"]
        found: list[Json] = policy["PolicyDocument"]["Statement"]
        return found

    own = [statement | {"Resource": as_given(statement["Resource"])} for statement in statements(stack)]
    assert statements(stack_with(**ALL)) == own


def test_new_bucket_sends_to_given_queues(stack_with: StackWith) -> None:
    """A bucket of ours announces uploads and segments to the queues that were given."""
    bucket = stack_with(**QUEUES)["Resources"]["InputBucket"]["Properties"]
    found = [one["Queue"] for one in bucket["NotificationConfiguration"]["QueueConfigurations"]]
    assert found == [QUEUES["ExistingChunkingQueueArn"], QUEUES["ExistingSegmentQueueArn"]]


@pytest.mark.parametrize("name", ["Chunking", "Segment"])
def test_new_queue_admits_the_given_bucket(stack_with: StackWith, name: str) -> None:
    """A queue of ours takes events from the bucket that was given, and from no other."""
    resources = stack_with(**BUCKETS)["Resources"]
    (statement,) = resources[f"{name}QueuePolicy"]["Properties"]["PolicyDocument"]["Statement"]
    assert statement["Condition"]["ArnLike"] == {"aws:SourceArn": {"Fn::Sub": "arn:${AWS::Partition}:s3:::their-input"}}


def test_alarms_watch_given_queues(watching_with: StackWith) -> None:
    """Alarms know the given queues by the names in their ARNs."""
    resources = watching_with(**ALL)["Resources"]
    for name, (queue, kind) in {
        "ChunkingDeadLetterAlarm": ("chunking", "deadletter"),
        "SegmentDeadLetterAlarm": ("segment", "deadletter"),
        "ReassemblyDeadLetterAlarm": ("reassembly", "deadletter"),
        "ChunkingAgeAlarm": ("chunking", ""),
        "SegmentAgeAlarm": ("segment", ""),
        "ReassemblyAgeAlarm": ("reassembly", ""),
    }.items():
        (dimension,) = resources[name]["Properties"]["Dimensions"]
        assert dimension == {"Name": "QueueName", "Value": f"their-{queue}{kind}"}


def todo(stack: Json) -> dict[str, Json]:
    """What the owner must still do, as JSON to paste."""
    texts = {name: output["Value"] for name, output in stack["Outputs"].items() if name.startswith("Todo")}
    found: dict[str, Json] = {}
    for name, value in texts.items():
        text = value if isinstance(value, str) else value["Fn::Sub"]
        found[name] = json.loads(text if isinstance(text, str) else text[0])
    return found


def test_nothing_to_do_for_a_new_stack(stack: Json) -> None:
    """A stack that makes everything leaves nothing to do."""
    assert todo(stack) == {}


def test_what_the_owner_must_do(stack_with: StackWith) -> None:
    """With everything given, outputs hold the bucket's notification and the queues' policies, ready to be pasted."""
    found = todo(stack_with(**ALL))
    assert found.keys() == {
        *("TodoInputBucketNotification", "TodoInputBucketLifecycle", "TodoOutputBucketLifecycle"),
        *("TodoChunkingQueuePolicy", "TodoSegmentQueuePolicy"),
    }
    configurations = found["TodoInputBucketNotification"]["QueueConfigurations"]
    assert [one["QueueArn"] for one in configurations] == [
        QUEUES["ExistingChunkingQueueArn"],
        QUEUES["ExistingSegmentQueueArn"],
    ]
    rules = [{rule["Name"]: rule["Value"] for rule in one["Filter"]["Key"]["FilterRules"]} for one in configurations]
    assert rules == [{"prefix": "input/", "suffix": ".mp4"}, {"prefix": "segments/", "suffix": ".mp4"}]
    for name in ("Chunking", "Segment"):
        statement = found[f"Todo{name}QueuePolicy"]
        assert statement["Resource"] == QUEUES[f"Existing{name}QueueArn"]
        assert statement["Condition"]["ArnLike"] == {"aws:SourceArn": "arn:${AWS::Partition}:s3:::their-input"}


def test_what_the_owner_of_a_bucket_must_do(stack_with: StackWith) -> None:
    """With buckets given and queues made, their own settings are left: the queues' policies are ours."""
    left = {"TodoInputBucketNotification", "TodoInputBucketLifecycle", "TodoOutputBucketLifecycle"}
    assert todo(stack_with(**BUCKETS)).keys() == left


def test_what_the_owner_of_queues_must_do(stack_with: StackWith) -> None:
    """With queues given and a bucket made, only their policies are left: the notification is ours."""
    assert todo(stack_with(**QUEUES)).keys() == {"TodoChunkingQueuePolicy", "TodoSegmentQueuePolicy"}


@pytest.mark.parametrize("name", ["Chunking", "Segment", "Reassembly"])
def test_dead_letter_queue_is_asked_for(template: Json, defaults: Json, name: str) -> None:
    """A queue is given with its dead-letter queue: without one, no alarm fires for a message that cannot be read."""
    queue = {f"Existing{name}QueueArn": QUEUES[f"Existing{name}QueueArn"]}
    assert broken_rules(template, defaults | queue) == [
        f"Existing{name}QueueArn needs Existing{name}DeadLetterQueueArn"
    ]
    assert broken_rules(template, defaults | QUEUES) == []
    assert broken_rules(template, defaults) == []


@pytest.mark.parametrize("parameter", [*BUCKETS, *TABLES, *QUEUES])
def test_a_parameter_is_what_it_says(template: Json, parameter: str) -> None:
    """An ARN for a name, or a URL for an ARN, is refused before anything is made."""
    pattern = template["Parameters"][parameter]["AllowedPattern"]
    assert re.fullmatch(pattern, ALL[parameter])
    assert re.fullmatch(pattern, "")
    wrong = "https://sqs.us-east-1.amazonaws.com/123456789012/q" if parameter in QUEUES else "arn:aws:s3:::their-input"
    assert not re.fullmatch(pattern, wrong)


@pytest.mark.parametrize(("bucket", "existing"), [("InputBucket", "Input"), ("OutputBucket", "Output")])
def test_given_buckets_get_the_rules_of_new_ones(
    stack: Json, stack_with: StackWith, bucket: str, existing: str
) -> None:
    """The outputs say in S3's own JSON what the template sets for a bucket that it makes."""
    made = stack["Resources"][bucket]["Properties"]["LifecycleConfiguration"]["Rules"]
    output = stack_with(**{f"Existing{bucket}": "mine"})["Outputs"][f"Todo{existing}BucketLifecycle"]["Value"]
    given = json.loads(output)["Rules"]
    assert [(_scope(rule), rule.get("Expiration", {}).get("Days")) for rule in given] == [
        ((rule.get("Prefix", ""), rule.get("TagFilters", [])), rule.get("ExpirationInDays")) for rule in made
    ]
    assert given[0]["AbortIncompleteMultipartUpload"] == made[0]["AbortIncompleteMultipartUpload"]


def _scope(rule: Json) -> tuple[str, list[Json]]:
    chosen = rule["Filter"].get("And", rule["Filter"])
    return chosen["Prefix"], chosen.get("Tags", [])
