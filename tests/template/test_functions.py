"""What the two functions are given."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from media_worker.settings import Settings
from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]

from tests.template.conftest import FUNCTIONS

type Json = dict[str, Any]

REQUIRED = {
    "INPUT_BUCKET_NAME": "InputBucket",
    "OUTPUT_BUCKET_NAME": "OutputBucket",
    "JOBS_TABLE_NAME": "JobsTable",
    "SEGMENT_COMPLETIONS_TABLE_NAME": "SegmentCompletionsTable",
    "REASSEMBLY_TRIGGERED_TABLE_NAME": "ReassemblyTriggeredTable",
    "CHUNKING_QUEUE_URL": "ChunkingQueue",
    "REASSEMBLY_QUEUE_URL": "ReassemblyQueue",
}
# The sweep asks for these too.
OPTIONAL = {"SEGMENT_QUEUE_URL": "SegmentQueue", "SEGMENT_ATTEMPTS_TABLE_NAME": "SegmentAttemptsTable"}


@pytest.mark.parametrize(("variable", "resource"), (REQUIRED | OPTIONAL).items())
def test_required_variables(function: Json, variable: str, resource: str) -> None:
    """Both functions are told the name of each bucket, table and queue of this stack."""
    assert function["Environment"]["Variables"][variable] == {"Ref": resource}


# Settings that only segment workers, and what reads their state, use.
FOR_WORKERS = {"SEGMENT_QUEUE_URL", "SEGMENT_ATTEMPTS_TABLE_NAME"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_settings_are_declared(stack_with: Callable[..., Json], name: str) -> None:
    """Every setting that the code reads is declared: `sam local invoke` passes no others. Lambda sets AWS_REGION."""
    urls = {"EndpointUrl": "http://127.0.0.1:1", "S3EndpointUrl": "http://127.0.0.1:2"}
    resources = stack_with(**urls, JobExpirationDays="30")["Resources"]
    read = {field.name.upper() for field in dataclasses.fields(Settings)} - {"AWS_REGION"} - FOR_WORKERS
    assert read <= resources[name]["Properties"]["Environment"]["Variables"].keys()


def test_default_settings_are_valid(function: Json, defaults: Json) -> None:
    """A stack deployed with the defaults starts: its settings are read without a complaint."""
    variables = function["Environment"]["Variables"]
    given = {name: variables[name]["Ref"] for name in REQUIRED}
    optional = ("CHUNK_SEGMENT_DURATION_SEC", "ENGINE", "TRACKS", "MAX_RECEIVE_COUNT", "FFMPEG_PATH")
    given |= {name: str(variables[name]) for name in optional}
    settings = Settings.from_environment(given)
    assert settings.max_receive_count == defaults["MaxReceiveCount"]
    assert settings.ffmpeg_path == "/opt/bin/ffmpeg"
    assert settings.chunk_segment_duration_sec == 300


def test_powertools(resources: Json) -> None:
    """Logs and metrics say which function they are from."""
    names = {"ChunkingFunction": "chunking", "ReassemblyFunction": "reassembly", "SweepFunction": "sweep"}
    for logical_id, service in names.items():
        variables = resources[logical_id]["Properties"]["Environment"]["Variables"]
        assert variables["POWERTOOLS_SERVICE_NAME"] == service
        assert variables["POWERTOOLS_METRICS_NAMESPACE"] == "MediaWorker"
        assert variables["STACK_NAME"] == {"Ref": "AWS::StackName"}
        assert variables["POWERTOOLS_LOG_LEVEL"] == "INFO"


def test_runtime(function: Json) -> None:
    """A function is Python 3.13 and has the most time and the most /tmp that Lambda gives."""
    assert function["Runtime"] == "python3.13"
    assert function["Timeout"] == 900
    assert function["EphemeralStorage"] == {"Size": 10240}


@pytest.mark.parametrize("folder", ["chunking", "reassembly", "sweep"])
def test_handler_exists(template: Json, root: Path, folder: str) -> None:
    """Each function's code is where the template says, and its handler is app.handler."""
    function = template["Resources"][f"{folder.title()}Function"]
    assert function["Properties"]["CodeUri"] == f"functions/{folder}/"
    assert template["Globals"]["Function"]["Handler"] == "app.handler"
    assert "\nhandler = " in (root / "functions" / folder / "app.py").read_text()


def test_layers(function: Json, resources: Json) -> None:
    """Both functions have the shared layer and the ffmpeg layer."""
    layers = [resources[layer["Ref"]]["Properties"]["LayerName"] for layer in function["Layers"]]
    assert layers == ["SharedLayer", "FfmpegLayer"]


