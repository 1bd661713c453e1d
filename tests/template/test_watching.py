"""Alarms and the dashboard. tests/e2e/test_logs.py holds the dashboard against the metrics that are really printed."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

type Json = dict[str, Any]

QUEUES = ("Chunking", "Segment", "Reassembly")
TOPIC = "arn:aws:sns:us-east-1:123456789012:pager"


@pytest.fixture(scope="session")
def alarms(watching: Json) -> dict[str, Json]:
    return {
        name: resource["Properties"]
        for name, resource in watching["Resources"].items()
        if resource["Type"] == "AWS::CloudWatch::Alarm"
    }


@pytest.mark.parametrize("queue", QUEUES)
def test_dead_letters(alarms: dict[str, Json], queue: str) -> None:
    """One dead letter raises the alarm of its own queue: it is somebody's video."""
    alarm = alarms[f"{queue}DeadLetterAlarm"]
    assert alarm["MetricName"] == "ApproximateNumberOfMessagesVisible"
    assert f'"{queue}DeadLetterQueue"' in json.dumps(alarm["Dimensions"])
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("GreaterThanThreshold", 0)


@pytest.mark.parametrize(
    ("queue", "parameter"),
    [
        ("Chunking", "OldestMessageAlarmSeconds"),
        ("Segment", "OldestSegmentAlarmSeconds"),
        ("Reassembly", "OldestMessageAlarmSeconds"),
    ],
)
def test_old_messages(alarms: dict[str, Json], template: Json, resources: Json, queue: str, parameter: str) -> None:
    """The age of the oldest message is a parameter, below the age at which the queue deletes the message."""
    alarm, declared = alarms[f"{queue}AgeAlarm"], template["Parameters"][parameter]
    assert alarm["MetricName"] == "ApproximateAgeOfOldestMessage"
    assert f'"{queue}Queue"' in json.dumps(alarm["Dimensions"])
    assert alarm["Threshold"] == declared["Default"]
    assert (
        declared["Default"] < declared["MaxValue"] <= resources[f"{queue}Queue"]["Properties"]["MessageRetentionPeriod"]
    )


def test_old_messages_are_older_than_a_retry(alarms: dict[str, Json], resources: Json, defaults: Json) -> None:
    """An invocation that dies, and the retry that succeeds, raise no alarm."""
    visibility_s = resources["ChunkingQueue"]["Properties"]["VisibilityTimeout"]
    assert alarms["ChunkingAgeAlarm"]["Threshold"] > visibility_s + 900
    assert defaults["OldestSegmentAlarmSeconds"] > defaults["SegmentVisibilityTimeoutSeconds"]


@pytest.mark.parametrize("name", ["Chunking", "Reassembly"])
@pytest.mark.parametrize("kind", ["Error", "Throttle"])
def test_errors_and_throttles(alarms: dict[str, Json], name: str, kind: str) -> None:
    """A single crash or throttle raises the alarm: handlers report failed records without either."""
    alarm = alarms[f"{name}{kind}Alarm"]
    assert (alarm["Namespace"], alarm["MetricName"], alarm["Statistic"]) == ("AWS/Lambda", f"{kind}s", "Sum")
    assert alarm["Dimensions"] == [{"Name": "FunctionName", "Value": {"Ref": f"{name}Function"}}]
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("GreaterThanThreshold", 0)


def test_a_failing_sweep_is_an_alarm(alarms: dict[str, Json]) -> None:
    """Without the sweep, a job may wait for ever."""
    alarm = alarms["SweepErrorAlarm"]
    assert (alarm["MetricName"], alarm["Statistic"], alarm["Threshold"]) == ("Errors", "Sum", 0)
    assert alarm["Dimensions"] == [{"Name": "FunctionName", "Value": {"Ref": "SweepFunction"}}]


@pytest.mark.parametrize("name", ["Chunking", "Reassembly"])
def test_duration(alarms: dict[str, Json], resources: Json, name: str) -> None:
    """The alarm is at nine tenths of the timeout: a somewhat longer video would time out."""
    alarm = alarms[f"{name}DurationAlarm"]
    timeout_ms = resources[f"{name}Function"]["Properties"]["Timeout"] * 1000
    assert (alarm["MetricName"], alarm["Statistic"]) == ("Duration", "Maximum")
    assert alarm["Threshold"] == timeout_ms * 0.9


def test_silence_is_no_alarm(alarms: dict[str, Json]) -> None:
    """A stack without work prints no metrics, and no alarm."""
    assert {alarm["TreatMissingData"] for alarm in alarms.values()} == {"notBreaching"}


