"""The commands `jobs`, `show`, `cancel`, `retry`, `resend` and `delete`: they parse, call the library, and print."""

# ruff: noqa: T201 - a command line prints

import getpass
import json
import socket
import sys
from argparse import Namespace
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from media_worker.description import Description, Segment, SourceSummary, describe_job, summarize_source
from media_worker.jobs import JobStatus, now_s
from media_worker.keys import is_job_id
from media_worker.listing import LISTED, ListedJob, list_jobs
from media_worker.operations import NewSettings, Outcome, cancel_job, delete_job, resend_segments, retry_job
from media_worker.plan import Plan
from media_worker.prices import Cost

from media_worker_cli.errors import UsageError
from media_worker_cli.stack import choose_stack
from media_worker_cli.tables import (
    as_table,
    describe_age,
    describe_clock,
    describe_size,
    describe_time,
    in_short,
    parse_duration,
    parse_ranges,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from media_worker.aws import Aws

_PERCENT = 100


def jobs(arguments: Namespace) -> int:
    """List jobs, newest first."""
    now = now_s()
    since_s = now - parse_duration(arguments.since) if arguments.since else 0
    statuses = [JobStatus(arguments.status)] if arguments.status else LISTED
    page = list_jobs(choose_stack(arguments.stack).aws, statuses, since_s=since_s, limit=arguments.limit)
    if arguments.json:
        print(
            json.dumps(
                {"jobs": [listed_as_json(each) for each in page.jobs], "more": page.cursor is not None}, indent=2
            )
        )
        return 0
    if not page.jobs:
        print("there are no such jobs", file=sys.stderr)
        return 0
    print("\n".join(as_table(_HEADER, [_listed_row(each, now) for each in page.jobs])))
    if page.cursor:
        print(f"there are more than {arguments.limit}: list them with --limit", file=sys.stderr)
    return 0


_HEADER = ("JOB", "STATUS", "SEGMENTS", "AGE", "DURATION", "ERROR")


def _listed_row(each: ListedJob, now: int) -> tuple[str, ...]:
    segments = "-" if each.processed is None else f"{each.processed}/{each.segments}"
    ended = each.ended_at or (now if each.status not in {JobStatus.FAILED, JobStatus.COMPLETED} else None)
    duration = "-" if ended is None else describe_age(max(0, ended - each.created_at))
    age = describe_age(max(0, now - each.created_at))
    return (each.job_id, str(each.status), segments, age, duration, in_short(each.error))


def listed_as_json(each: ListedJob) -> dict[str, Any]:
    """One job of a listing, for JSON."""
    return {name: getattr(each, name) for name in ListedJob.__slots__}


def cancel(arguments: Namespace) -> int:
    """Cancel a job."""
    return _operate(arguments, lambda aws: cancel_job(aws, arguments.job, this_user()))


def this_user() -> str:
    """Who cancels a job."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def retry(arguments: Namespace) -> int:
    """Retry a job, or some of its segments."""
    segments = parse_ranges(arguments.segments) if arguments.segments else frozenset()
    settings = NewSettings(arguments.segment_seconds, arguments.engine, arguments.frame_check, arguments.tracks)
    return _operate(arguments, lambda aws: retry_job(aws, arguments.job, segments, settings))


def resend(arguments: Namespace) -> int:
    """Announce the segments of a job that have no completion again."""
    return _operate(arguments, lambda aws: resend_segments(aws, arguments.job))


def delete(arguments: Namespace) -> int:
    """Delete a job."""
    return _operate(arguments, lambda aws: delete_job(aws, arguments.job, keep_final=arguments.keep_final))


def _operate(arguments: Namespace, operation: "Callable[[Aws], Outcome]") -> int:
    require_job_id(arguments.job)
    outcome = operation(choose_stack(arguments.stack).aws)
    described = {
        "job_id": outcome.job_id,
        "status": outcome.status,
        "changed": outcome.changed,
        "detail": outcome.detail,
    }
    print(json.dumps(described) if arguments.json else f"{outcome.job_id} {outcome.detail}")
    return 0


def require_job_id(text: str) -> None:
    """Check a job id from the command line.

    Raises:
        UsageError: it is not one path component.
    """
    if not is_job_id(text):
        raise UsageError(f"{text!r} is not a job id: give one path component, as `submit` prints it")


_SEGMENT_HEADER = ("SEGMENT", "STATE", "START", "FRAMES", "ATTEMPTS", "WORKER", "ERROR")


# Show -----------------------------------------------------------------------------------------------------------------


def show(arguments: Namespace) -> int:
    """Print everything about a job."""
    require_job_id(arguments.job)
    aws = choose_stack(arguments.stack).aws
    described = describe_job(aws, arguments.job)
    summary = summarize_source(aws, described.source) if described.source else None
    if arguments.json:
        print(json.dumps(describe_as_json(described, summary), indent=2, default=str))
        return 0
    print("\n".join(_as_lines(described, summary)))
    return 0


def _as_lines(described: Description, summary: SourceSummary | None) -> list[str]:
    facts = [f"{name:<10}{value}" for name, value in _facts(described, summary) if value]
    rows = [_segment_row(each) for each in described.segments]
    timeline = [f"{describe_time(event.at)}  {event.what}" for event in described.timeline]
    table = ["", *as_table(_SEGMENT_HEADER, rows)] if rows else []
    return [*facts, *table, "", *timeline]


def _facts(described: Description, summary: SourceSummary | None) -> list[tuple[str, str | None]]:
    job, plan, cost = described.job, described.plan, described.cost
    total = job.total_segments
    left = described.remaining_s
    return [
        ("job", job.job_id),
        ("title", described.row.get("title")),
        ("status", str(job.status)),
        ("error", job.error),
        ("notice", job.notice),
        ("source", _describe_source(described, summary)),
        ("plan", _describe_plan(plan) if plan else job.plan),
        ("segments", None if total is None else f"{described.processed} of {total} processed"),
        ("left", None if left is None else f"about {describe_age(left)}"),
        ("final", f"{described.final.uri}, {describe_size(described.final.size_bytes)}" if described.final else None),
        ("cost", f"about ${cost.total:.4f} so far, without workers ({_describe_cost(cost)})"),
    ]


def _describe_plan(plan: Plan) -> str:
    length = f"{plan.frames:,} frames, {describe_clock(float(plan.duration_s))}"
    return f"{plan.digest}, {plan.engine}, {length}, {plan.wanted}"


def _describe_cost(cost: Cost) -> str:
    return f"functions {cost.functions:.4f}, requests {cost.requests:.4f}, storage {cost.storage:.4f}"


def _describe_source(described: Description, summary: SourceSummary | None) -> str:
    source = described.source
    if source is None:
        return "does not exist"
    kinds = f", {', '.join(summary.tracks)}, {describe_clock(summary.duration_s)}" if summary else ""
    return f"{source.uri}, {describe_size(source.size_bytes)}{kinds}"


def _segment_row(each: Segment) -> tuple[str, ...]:
    attempt = each.attempt
    worker = attempt.worker if attempt else "-"
    return (
        str(each.index),
        _describe_state(each),
        "-" if each.start_s is None else describe_clock(each.start_s),
        "-" if each.frames is None else str(each.frames),
        str(attempt.attempt) if attempt else "-",
        worker,
        in_short(_error_of(each)),
    )


def _describe_state(each: Segment) -> str:
    if each.state == "running" and each.attempt and each.attempt.progress is not None:
        return f"running {each.attempt.progress * _PERCENT:.0f} %"
    return each.state


def _error_of(each: Segment) -> str | None:
    if each.state != "failed" or each.attempt is None:
        return None
    return each.attempt.error or "its worker is lost"


def describe_as_json(described: Description, summary: SourceSummary | None) -> dict[str, Any]:
    """Everything about a job, for JSON."""
    job, plan, source, final = described.job, described.plan, described.source, described.final
    return {
        "job_id": job.job_id,
        "status": str(job.status),
        "error": job.error,
        "notice": job.notice,
        "title": described.row.get("title"),
        "source": source
        and {
            "uri": source.uri,
            "size_bytes": source.size_bytes,
            "etag": source.etag,
            "tracks": summary and summary.tracks,
            "duration_s": summary and summary.duration_s,
            "frames": summary and summary.frames,
        },
        "plan": plan
        and {
            "digest": plan.digest,
            "engine": plan.engine,
            "frames": plan.frames,
            "duration_s": float(plan.duration_s),
            "segment_duration_s": None if plan.segment_duration_s is None else float(plan.segment_duration_s),
            "wanted": plan.wanted,
        },
        "segments": [segment_as_json(each) for each in described.segments],
        "processed": described.processed,
        "remaining_s": described.remaining_s,
        "final": final and {"uri": final.uri, "size_bytes": final.size_bytes},
        "timeline": [{"at": event.at, "what": event.what} for event in described.timeline],
        "cost": {
            "total": described.cost.total,
            "functions": described.cost.functions,
            "requests": described.cost.requests,
            "storage": described.cost.storage,
        },
    }


def segment_as_json(each: Segment) -> dict[str, Any]:
    """One segment of a job with its attempt, for JSON."""
    attempt = each.attempt and asdict(each.attempt)
    return {name: getattr(each, name) for name in Segment.__slots__} | {"attempt": attempt}
