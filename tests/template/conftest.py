"""The templates as CloudFormation gets them: after the SAM transform, with every condition decided."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]
from samtranslator.translator.transform import transform  # type: ignore[import-untyped]

from tests.template.intrinsics import resolved

ROOT = Path(__file__).parents[2]
FUNCTIONS = ("ChunkingFunction", "ReassemblyFunction")

type Json = dict[str, Any]


class NoManagedPolicies:
    """SAM would ask IAM for these; the template uses none."""

    def load(self) -> dict[str, str]:
        return {}


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def template() -> Json:
    """The template as it is written."""
    parsed: Json = yaml_parse((ROOT / "template.yaml").read_text())
    return parsed


@pytest.fixture(scope="session")
def watching_template() -> Json:
    """The nested stack's template as it is written."""
    parsed: Json = yaml_parse((ROOT / "watching.yaml").read_text())
    return parsed


@pytest.fixture(scope="session")
def defaults(template: Json) -> Json:
    return {name: parameter["Default"] for name, parameter in template["Parameters"].items()}


@pytest.fixture(scope="session")
def stack_with(template: Json, defaults: Json) -> Callable[..., Json]:
    """The template after the SAM transform, with these parameters, and the others at their defaults."""

    def build(**given: Any) -> Json:
        assert given.keys() <= defaults.keys()
        packaged = copy.deepcopy(template)
        for resource in packaged["Resources"].values():
            for property_name in ("CodeUri", "ContentUri"):
                if property_name in resource["Properties"]:
                    resource["Properties"][property_name] = "s3://artifacts/package.zip"
        parameters = defaults | given
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            return resolved(transform(packaged, parameters, NoManagedPolicies()), parameters)

    return build


@pytest.fixture(scope="session")
def stack(stack_with: Callable[..., Json]) -> Json:
    """The template after the SAM transform, with every parameter at its default."""
    return stack_with()


@pytest.fixture(scope="session")
def watching_with(stack_with: Callable[..., Json], watching_template: Json) -> Callable[..., Json]:
    """The nested stack as the stack with these parameters makes it; in China, say, with `partition="aws-cn"`."""

    def build(partition: str = "aws", **given: Any) -> Json:
        passed = stack_with(**given)["Resources"]["Watching"]["Properties"]["Parameters"]
        assert passed.keys() == watching_template["Parameters"].keys()
        return resolved(watching_template, passed | {"AWS::Partition": partition})

    return build


@pytest.fixture(scope="session")
def watching(watching_with: Callable[..., Json]) -> Json:
    """The nested stack, with every parameter at its default."""
    return watching_with()


@pytest.fixture(scope="session")
def resources(stack: Json) -> Json:
    named: Json = stack["Resources"]
    return named


@pytest.fixture(params=FUNCTIONS)
def function(request: pytest.FixtureRequest, resources: Json) -> Json:
    """Each function's properties in turn."""
    properties: Json = resources[request.param]["Properties"]
    return properties


@pytest.fixture(params=FUNCTIONS)
def event_source(request: pytest.FixtureRequest, resources: Json) -> Json:
    """The properties of each function's event source mapping in turn."""
    (found,) = (
        resource["Properties"]
        for resource in resources.values()
        if resource["Type"] == "AWS::Lambda::EventSourceMapping"
        and resource["Properties"]["FunctionName"] == {"Ref": request.param}
    )
    properties: Json = found
    return properties