@pytest.mark.parametrize(
    ("given", "actions"),
    [
        ({}, None),
        ({"AlarmEmail": "ops@example.com"}, [{"Ref": "AlarmTopic"}]),
        ({"AlarmTopicArn": TOPIC}, [TOPIC]),
        ({"AlarmEmail": "ops@example.com", "AlarmTopicArn": TOPIC}, [{"Ref": "AlarmTopic"}, TOPIC]),
    ],
    ids=["none", "mail", "topic", "both"],
)
def test_who_is_told(
    stack_with: Callable[..., Json], watching_with: Callable[..., Json], given: Json, actions: list[Any] | None
) -> None:
    """Every alarm goes to the mail address and the topic that were given; a topic is made for a mail address only."""
    watching = watching_with(**given)["Resources"].values()
    told = [one["Properties"].get("AlarmActions") for one in watching if one["Type"] == "AWS::CloudWatch::Alarm"]
    assert told == [actions] * 13
    resources = stack_with(**given)["Resources"]
    assert ("AlarmTopic" in resources) == ("AlarmEmail" in given)
    if "AlarmEmail" in given:
        assert resources["AlarmTopic"]["Properties"]["Subscription"] == [
            {"Protocol": "email", "Endpoint": "ops@example.com"}
        ]


@pytest.fixture(scope="session")
def widgets(watching: Json) -> list[Json]:
    body = watching["Resources"]["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
    found: list[Json] = json.loads(body if isinstance(body, str) else body[0])["widgets"]
    return found


def test_dashboard_shows_every_alarm(widgets: list[Json], alarms: dict[str, Json]) -> None:
    """The first widget has every alarm."""
    assert widgets[0]["type"] == "alarm"
    displayed = [re.fullmatch(r"\$\{(\w+)\.Arn\}", arn) for arn in widgets[0]["properties"]["alarms"]]
    assert {match[1] for match in displayed if match} == alarms.keys()


def test_widgets_do_not_overlap(widgets: list[Json]) -> None:
    """Widgets fill the 24 columns and do not overlap."""
    cells = [
        (x, y)
        for widget in widgets
        for x in range(widget["x"], widget["x"] + widget["width"])
        for y in range(widget["y"], widget["y"] + widget["height"])
    ]
    assert len(cells) == len(set(cells))
    assert {x for x, _ in cells} == set(range(24))


@pytest.mark.parametrize("statistic", ["p50", "p95"])
@pytest.mark.parametrize("step", ["Remux", "Plan", "Split", "Check", "Join"])
def test_steps_are_displayed_by_percentile(widgets: list[Json], step: str, statistic: str) -> None:
    """Each step shows its median and its 95th percentile: means hide the video that takes long."""
    displayed = {
        (metric[1], metric[-1]["stat"])
        for widget in widgets
        if "seconds by step" in widget["properties"]["title"]
        for metric in widget["properties"]["metrics"]
    }
    assert (f"{step}Seconds", statistic) in displayed


def test_our_metrics_are_those_of_this_stack(widgets: list[Json]) -> None:
    """Two stacks in an account do not mix: each series has the stack, or a function's name, as a dimension."""
    series = [metric for widget in widgets for metric in widget["properties"].get("metrics", [])]
    ours = [metric for metric in series if metric[0] == "MediaWorker" and metric[1] != "ColdStart"]
    assert ours
    assert {tuple(metric[2:5]) for metric in ours} == {("stack", "${AWS::StackName}", "service")}


def test_dashboard_is_among_the_free_ones(widgets: list[Json]) -> None:
    """The dashboard has at most 50 metrics: https://aws.amazon.com/cloudwatch/pricing/ gives three such for free."""
    series = {json.dumps(metric[:-1]) for widget in widgets for metric in widget["properties"].get("metrics", [])}
    assert len(series) <= 50


def test_dead_letter_queues_are_displayed(widgets: list[Json]) -> None:
    """The depth of all six queues is displayed."""
    (depth,) = (widget for widget in widgets if widget["properties"]["title"] == "Queue depth")
    waiting = [metric[3] for metric in depth["properties"]["metrics"] if metric[1].endswith("MessagesVisible")]
    assert len(set(waiting)) == 6


def test_queries_filter_by_event(widgets: list[Json]) -> None:
    """A query asks for the field `event`, never for the prose of a message."""
    queries = [widget["properties"]["query"] for widget in widgets if widget["type"] == "log"]
    assert len(queries) == 2
    for query in queries:
        assert re.search(r"\| filter event ", query)
        assert "message" not in query


def test_dashboard_name_has_the_region(watching: Json) -> None:
    """Dashboards are global in an account: a stack of the same name in a second region has a dashboard of its own."""
    name = watching["Resources"]["Dashboard"]["Properties"]["DashboardName"]
    assert name == {"Fn::Sub": "${AWS::StackName}-${AWS::Region}"}


@pytest.mark.parametrize(
    ("partition", "console"),
    [
        ("aws", "console.aws.amazon.com"),
        ("aws-cn", "console.amazonaws.cn"),
        ("aws-us-gov", "console.amazonaws-us-gov.com"),
    ],
)
def test_dashboard_url(watching_with: Callable[..., Json], stack: Json, partition: str, console: str) -> None:
    """The link to the dashboard is to the console of the stack's own partition and region."""
    url = watching_with(partition)["Outputs"]["DashboardUrl"]["Value"]["Fn::Sub"]
    path = "cloudwatch/home?region=${AWS::Region}#dashboards/dashboard/${Dashboard}"
    assert url == f"https://${{AWS::Region}}.{console}/{path}"
    assert stack["Outputs"]["DashboardUrl"]["Value"] == {"Fn::GetAtt": ["Watching", "Outputs.DashboardUrl"]}
