"""The template as CloudFormation gets it: after the SAM transform, with every parameter at its default."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]
from samtranslator.translator.transform import transform  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
FUNCTIONS = ("ChunkingFunction", "ReassemblyFunction")

type Json = dict[str, Any]


class NoManagedPolicies:
    """SAM would ask IAM for these; the template uses none."""

    def load(self) -> dict[str, str]:
        return {}


def with_parameters(value: Any, parameters: Json) -> Any:
    """The value with each reference to a parameter replaced by what the parameter is."""
    match value:
        case {"Ref": name} if name in parameters:
            return parameters[name]
        case dict():
            return {key: with_parameters(one, parameters) for key, one in value.items()}
        case list():
            return [with_parameters(one, parameters) for one in value]
    return value


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def template() -> Json:
    """The template as it is written."""
    parsed: Json = yaml_parse((ROOT / "template.yaml").read_text())
    return parsed


@pytest.fixture(scope="session")
def defaults(template: Json) -> Json:
    return {name: parameter["Default"] for name, parameter in template["Parameters"].items()}


@pytest.fixture(scope="session")
def stack(template: Json, defaults: Json) -> Iterator[Json]:
    """The template after the SAM transform."""
    packaged = copy.deepcopy(template)
    for resource in packaged["Resources"].values():
        for property_name in ("CodeUri", "ContentUri"):
            if property_name in resource["Properties"]:
                resource["Properties"][property_name] = "s3://artifacts/package.zip"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield with_parameters(transform(packaged, defaults, NoManagedPolicies()), defaults)


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
