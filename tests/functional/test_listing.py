"""Listings come from the index, newest first, and never from a scan."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from media_worker.jobs import JobStatus
from media_worker.listing import LISTED, ListedJob, list_jobs
from moto import mock_aws

from tests.functional.stack import Stack

STATUSES = sorted(str(status) for status in JobStatus)


def create_indexes(stack: Stack) -> None:
    """The Jobs table as in the template."""
    stack.aws.dynamodb.delete_table(TableName="Jobs")
    stack.aws.dynamodb.create_table(
        TableName="Jobs",
        BillingMode="PAY_PER_REQUEST",
        AttributeDefinitions=[
            {"AttributeName": "job_id", "AttributeType": "S"},
            {"AttributeName": "status", "AttributeType": "S"},
            {"AttributeName": "created_at", "AttributeType": "N"},
        ],
        KeySchema=[{"AttributeName": "job_id", "KeyType": "HASH"}],
        GlobalSecondaryIndexes=[
            {
                "IndexName": "status-created_at",
                "KeySchema": [
                    {"AttributeName": "status", "KeyType": "HASH"},
                    {"AttributeName": "created_at", "KeyType": "RANGE"},
                ],
                "Projection": {"ProjectionType": "ALL"},
            }
        ],
    )


@pytest.fixture
def indexed(stack: Stack) -> Stack:
    create_indexes(stack)
    return stack


def add(stack: Stack, job_id: str, created_at: int, status: str = "completed", **attributes: Any) -> None:
    stack.add_job(job_id, created_at={"N": str(created_at)}, status={"S": status}, **attributes)


def test_jobs_of_all_statuses_are_merged_newest_first(indexed: Stack) -> None:
    """Deleted ones are listed only when they are asked for."""
    for number, status in enumerate(STATUSES):
        add(indexed, f"job-{number}", 100 + number, status)
    assert [job.status for job in list_jobs(indexed.aws).jobs] == [
        status for status in reversed(STATUSES) if status != "deleted"
    ]
    assert [job.status for job in list_jobs(indexed.aws, [JobStatus.DELETED]).jobs] == ["deleted"]


def test_a_listing_can_be_limited_in_time(indexed: Stack) -> None:
    """The second itself counts."""
    for number in range(5):
        add(indexed, f"job-{number}", 100 + number)
    assert [job.job_id for job in list_jobs(indexed.aws, since_s=103).jobs] == ["job-4", "job-3"]


def test_a_row_has_progress_end_and_error(indexed: Stack) -> None:
    """Completions of a replaced plan do not count. A completed job needs no count."""
    total: dict[str, Any] = {"total_segments": {"N": "3"}}
    add(indexed, "done", 1, **total, completed_at={"N": "90"}, title={"S": "f.mp4"})
    add(indexed, "busy", 2, "chunking_complete", **total, plan={"S": "new"}, notice={"S": "one"})
    add(indexed, "bad", 3, "failed", failed_at={"N": "70"}, error={"S": "no video"})
    for index, plan in enumerate(("new", "old")):
        row = {"job_id": {"S": "busy"}, "segment_index": {"N": str(index)}, "plan": {"S": plan}}
        indexed.aws.dynamodb.put_item(TableName="SegmentCompletions", Item=row | {"output_s3_uri": {"S": "s3://a/b"}})
    bad, busy, done = list_jobs(indexed.aws).jobs
    assert (done.processed, done.segments, done.ended_at, done.title) == (3, 3, 90, "f.mp4")
    assert (busy.processed, busy.segments, busy.ended_at, busy.notice) == (1, 3, None, "one")
    assert (bad.processed, bad.segments, bad.ended_at, bad.error) == (None, None, 70, "no video")


def test_a_page_reads_no_more_rows_than_it_needs(indexed: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 300 jobs in one status, a page of ten reads one page of eleven rows, and nothing is scanned."""
    for number in range(300):
        add(indexed, f"job-{number:03}", number)
    read: list[int] = []
    indexed.aws.dynamodb.meta.events.register(
        "after-call.dynamodb.Query", lambda parsed, **_: read.append(parsed["ScannedCount"])
    )
    indexed.aws.dynamodb.meta.events.register("before-call.dynamodb.Scan", lambda **_: pytest.fail("a scan"))
    assert len(list_jobs(indexed.aws, limit=10).jobs) == 10
    assert sum(read) == 11


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from([str(status) for status in LISTED])), max_size=12),
    st.integers(1, 5),
)
def test_pages_hold_every_job_once(rows: list[tuple[int, str]], limit: int) -> None:
    """Also when several jobs were created in one second, in one status or in several."""
    with mock_aws():
        stack = _new_stack()
        for number, (created_at, status) in enumerate(rows):
            add(stack, f"job-{number}", created_at, status)
        seen: list[ListedJob] = []
        cursor = None
        while True:
            page = list_jobs(stack.aws, limit=limit, cursor=cursor)
            seen += page.jobs
            assert len(page.jobs) <= limit
            if (cursor := page.cursor) is None:
                break
    assert sorted(job.job_id for job in seen) == sorted(f"job-{number}" for number in range(len(rows)))
    assert [job.created_at for job in seen] == sorted((created_at for created_at, _ in rows), reverse=True)


def _new_stack() -> Stack:
    stack = Stack.create(Path("/nonexistent"))
    create_indexes(stack)
    return stack
