"""A deployed stack: the names of its resources, and clients that reach it.

The names come from the outputs of the stack, or from a file of `NAME=value` lines.
"""

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import ClientError
from media_worker.aws import Aws, resolve_region
from media_worker.settings import Settings

from media_worker_cli.errors import UsageError

# Each setting, and the output of the template that holds its value.
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
# Outputs that a stack may lack: those of another version, or of a feature that is off.
_OPTIONAL_OUTPUTS = {
    "SEGMENT_ATTEMPTS_TABLE_NAME": "SegmentAttemptsTableName",
    "JOB_EXPIRATION_DAYS": "JobExpirationDays",
    "EXPIRY_TAG": "ExpiryTag",
}
_LINE = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=(.*)")


@dataclass(frozen=True, slots=True)
class Stack:
    """A deployed stack."""

    name: str
    aws: Aws
    # The environment of a program that works with the stack, without credentials.
    environment: Mapping[str, str]
    # All outputs and parameters of the stack.
    outputs: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def segment_queue_url(self) -> str:
        """The queue that announces segments to workers."""
        return self.environment["SEGMENT_QUEUE_URL"]


def choose_stack(name: str | None) -> Stack:
    """The stack on AWS with this name, or without a name the stack in the local cloud.

    Raises:
        UsageError: there is no such stack, or the local cloud is not running.
    """
    if name:
        return find_stack(name, os.environ)
    from media_worker_cli.local.commands import find_local_stack  # noqa: PLC0415 - see the package's docstring

    return find_local_stack()


def find_stack(name: str, environ: Mapping[str, str]) -> Stack:
    """The stack with this name at the endpoint, account and region of the environment.

    Raises:
        UsageError: there is no such stack, or it is not a media-worker stack.
    """
    endpoint = environ.get("AWS_ENDPOINT_URL")
    region = environ.get("AWS_REGION") or resolve_region()
    described = _describe(name, region, endpoint)
    outputs = {each["OutputKey"]: each["OutputValue"] for each in described.get("Outputs", [])}
    parameters = {each["ParameterKey"]: each["ParameterValue"] for each in described.get("Parameters", [])}
    settings = environment_of(name, outputs)
    environment = settings | {"AWS_REGION": region} | ({"AWS_ENDPOINT_URL": endpoint} if endpoint else {})
    return Stack(name, Aws.connect(Settings.from_environment(environment)), environment, outputs, parameters)


def environment_of(name: str, outputs: Mapping[str, str]) -> dict[str, str]:
    """The settings that a stack's outputs hold.

    Raises:
        UsageError: an output is missing.
    """
    if missing := sorted(output for output in _OUTPUTS.values() if output not in outputs):
        raise UsageError(f"{name} is not a media-worker stack: it has no output {', '.join(missing)}")
    known = _OUTPUTS | _OPTIONAL_OUTPUTS
    return {setting: outputs[output] for setting, output in known.items() if outputs.get(output)}


def _describe(name: str, region: str, endpoint: str | None) -> Any:
    cloudformation = boto3.client("cloudformation", region_name=region, endpoint_url=endpoint)
    try:
        return cloudformation.describe_stacks(StackName=name)["Stacks"][0]
    except ClientError as error:
        if error.response["Error"]["Code"] == "ValidationError":
            raise UsageError(f"there is no stack {name!r} in {region}") from error
        raise


def read_env_file(path: Path) -> dict[str, str]:
    """The names and values in a file. Blank lines, `# comments`, quotes and a leading `export` are allowed.

    Raises:
        UsageError: the file cannot be read, or a line is none of these.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot read {path}: it is not UTF-8 text") from error
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not (text := line.strip()) or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise UsageError(f"{path}, line {number}: expected NAME=value, found {text!r}")
        found[match[1]] = _unquote(match[2], f"{path}, line {number}")
    return found


def _unquote(value: str, where: str) -> str:
    """The value without the quotes around it. An unquoted value is kept as it is, with `#` and spaces."""
    if not value.startswith(("'", '"')):
        return value.strip()
    try:
        words = shlex.split(value, comments=True)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
    if len(words) != 1:
        raise UsageError(f"{where}: expected one value, found {value}")
    return words[0]
