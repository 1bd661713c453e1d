"""Each function with the rights of its role and no others. The policies are those of template.yaml."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.functional.stack import INPUT, OUTPUT
from tests.rights.conftest import NewStack
from tests.rights.enforcement import Guard, is_refused
from tests.rights.policies import ARNS, GIVEN, KEY, KEYED, Grant, Policy, Statement, read_policy
from tests.rights.scenarios import SCENARIOS, Scenario, chunk_with_copies, request_a_reassembly
from tests.rights.stack import FED, FUNCTIONS, GuardedStack

# Lambda itself uses these with the function's role, so no test run in a process needs them.
SERVICE_GRANTS = {
    "sqs:ReceiveMessage": "the event source mapping polls the queue",
    "sqs:DeleteMessage": "the event source mapping deletes what the handler has acknowledged",
    "sqs:GetQueueAttributes": "the event source mapping reads the queue's attributes to scale, and refuses without it",
    "logs:CreateLogStream": "the runtime opens a stream for each instance",
    "logs:PutLogEvents": "the runtime writes what the function prints",
}


USED_IN_RUNS = [
    pytest.param(function, grant, id=f"{function}-{grant}")
    for function in FUNCTIONS
    for grant in read_policy(function).grants
    if (grant.action not in SERVICE_GRANTS or function not in FED) and not grant.action.startswith("logs:")
]


@pytest.mark.parametrize(
    ("function", "scenario"),
    [
        pytest.param(function, scenario, id=f"{function}-{scenario.__name__}")
        for function in FUNCTIONS
        for scenario in SCENARIOS[function]
    ],
)
def test_the_rights_are_enough(new_stack: NewStack, function: str, scenario: Scenario) -> None:
    """With the rights of its role, a function can do everything it has to, and asks for nothing else."""
    with new_stack(function, read_policy(function)) as stack:
        scenario(stack)
        assert stack.guard.refused == []


@pytest.mark.parametrize(("function", "grant"), USED_IN_RUNS)
def test_each_action_is_needed(new_stack: NewStack, function: str, grant: Grant) -> None:
    """Without any one action of a statement, a scenario fails because of exactly that action."""
    policy = read_policy(function).without(grant)
    for scenario in SCENARIOS[function]:
        with new_stack(function, policy) as stack:
            try:
                scenario(stack)
            except (AssertionError, stack.open.aws.s3.exceptions.ClientError):
                assert {action for action, _ in stack.guard.refused} == {grant.action}
                return
    pytest.fail(f"{function} can do without {grant}: take it out of the template")


@pytest.mark.parametrize("function", FED)
def test_the_rights_that_lambda_uses(function: str) -> None:
    """The role lets Lambda poll the function's own queue and write to its own log group, and no others."""
    policy = read_policy(function)
    own = {"sqs": ARNS[f"{function}Queue"], "logs": ARNS[f"{function}LogGroup"]}
    for action in SERVICE_GRANTS:
        granted = [statement.resources for statement in policy.statements if action in statement.actions]
        assert granted == [(own[action.partition(":")[0]],)]


JOB, OTHER_TABLE = {"job_id": {"S": "job-1"}}, {"id": {"S": "1"}}
CHUNKING_URL = "https://sqs.us-east-1.amazonaws.com/123456789012/chunking"
REASSEMBLY_URL = "https://sqs.us-east-1.amazonaws.com/123456789012/reassembly"
SOURCE, SEGMENT = "input/job-1/source.mp4", "segments/job-1/00000_00001_sbs.mp4"
PROCESSED, FINAL = "jobs/job-1/segments/0.mp4", "jobs/job-1/final.mp4"
SET = {"UpdateExpression": "SET a = :a", "ExpressionAttributeValues": {":a": {"S": "a"}}}
OF_JOB = {"KeyConditionExpression": "job_id = :job", "ExpressionAttributeValues": {":job": {"S": "job-1"}}}

