"""A stack's names, and an environment that reaches the local cloud alone."""

import pytest

from local.deployment import isolated
from local.errors import UsageError
from local.stack import environment_of

OUTPUTS = {
    "InputBucketName": "in",
    "OutputBucketName": "out",
    "JobsTableName": "jobs",
    "SegmentCompletionsTableName": "completions",
    "ReassemblyTriggeredTableName": "triggered",
    "ChunkingQueueUrl": "https://chunking",
    "ReassemblyQueueUrl": "https://reassembly",
    "SegmentQueueUrl": "https://segments",
    "Unknown": "of no use",
}


def test_outputs_are_the_settings_of_the_same_words() -> None:
    """`InputBucketName` is INPUT_BUCKET_NAME; other outputs are left alone."""
    environment = environment_of("mine", OUTPUTS)
    assert {name.replace("_", "").lower(): value for name, value in environment.items()} == {
        name.lower(): value for name, value in OUTPUTS.items() if name != "Unknown"
    }


def test_another_stack_is_recognised() -> None:
    """The complaint names what it lacks."""
    outputs = {name: value for name, value in OUTPUTS.items() if not name.startswith("Seg")}
    with pytest.raises(UsageError, match=r"other is not .* no output SegmentCompletionsTableName, SegmentQueueUrl"):
        environment_of("other", outputs)


def test_nothing_that_the_user_has_set_for_aws_reaches_the_local_cloud() -> None:
    """Neither credentials nor profiles nor endpoints of single services; the rest stays."""
    mine = {"AWS_PROFILE": "work", "AWS_ENDPOINT_URL_S3": "https://elsewhere", "AWS_SESSION_TOKEN": "x", "HOME": "/me"}
    environment = isolated(mine, "http://127.0.0.1:4566")
    assert environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:4566"
    assert environment["HOME"] == "/me"
    assert not {"AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"} & set(environment)