@pytest.mark.parametrize("architecture", ["x86_64", "arm64"])
def test_architectures(template: Json, root: Path, architecture: str) -> None:
    """Functions and ffmpeg are of the architecture that the parameter says, and ffmpeg is pinned for it."""
    assert architecture in template["Parameters"]["Architecture"]["AllowedValues"]
    assert template["Globals"]["Function"]["Architectures"] == [{"Ref": "Architecture"}]
    metadata = template["Resources"]["FfmpegLayer"]["Metadata"]
    assert metadata["BuildArchitecture"] == {"Ref": "Architecture"}
    working_directory = metadata["WorkingDirectory"]["Fn::Sub"].replace("${Architecture}", architecture)
    assert (root / working_directory / "requirements.txt").is_file()


@pytest.mark.parametrize("architecture", ["x86_64", "arm64"])
def test_a_build_is_for_one_architecture(template: Json, root: Path, architecture: str) -> None:
    """The build holds the nested stack of its architecture, which no deployment for another one gets past."""
    nested = template["Resources"]["FfmpegArchitecture"]["Properties"]
    assert nested["Parameters"] == {"Architecture": {"Ref": "Architecture"}}
    built = root / nested["TemplateURL"]["Fn::Sub"].replace("${Architecture}", architecture)
    pattern = yaml_parse(built.read_text())["Parameters"]["Architecture"]["AllowedPattern"]
    allowed = template["Parameters"]["Architecture"]["AllowedValues"]
    assert [one for one in allowed if re.fullmatch(pattern, one)] == [architecture]
    for name in ("ChunkingFunction", "ReassemblyFunction"):
        assert template["Resources"][name]["DependsOn"] == "FfmpegArchitecture"


def test_logs(function: Json, resources: Json) -> None:
    """A function logs to a group of its own that forgets after a while."""
    group = resources[function["LoggingConfig"]["LogGroup"]["Ref"]]
    assert group["Type"] == "AWS::Logs::LogGroup"
    assert group["Properties"]["LogGroupName"]["Fn::Sub"].endswith(
        function["Environment"]["Variables"]["POWERTOOLS_SERVICE_NAME"]
    )
    assert group["Properties"]["RetentionInDays"] == 30


@pytest.mark.parametrize(
    ("variable", "parameter"), [("AWS_ENDPOINT_URL", "EndpointUrl"), ("AWS_ENDPOINT_URL_S3", "S3EndpointUrl")]
)
def test_endpoint_is_left_out_on_aws(
    stack_with: Callable[..., Json], function: Json, variable: str, parameter: str
) -> None:
    """An endpoint exists only where somebody gave one: an empty one would hide what the local cloud sets."""
    assert variable not in function["Environment"]["Variables"]
    given = stack_with(**{parameter: "http://127.0.0.1:1"})["Resources"]["ChunkingFunction"]["Properties"]
    assert given["Environment"]["Variables"][variable] == "http://127.0.0.1:1"


def schedule(stack: Json) -> Json:
    (rule,) = (one["Properties"] for one in stack["Resources"].values() if one["Type"] == "AWS::Events::Rule")
    return dict(rule)


def test_the_sweep_is_scheduled(stack: Json, resources: Json) -> None:
    """Every five minutes, and a sweep ends before the next one begins."""
    rule = schedule(stack)
    assert (rule["ScheduleExpression"], rule["State"]) == ("rate(5 minutes)", "ENABLED")
    assert rule["Targets"][0]["Arn"] == {"Fn::GetAtt": ["SweepFunction", "Arn"]}
    assert resources["SweepFunction"]["Properties"]["Timeout"] < 300


def test_the_sweep_can_be_switched_off(stack_with: Callable[..., Json]) -> None:
    """An empty schedule disables the rule. Another one replaces the default."""
    assert schedule(stack_with(SweepSchedule=""))["State"] == "DISABLED"
    assert schedule(stack_with(SweepSchedule="rate(1 hour)"))["ScheduleExpression"] == "rate(1 hour)"


def test_the_sweeps_logs(resources: Json) -> None:
    """Like those of the other functions."""
    group = resources[resources["SweepFunction"]["Properties"]["LoggingConfig"]["LogGroup"]["Ref"]]["Properties"]
    assert group["LogGroupName"]["Fn::Sub"].endswith("/sweep")
    assert group["RetentionInDays"] == 30
