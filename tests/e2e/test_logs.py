"""The functions print the metrics that the dashboard shows and the log lines that the saved queries look for."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from media_worker.keys import build_output_segment_key

from tests.e2e.conftest import ROOT, CommandLine
from tests.e2e.insights import Query, Row

type Json = dict[str, Any]
# A time series: namespace, name, the names of its dimensions, the value of `service`, which names the function, and
# that of `stack`, which a cold start does not have: its function's name has the stack's.
type Series = tuple[str, str, frozenset[str], str, str]

OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
QUERIES = dict(re.findall(r"### ([^\n]+)\n(?:(?!###).)*?```insights\n(.+?)```", OPERATIONS, re.DOTALL))


@dataclass(frozen=True, slots=True)
class Seen:
    """The logs and the dashboard of a local cloud in which everything has happened once."""

    rows: list[Row]
    widgets: list[Json]
    completed_job: str
    failed_job: str
    waiting_job: str

    @property
    def printed(self) -> set[Series]:
        """The series in the metrics that the functions printed (CloudWatch's embedded metric format)."""
        return {
            (
                directive["Namespace"],
                metric["Name"],
                frozenset(names),
                str(row["service"]),
                str(row.get("stack", "")),
            )
            for row in self.rows
            if "_aws" in row
            for directive in row["_aws"]["CloudWatchMetrics"]
            for metric in directive["Metrics"]
            for names in directive["Dimensions"]
        }

    @property
    def displayed(self) -> set[Series]:
        """Our series in the dashboard."""
        found = set()
        for widget in self.widgets:
            for namespace, name, *pairs in widget["properties"].get("metrics", []):
                if namespace == "MediaWorker":
                    dimensions = dict(zip(pairs[:-1:2], pairs[1:-1:2], strict=True))
                    service, stack = dimensions["service"], dimensions.get("stack", "")
                    found.add((namespace, name, frozenset(dimensions), service, stack))
        return found


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.3)


