"""Lists of jobs, newest first, from the index of the Jobs table by status and creation. Never a scan.

A listing of several statuses merges one query per status. Each query reads only the pages that the listing needs, so
its time depends on the number of jobs listed, not on the number of jobs in the table.
"""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from media_worker.completions import current_completions
from media_worker.errors import PermanentError
from media_worker.jobs import Job, JobStatus, plain_row

if TYPE_CHECKING:
    from media_worker.aws import Aws

_INDEX = "status-created_at"
_COUNTS_AT_ONCE = 16
_MAX_PAGE = 1_000
# In these, all segments are processed.
_ALL_PROCESSED = frozenset({JobStatus.REASSEMBLING, JobStatus.COMPLETED})
# Deleted jobs are listed only when they are asked for.
LISTED = tuple(status for status in JobStatus if status is not JobStatus.DELETED)


@dataclass(frozen=True, slots=True)
class ListedJob:
    """One job of a listing. Times are Unix seconds."""

    job_id: str
    status: JobStatus
    created_at: int
    # When it completed or failed; None while it has not ended.
    ended_at: int | None = None
    segments: int | None = None
    # Processed segments of the present plan.
    processed: int | None = None
    title: str | None = None
    error: str | None = None
    notice: str | None = None

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "ListedJob":
        """Read a row as leniently as a list needs: one bad row must not hide the others."""
        status = JobStatus(row["status"])
        ended = {JobStatus.COMPLETED: "completed_at", JobStatus.FAILED: "failed_at", JobStatus.DELETED: "deleted_at"}
        return cls(
            job_id=row["job_id"],
            status=status,
            created_at=int(row["created_at"]),
            ended_at=_whole(row.get(ended.get(status, ""))),
            segments=_whole(row.get("total_segments")),
            processed=_whole(row.get("total_segments")) if status in _ALL_PROCESSED else None,
            title=row.get("title"),
            error=row.get("error"),
            notice=row.get("notice"),
        )


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where the next page begins: at jobs created at that second, without those that are listed already."""

    created_at: int
    listed: frozenset[str]


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs, newest first, and the cursor of the next page; None when these are the last."""

    jobs: tuple[ListedJob, ...]
    cursor: Cursor | None


def list_jobs(
    aws: "Aws",
    statuses: Iterable[JobStatus] = LISTED,
    *,
    since_s: int = 0,
    limit: int = 20,
    cursor: Cursor | None = None,
) -> Page:
    """The newest jobs in these statuses, created at or after `since_s` (Unix seconds), at most `limit`."""
    until = cursor.created_at if cursor else None
    listed = cursor.listed if cursor else frozenset()
    # Rows that the cursor skips are read too, and one more tells whether there is another page.
    wanted = limit + 1 + len(listed)
    streams = [_newest(aws, status, since_s, until, wanted) for status in statuses]
    merged = heapq.merge(*streams, key=lambda each: (-each[0].created_at, each[0].job_id))
    found: list[tuple[ListedJob, Any]] = []
    for each in merged:
        if each[0].job_id not in listed:
            found.append(each)
        if len(found) > limit:
            break
    jobs = _with_progress(aws, found[:limit])
    return Page(jobs, _cursor_after(jobs, listed, until) if len(found) > limit else None)


def _cursor_after(jobs: Sequence[ListedJob], listed: frozenset[str], until: int | None) -> Cursor:
    last = jobs[-1].created_at
    same_second = frozenset(job.job_id for job in jobs if job.created_at == last)
    return Cursor(last, same_second | (listed if last == until else frozenset()))


def _newest(
    aws: "Aws", status: JobStatus, since_s: int, until_s: int | None, wanted: int
) -> Iterator[tuple[ListedJob, Any]]:
    """The jobs in one status, newest first, read page by page while somebody asks for more."""
    values = {":status": {"S": status.value}, ":since": {"N": str(since_s)}}
    condition = "#status = :status AND created_at >= :since"
    if until_s is not None:
        values[":until"] = {"N": str(until_s)}
        condition = "#status = :status AND created_at BETWEEN :since AND :until"
    pages = aws.dynamodb.get_paginator("query").paginate(
        TableName=aws.settings.jobs_table_name,
        IndexName=_INDEX,
        KeyConditionExpression=condition,
        ExpressionAttributeNames={"#status": "status"},
        ExpressionAttributeValues=values,
        ScanIndexForward=False,
        PaginationConfig={"PageSize": min(wanted, _MAX_PAGE)},
    )
    for page in pages:
        rows = [(ListedJob.from_row(plain_row(item)), item) for item in page["Items"]]
        # Jobs of one second have no order in the index; the merge needs one.
        yield from sorted(rows, key=lambda each: (-each[0].created_at, each[0].job_id))


def _with_progress(aws: "Aws", found: Sequence[tuple[ListedJob, Any]]) -> tuple[ListedJob, ...]:
    """The jobs, with the processed segments of those at work counted."""
    with ThreadPoolExecutor(_COUNTS_AT_ONCE) as pool:
        return tuple(pool.map(lambda each: _counted(aws, *each), found))


def _counted(aws: "Aws", listed: ListedJob, item: dict[str, Any]) -> ListedJob:
    if listed.segments is None or listed.processed is not None or listed.status is JobStatus.DELETED:
        return listed
    try:
        job = Job.from_item(item)
    except PermanentError:
        return listed  # its row does not meet the contract; `error` says so once a function has seen it
    return replace(listed, processed=len(current_completions(aws, job)))


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)