BOTH: list[tuple[str, str, dict[str, Any]]] = [
    ("s3", "get_object", {"Bucket": INPUT, "Key": "elsewhere/source.mp4"}),
    ("s3", "get_object", {"Bucket": OUTPUT, "Key": "elsewhere/final.mp4"}),
    ("s3", "get_object", {"Bucket": "another-bucket", "Key": SOURCE}),
    ("s3", "put_object", {"Bucket": INPUT, "Key": SOURCE}),
    ("s3", "put_object", {"Bucket": INPUT, "Key": "elsewhere/segment.mp4"}),
    ("s3", "put_object", {"Bucket": OUTPUT, "Key": PROCESSED}),
    ("s3", "delete_object", {"Bucket": INPUT, "Key": SOURCE}),
    ("s3", "delete_object", {"Bucket": INPUT, "Key": SEGMENT}),
    ("s3", "delete_object", {"Bucket": OUTPUT, "Key": PROCESSED}),
    ("s3", "delete_object", {"Bucket": OUTPUT, "Key": FINAL}),
    ("s3", "delete_objects", {"Bucket": OUTPUT, "Delete": {"Objects": [{"Key": PROCESSED}, {"Key": FINAL}]}}),
    ("s3", "delete_bucket", {"Bucket": OUTPUT}),
    ("s3", "put_object_acl", {"Bucket": OUTPUT, "Key": FINAL, "ACL": "public-read"}),
    ("s3", "put_bucket_policy", {"Bucket": INPUT, "Policy": "{}"}),
    ("s3", "list_buckets", {}),
    ("dynamodb", "get_item", {"TableName": "Others", "Key": OTHER_TABLE}),
    ("dynamodb", "scan", {"TableName": "Jobs"}),
    ("dynamodb", "put_item", {"TableName": "Jobs", "Item": JOB}),
    ("dynamodb", "delete_item", {"TableName": "Jobs", "Key": JOB}),
    ("dynamodb", "put_item", {"TableName": "SegmentCompletions", "Item": JOB | {"segment_index": {"N": "0"}}}),
    ("dynamodb", "update_item", {"TableName": "SegmentCompletions", "Key": JOB | {"segment_index": {"N": "0"}}, **SET}),
    ("dynamodb", "delete_table", {"TableName": "Jobs"}),
    ("sqs", "purge_queue", {"QueueUrl": CHUNKING_URL}),
    ("sqs", "purge_queue", {"QueueUrl": REASSEMBLY_URL}),
    ("sqs", "delete_queue", {"QueueUrl": CHUNKING_URL}),
]
# Only chunking clears what an earlier run has left.
CLEARING: list[tuple[str, str, dict[str, Any]]] = [
    ("dynamodb", "delete_item", {"TableName": "ReassemblyTriggered", "Key": JOB}),
    ("dynamodb", "delete_item", {"TableName": "SegmentCompletions", "Key": JOB | {"segment_index": {"N": "0"}}}),
]
REFUSED: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "Chunking": [
        *BOTH,
        ("s3", "get_object", {"Bucket": OUTPUT, "Key": PROCESSED}),
        ("s3", "get_object", {"Bucket": OUTPUT, "Key": FINAL}),
        ("s3", "put_object", {"Bucket": OUTPUT, "Key": FINAL}),
        ("s3", "list_objects_v2", {"Bucket": OUTPUT}),
        ("sqs", "receive_message", {"QueueUrl": REASSEMBLY_URL}),
        ("sqs", "delete_message", {"QueueUrl": REASSEMBLY_URL, "ReceiptHandle": "receipt"}),
    ],
    "Reassembly": [
        *BOTH,
        *CLEARING,
        ("s3", "put_object", {"Bucket": INPUT, "Key": SEGMENT}),
        ("s3", "list_multipart_uploads", {"Bucket": INPUT}),
        ("dynamodb", "put_item", {"TableName": "ReassemblyTriggered", "Item": JOB}),
        ("sqs", "receive_message", {"QueueUrl": CHUNKING_URL}),
        ("sqs", "delete_message", {"QueueUrl": CHUNKING_URL, "ReceiptHandle": "receipt"}),
        ("sqs", "send_message", {"QueueUrl": CHUNKING_URL, "MessageBody": "{}"}),
    ],
    "Sweep": [
        *BOTH,
        *CLEARING,
        ("s3", "get_object", {"Bucket": OUTPUT, "Key": FINAL}),
        ("s3", "put_object", {"Bucket": INPUT, "Key": SEGMENT}),
        ("s3", "put_object", {"Bucket": OUTPUT, "Key": FINAL}),
        ("dynamodb", "query", {"TableName": "Jobs", **OF_JOB}),
        ("dynamodb", "scan", {"TableName": "Jobs", "IndexName": "status-created_at"}),
        ("dynamodb", "put_item", {"TableName": "SegmentAttempts", "Item": JOB | {"segment_index": {"N": "0"}}}),
        *(("sqs", "receive_message", {"QueueUrl": one}) for one in (CHUNKING_URL, REASSEMBLY_URL)),
        ("sqs", "send_message", {"QueueUrl": CHUNKING_URL, "MessageBody": "{}"}),
        ("sqs", "delete_message", {"QueueUrl": f"{CHUNKING_URL}-dead", "ReceiptHandle": "receipt"}),
        ("sqs", "purge_queue", {"QueueUrl": f"{CHUNKING_URL}-dead"}),
    ],
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_everything_else_is_refused(new_stack: NewStack, function: str) -> None:
    """A function has no access to other prefixes, buckets, tables and queues. It creates no job and deletes neither
    jobs nor objects.
    """
    with new_stack(function, read_policy(function)) as stack:
        done = [
            (service, operation, params)
            for service, operation, params in REFUSED[function]
            if not is_refused(call(stack, service, operation), **params)
        ]
    assert done == []


