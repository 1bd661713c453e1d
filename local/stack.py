"""A deployed stack, local or on AWS: the names of its parts, from its outputs, and clients that reach it."""

from collections.abc import Mapping
from dataclasses import dataclass

import boto3
from botocore.exceptions import ClientError
from media_worker.aws import Aws
from media_worker.settings import Settings

from local.errors import UsageError

# Outputs of the template by the setting that they are the value of.
_OUTPUTS = {
    "INPUT_BUCKET_NAME": "InputBucketName",
    "OUTPUT_BUCKET_NAME": "OutputBucketName",
    "JOBS_TABLE_NAME": "JobsTableName",
    "SEGMENT_COMPLETIONS_TABLE_NAME": "SegmentCompletionsTableName",
    "REASSEMBLY_TRIGGERED_TABLE_NAME": "ReassemblyTriggeredTableName",
    "CHUNKING_QUEUE_URL": "ChunkingQueueUrl",
    "REASSEMBLY_QUEUE_URL": "ReassemblyQueueUrl",
    "SEGMENT_QUEUE_URL": "SegmentQueueUrl",
}


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack that can be worked with."""

    name: str
    aws: Aws
    # What a program needs in its environment to work with the stack, apart from credentials.
    environment: Mapping[str, str]

    @property
    def segment_queue_url(self) -> str:
        """Where segment workers listen."""
        return self.environment["SEGMENT_QUEUE_URL"]


def find_stack(name: str, environ: Mapping[str, str]) -> Stack:
    """The stack of that name where the environment points to: the local cloud, or an account and region on AWS.

    Raises:
        UsageError: there is none, or it is not a stack of this project's.
    """
    endpoint = environ.get("AWS_ENDPOINT_URL")
    # boto3 itself looks at AWS_DEFAULT_REGION and the profile only.
    region = environ.get("AWS_REGION") or boto3.Session().region_name
    if region is None:
        raise UsageError("no AWS region is set: AWS_REGION names it, or a profile")
    settings = environment_of(name, _read_outputs(name, region, endpoint))
    environment = settings | {"AWS_REGION": region} | ({"AWS_ENDPOINT_URL": endpoint} if endpoint else {})
    return Stack(name, Aws.connect(Settings.from_environment(environment)), environment)


def environment_of(name: str, outputs: Mapping[str, str]) -> dict[str, str]:
    """The settings that a stack's outputs hold.

    Raises:
        UsageError: an output is missing.
    """
    if missing := sorted(output for output in _OUTPUTS.values() if output not in outputs):
        raise UsageError(f"{name} is not a media-worker stack: it has no output {', '.join(missing)}")
    return {setting: outputs[output] for setting, output in _OUTPUTS.items()}


def _read_outputs(name: str, region: str, endpoint: str | None) -> dict[str, str]:
    cloudformation = boto3.client("cloudformation", region_name=region, endpoint_url=endpoint)
    try:
        stacks = cloudformation.describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationError":
            raise UsageError(f"there is no stack {name!r} in {region}") from error
        raise
    return {output["OutputKey"]: output["OutputValue"] for output in stacks[0].get("Outputs", [])}
