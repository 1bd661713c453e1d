"""The policies of the roles in template.yaml, with the resource names of the tests, and an evaluator for them.

moto's IAM compares resources for S3 only, so it would refuse every request to a named table or queue. This evaluator
covers the part of the policy language that the template uses: `Allow` and `Deny` of actions on resources, with the
wildcards `*` and `?` (https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_evaluation-logic.html).
Anything else in a policy stops the tests.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from samcli.lib.intrinsic_resolver.intrinsic_property_resolver import IntrinsicResolver  # type: ignore[import-untyped]
from samcli.lib.intrinsic_resolver.intrinsics_symbol_table import IntrinsicsSymbolTable  # type: ignore[import-untyped]
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

from tests.functional.stack import INPUT, OUTPUT

TEMPLATE = Path(__file__).parents[2] / "template.yaml"
ACCOUNT, REGION = "123456789012", "us-east-1"
_NO_VALUE = "no value"
UNDERSTOOD = {"Sid", "Effect", "Action", "Resource"}


def queue_arn(name: str) -> str:
    return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"


def table_arn(name: str) -> str:
    return f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{name}"


def log_group_arn(name: str) -> str:
    return f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{name}:*"


# The template's resources under the names of the tests' stack.
ARNS = {
    "InputBucket": f"arn:aws:s3:::{INPUT}",
    "OutputBucket": f"arn:aws:s3:::{OUTPUT}",
    "JobsTable": table_arn("Jobs"),
    "SegmentCompletionsTable": table_arn("SegmentCompletions"),
    "ReassemblyTriggeredTable": table_arn("ReassemblyTriggered"),
    "ChunkingQueue": queue_arn("chunking"),
    "ReassemblyQueue": queue_arn("reassembly"),
    "SegmentAttemptsTable": table_arn("SegmentAttempts"),
    "SegmentQueue": queue_arn("segments"),
    "ChunkingDeadLetterQueue": queue_arn("chunking-dead"),
    "SegmentDeadLetterQueue": queue_arn("segments-dead"),
    "ReassemblyDeadLetterQueue": queue_arn("reassembly-dead"),
    "SweepLogGroup": log_group_arn("sweep"),
    "ChunkingLogGroup": log_group_arn("chunking"),
    "ReassemblyLogGroup": log_group_arn("reassembly"),
}


@dataclass(frozen=True, slots=True)
class Statement:
    """One effect for some actions on some resources."""

    sid: str
    effect: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]

    @classmethod
    def parse(cls, statement: Mapping[str, Any]) -> "Statement":
        assert statement.keys() <= UNDERSTOOD, f"the evaluator does not know {statement.keys() - UNDERSTOOD}"
        assert statement["Effect"] in {"Allow", "Deny"}
        return cls(statement["Sid"], statement["Effect"], _listed(statement["Action"]), _listed(statement["Resource"]))

    def concerns(self, action: str, resource: str) -> bool:
        return any(_matches(pattern.lower(), action.lower()) for pattern in self.actions) and any(
            _matches(pattern, resource) for pattern in self.resources
        )


@dataclass(frozen=True, slots=True)
class Grant:
    """One action of one statement."""

    sid: str
    action: str

    def __str__(self) -> str:
        return f"{self.sid}-{self.action}"


@dataclass(frozen=True, slots=True)
class Policy:
    """All statements of a role."""

    statements: tuple[Statement, ...]

    @classmethod
    def parse(cls, documents: Iterable[Mapping[str, Any]]) -> "Policy":
        return cls(tuple(Statement.parse(one) for document in documents for one in document["Statement"]))

    @property
    def grants(self) -> list[Grant]:
        allowing = (statement for statement in self.statements if statement.effect == "Allow")
        return [Grant(statement.sid, action) for statement in allowing for action in statement.actions]

    def without(self, grant: Grant) -> "Policy":
        return Policy(
            tuple(
                Statement(
                    one.sid,
                    one.effect,
                    tuple(action for action in one.actions if Grant(one.sid, action) != grant),
                    one.resources,
                )
                for one in self.statements
            )
        )

    def allows(self, action: str, resource: str) -> bool:
        effects = {statement.effect for statement in self.statements if statement.concerns(action, resource)}
        return effects == {"Allow"}


KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
KEYED = (("KmsKeyArn", KEY),)

# Parameters that give the stack existing resources of the same names.
GIVEN = (
    ("ExistingInputBucket", INPUT),
    ("ExistingOutputBucket", OUTPUT),
    ("ExistingJobsTable", "Jobs"),
    ("ExistingSegmentCompletionsTable", "SegmentCompletions"),
    ("ExistingReassemblyTriggeredTable", "ReassemblyTriggered"),
    ("ExistingChunkingQueueArn", ARNS["ChunkingQueue"]),
    ("ExistingReassemblyQueueArn", ARNS["ReassemblyQueue"]),
    ("ExistingSegmentQueueArn", ARNS["SegmentQueue"]),
    ("ExistingChunkingDeadLetterQueueArn", ARNS["ChunkingDeadLetterQueue"]),
    ("ExistingSegmentDeadLetterQueueArn", ARNS["SegmentDeadLetterQueue"]),
    ("ExistingReassemblyDeadLetterQueueArn", ARNS["ReassemblyDeadLetterQueue"]),
)


@cache
def read_policy(function: str, parameters: tuple[tuple[str, str], ...] = ()) -> Policy:
    """The policy of a function's role (`Chunking`, `Reassembly`, `Sweep`) in a stack with these parameters."""
    template = yaml_parse(TEMPLATE.read_text())
    # A reference to a bucket or table is its name, the end of its ARN.
    names: dict[str, Any] = {
        logical_id: {"Arn": arn, "Ref": re.split("[:/]", arn)[-1]} for logical_id, arn in ARNS.items()
    }
    # The resolver takes AWS::NoValue in an Fn::If for a mistake. Only a list may hold this one, and loses it.
    names["AWS::NoValue"] = {"Ref": _NO_VALUE}
    for name, value in parameters:
        template["Parameters"][name]["Default"] = value
    resolver = IntrinsicResolver(template, IntrinsicsSymbolTable(template, logical_id_translator=names))
    role = _pruned(resolver.intrinsic_property_resolver(template["Resources"][f"{function}Role"]["Properties"], False))
    assert "ManagedPolicyArns" not in role
    assert _NO_VALUE not in str(role)
    return Policy.parse(policy["PolicyDocument"] for policy in role["Policies"])


def _pruned(value: Any) -> Any:
    """Without the list items that a condition leaves out."""
    match value:
        case list():
            return [_pruned(item) for item in value if item != _NO_VALUE]
        case dict():
            return {key: _pruned(item) for key, item in value.items()}
    return value


def _listed(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _matches(pattern: str, text: str) -> bool:
    parts = (".*" if part == "*" else "." if part == "?" else re.escape(part) for part in re.split(r"([*?])", pattern))
    return re.fullmatch("".join(parts), text, re.DOTALL) is not None