@pytest.fixture(scope="module")
def seen(cloud: CommandLine, clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """A job completes with each engine, one fails in each function, one waits for workers. Messages are ignored and
    returned to the queue.
    """
    folder = tmp_path_factory.mktemp("seen")
    environment = cloud.stack_environment()

    def client(service: str) -> Any:
        names = {"aws_access_key_id": "local", "aws_secret_access_key": "local", "region_name": "us-east-1"}
        return boto3.client(service, endpoint_url=environment["AWS_ENDPOINT_URL"], **names)  # type: ignore[call-overload]

    def rows() -> list[Row]:
        logs, found = client("logs"), []
        for name in ("chunking", "reassembly"):
            for page in logs.get_paginator("filter_log_events").paginate(
                logGroupName=f"/media-worker/media-worker/{name}"
            ):
                found += [as_row(event) for event in page["events"]]
        return found

    finished = cloud("run", clip, "--out", folder / "final.mp4", "--segment-seconds", "4", "--json")
    assert finished.code == 0, finished.err
    by_ffmpeg = cloud("run", clip, "--out", folder / "second.mp4", "--engine", "ffmpeg")
    assert by_ffmpeg.code == 0, by_ffmpeg.err
    (folder / "notes.mp4").write_text("no video\n")
    assert cloud("run", folder / "notes.mp4", "--out", folder / "none.mp4").code == 1
    spoiled, waiting = (cloud("submit", clip).out.strip() for _ in range(2))
    sqs, s3 = client("sqs"), client("s3")
    send = {"chunking": environment["CHUNKING_QUEUE_URL"], "reassembly": environment["REASSEMBLY_QUEUE_URL"]}
    sqs.send_message(QueueUrl=send["reassembly"], MessageBody=json.dumps({"job_id": "nobody"}))
    sqs.send_message(QueueUrl=send["chunking"], MessageBody="no JSON")
    s3.put_object(Bucket=environment["INPUT_BUCKET_NAME"], Key="input/nobody/source.mp4", Body=b"")

    def logged(event: str, job_id: str) -> bool:
        return any(row.get("event") == event and row.get("job_id") == job_id for row in rows())

    wait_until(lambda: logged("job_chunked", spoiled))
    spoil_segments(client, environment, spoiled)
    sqs.send_message(QueueUrl=send["reassembly"], MessageBody=json.dumps({"job_id": spoiled}))
    wait_until(lambda: logged("job_failed", spoiled))
    wait_until(lambda: logged("job_chunked", waiting))
    sqs.send_message(QueueUrl=send["reassembly"], MessageBody=json.dumps({"job_id": waiting}))
    wait_until(lambda: logged("record_returned", waiting))
    wait_until(lambda: sum(row.get("event") == "nothing_to_do" for row in rows()) >= 2)
    time.sleep(1)  # metrics are printed when an invocation ends
    dashboard = json.loads(client("cloudwatch").get_dashboard(DashboardName="media-worker-us-east-1")["DashboardBody"])
    found = rows()
    # No worker will process it. Otherwise its messages would be forwarded and returned again and again.
    client("dynamodb").update_item(
        TableName=environment["JOBS_TABLE_NAME"],
        Key={"job_id": {"S": waiting}},
        UpdateExpression="SET #status = :deleted",
        ExpressionAttributeNames={"#status": "status"},
        ExpressionAttributeValues={":deleted": {"S": "deleted"}},
    )
    return Seen(found, dashboard["widgets"], json.loads(finished.out)["job_id"], spoiled, waiting)


def spoil_segments(client: Callable[[str], Any], environment: dict[str, str], job_id: str) -> None:
    """What a careless worker of somebody else's does: it records processed segments that are no video."""
    key = {"job_id": {"S": job_id}}
    row = client("dynamodb").get_item(TableName=environment["JOBS_TABLE_NAME"], Key=key)["Item"]
    for index in range(int(row["total_segments"]["N"])):
        bucket, name = environment["OUTPUT_BUCKET_NAME"], build_output_segment_key(job_id, index)
        client("s3").put_object(Bucket=bucket, Key=name, Body=b"no video\n")
        completion = key | {"segment_index": {"N": str(index)}, "output_s3_uri": {"S": f"s3://{bucket}/{name}"}}
        client("dynamodb").put_item(
            TableName=environment["SEGMENT_COMPLETIONS_TABLE_NAME"], Item=completion | {"completed_at": {"N": "1"}}
        )


def as_row(event: Json) -> Row:
    """A log event as Logs Insights sees it: the keys of a JSON line are fields.

    The line's own time is used, because the local cloud gives all lines of an invocation the same time.
    """
    text = event["message"].strip()
    discovered: Row = json.loads(text) if text.startswith("{") else {}
    printed = discovered.get("timestamp")
    at = datetime.strptime(printed, "%Y-%m-%d %H:%M:%S,%f%z").timestamp() * 1000 if printed else event["timestamp"]
    return {"@timestamp": at, "@message": text} | discovered


def dashboard_queries(seen: Seen) -> dict[str, str]:
    return {
        widget["properties"]["title"]: widget["properties"]["query"]
        for widget in seen.widgets
        if widget["type"] == "log"
    }


def assert_answers(text: str, seen: Seen) -> None:
    """The query has results, each of its columns has a value, and each value that it filters by occurs."""
    query = Query(text)
    answer = query.run(seen.rows)
    assert answer
    empty = {name for name in query.columns if all(row[name] is None for row in answer)}
    assert not empty
    missing = [(name, value) for name, value in query.literals if all(row.get(name) != value for row in seen.rows)]
    assert not missing


def test_every_displayed_metric_is_printed(seen: Seen) -> None:
    """No widget shows a metric that the functions do not print."""
    # The sweep fails a job after half an hour, longer than a test: tests/functional/test_sweep.py looks at its metric.
    assert {series for series in seen.displayed - seen.printed if series[3] != "sweep"} == set()


def test_every_printed_metric_is_displayed(seen: Seen) -> None:
    """No metric is printed, and paid for, without a widget that shows it."""
    assert seen.printed - seen.displayed == set()


@pytest.mark.parametrize("question", QUERIES)
def test_documented_queries(seen: Seen, question: str) -> None:
    """Every query in docs/operations.md has results."""
    assert_answers(QUERIES[question].replace("JOB", seen.failed_job), seen)


def test_dashboard_queries(seen: Seen) -> None:
    """The dashboard's queries have results too, and name the stack's log groups."""
    queries = dashboard_queries(seen)
    assert queries.keys() == {"Failures by class", "Failed jobs"}
    for text in queries.values():
        assert_answers(text, seen)
        assert re.findall(r"SOURCE '([^']+)'", text) == [
            "/media-worker/media-worker/chunking",
            "/media-worker/media-worker/reassembly",
        ]


def test_where_a_job_is(seen: Seen) -> None:
    """The first query returns all steps of a job, the last one first."""
    query = QUERIES["Where is job JOB, and why?"].replace("JOB", seen.completed_job)
    answer = Query(query).run(seen.rows)
    assert answer[0]["event"] == "job_completed"
    assert {row["service"] for row in answer} == {"chunking", "reassembly"}


def test_stuck_jobs(seen: Seen) -> None:
    """A job that waits for segment workers is stuck. Completed and failed jobs are not."""
    stuck = Query(QUERIES["Stuck jobs"]).run(seen.rows)
    listed = {row["job_id"] for row in stuck}  # other tests leave jobs in the same cloud
    assert seen.waiting_job in listed
    assert listed.isdisjoint({seen.completed_job, seen.failed_job})


def test_failures_by_class(seen: Seen) -> None:
    """Failures of both functions are grouped by their class."""
    failures = {(row["service"], row["failure"]) for row in Query(QUERIES["Failures by class"]).run(seen.rows)}
    assert failures >= {
        ("chunking", "BadSource"),
        ("chunking", "MessageError"),
        ("reassembly", "BadSegment"),
        ("reassembly", "NotReady"),
    }


def test_widgets_are_documented(seen: Seen) -> None:
    """The table in docs/operations.md lists the dashboard's widgets in their order."""
    table = re.findall(r"^\| ([^|`]+?) \| .+ \| .+ \|$", OPERATIONS.partition("## Alarms")[0], re.MULTILINE)
    assert table[1:] == [widget["properties"]["title"] for widget in seen.widgets]