def call(stack: GuardedStack, service: str, operation: str) -> Callable[..., Any]:
    method: Callable[..., Any] = getattr(getattr(stack.aws, service), operation)
    return method


@pytest.mark.parametrize("function", FUNCTIONS)
def test_existing_resources_have_the_same_rights(function: str) -> None:
    """The rights on existing buckets, tables and queues equal those on the stack's own."""
    assert read_policy(function, GIVEN) == read_policy(function)


# With a KMS key ------------------------------------------------------------------------------------------------------

# Those that read and write with the key.
WITH_KEY = {
    "Chunking": (SCENARIOS["Chunking"][0], chunk_with_copies),
    "Reassembly": (SCENARIOS["Reassembly"][0],),
    "Sweep": (request_a_reassembly,),
}


@pytest.fixture
def key(guard: Guard) -> Iterator[str]:
    """The key that encrypts everything."""
    guard.key = KEY
    yield KEY
    guard.key = None


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_rights_to_a_key_are_enough(new_stack: NewStack, key: str, function: str) -> None:
    """In a stack whose buckets, queues and tables have a key, a function can use that key, and no other one."""
    policy = read_policy(function, KEYED)
    for scenario in WITH_KEY[function]:
        with new_stack(function, policy) as stack:
            scenario(stack)
            assert stack.guard.refused == []
    assert not policy.allows("kms:Decrypt", key.replace("1234abcd", "abcd1234"))
    assert not policy.allows("kms:CreateGrant", key)


@pytest.mark.parametrize("action", ["kms:Decrypt", "kms:GenerateDataKey"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_each_right_to_a_key_is_needed(new_stack: NewStack, key: str, function: str, action: str) -> None:
    """Without it, KMS refuses a step of the function."""
    policy = read_policy(function, KEYED).without(Grant("UseKey", action))
    with new_stack(function, policy) as stack:
        with contextlib.suppress(AssertionError, stack.open.aws.s3.exceptions.ClientError):
            WITH_KEY[function][0](stack)
        assert set(stack.guard.refused) == {(action, key)}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_key_without_the_parameter(function: str) -> None:
    """The parameter adds the rights to the key, and nothing else."""
    own = read_policy(function)
    assert not any(action.startswith("kms:") for one in own.statements for action in one.actions)
    keyed = read_policy(function, KEYED)
    assert tuple(one for one in keyed.statements if one.sid != "UseKey") == own.statements


# The guard itself ----------------------------------------------------------------------------------------------------


def policy(*statements: tuple[str, str, str]) -> Policy:
    return Policy(tuple(Statement("", effect, (action,), (resource,)) for effect, action, resource in statements))


@pytest.mark.parametrize(
    ("pattern", "resource", "allowed"),
    [
        ("arn:aws:s3:::media/jobs/*", "arn:aws:s3:::media/jobs/a/b", True),
        ("arn:aws:s3:::media/jobs/*/final.mp4", "arn:aws:s3:::media/jobs/a/final.mp4", True),
        ("arn:aws:s3:::media/jobs/*/final.mp4", "arn:aws:s3:::media/jobs/a/finalxmp4", False),
        ("arn:aws:s3:::media/jobs/*", "arn:aws:s3:::media/jobs", False),
        ("arn:aws:s3:::media", "arn:aws:s3:::media-too", False),
        ("arn:aws:s3:::medi?", "arn:aws:s3:::media", True),
        ("*", "arn:aws:s3:::media", True),
    ],
)
def test_resources(pattern: str, resource: str, allowed: bool) -> None:
    """`*` matches any text, `?` one character, and everything else itself."""
    assert policy(("Allow", "s3:GetObject", pattern)).allows("s3:GetObject", resource) is allowed


def test_effects() -> None:
    """A denied action is refused, and so is one that no statement allows. Actions ignore case."""
    allowing = policy(("Allow", "s3:Get*", "*"))
    assert allowing.allows("S3:getobject", "anything")
    assert not allowing.allows("s3:PutObject", "anything")
    assert not policy(("Allow", "s3:*", "*"), ("Deny", "s3:GetObject", "a")).allows("s3:GetObject", "a")


@pytest.mark.parametrize("element", ["Condition", "NotAction", "NotResource", "Principal"])
def test_an_unknown_policy_element_stops_the_tests(element: str) -> None:
    """An element of the policy language that is not evaluated here is never ignored."""
    statement = {"Sid": "", "Effect": "Allow", "Action": "s3:GetObject", "Resource": "*", element: {}}
    with pytest.raises(AssertionError, match=element):
        Policy.parse([{"Statement": [statement]}])


def test_absence_needs_the_right_to_list(new_stack: NewStack) -> None:
    """Without it, a missing object looks forbidden, as on AWS."""
    reading = policy(("Allow", "s3:GetObject", "*"))
    with new_stack("Chunking", reading) as stack:
        assert is_refused(stack.aws.s3.get_object, Bucket=INPUT, Key=SOURCE) is False
        with pytest.raises(stack.aws.s3.exceptions.ClientError) as caught:
            stack.aws.s3.head_object(Bucket=INPUT, Key=SOURCE)
    assert caught.value.response["Error"]["Code"] == "403"


def test_a_copy_needs_rights_to_source_and_target(new_stack: NewStack) -> None:
    """Copying a part reads one object and writes another."""
    with new_stack("Chunking", policy(("Allow", "s3:PutObject", "*"))) as stack:
        part = {"Bucket": INPUT, "Key": SEGMENT, "UploadId": "upload", "PartNumber": 1}
        source = {"Bucket": INPUT, "Key": SOURCE}
        assert is_refused(stack.aws.s3.upload_part_copy, **part, CopySource=source)
        assert stack.guard.refused == [("s3:GetObject", f"arn:aws:s3:::{INPUT}/{SOURCE}")]
