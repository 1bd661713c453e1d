"""The command `check`: its steps in order, and the table and the report of what they found."""

# ruff: noqa: T201 - a command line prints

import json
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from media_worker.errors import MediaWorkerError

from media_worker_cli.check.events import events, listen
from media_worker_cli.check.jobs import announcements, delete_jobs, join, process, split, submit_both
from media_worker_cli.check.rights import who_calls, worker_policy, worker_rights
from media_worker_cli.check.smoke import LOOK, Disproven, NotChecked, Smoke
from media_worker_cli.check.storage import conditional_writes, expiry, part_copies
from media_worker_cli.errors import CommandError
from media_worker_cli.progress import Display, display
from media_worker_cli.stack import choose_stack
from media_worker_cli.tables import as_table
from media_worker_cli.watching import AWS_INTERVAL_S, LOCAL_INTERVAL_S

Result = Literal["proven", "failed", "not checked"]

REPORT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked. `advice` says what to do about a failure."""

    check: str
    result: Result
    found: str
    advice: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """A check, the name of the one that it needs, and the function that says what it found."""

    name: str
    needs: str | None
    look: Callable[[Smoke], str]


STEPS: Sequence[Step] = (
    Step("account", None, who_calls),
    Step("worker policy", None, worker_policy),
    Step("rule for events", None, listen),
    Step("upload", None, submit_both),
    Step("split by part copies", "upload", lambda smoke: split(smoke, "copy")),
    Step("split by ffmpeg", "upload", lambda smoke: split(smoke, "ffmpeg")),
    Step("part copies", "split by part copies", part_copies),
    Step("conditional writes", "split by part copies", conditional_writes),
    Step("segments announced", "split by part copies", announcements),
    Step("rights of workers", "upload", worker_rights),
    Step("segments, part copies", "split by part copies", lambda smoke: process(smoke, "copy")),
    Step("segments, ffmpeg", "split by ffmpeg", lambda smoke: process(smoke, "ffmpeg")),
    Step("join by part copies", "segments, part copies", lambda smoke: join(smoke, "copy")),
    Step("join by ffmpeg", "segments, ffmpeg", lambda smoke: join(smoke, "ffmpeg")),
    Step("events", "rule for events", events),
    Step("expiry", "segments, part copies", expiry),
)


def check(arguments: Namespace) -> int:
    """Check a stack: 0 if nothing failed, else 1. Something that could not be checked is no failure."""
    stack = choose_stack(arguments.stack)
    interval_s = AWS_INTERVAL_S if arguments.stack else LOCAL_INTERVAL_S
    smoke = Smoke(stack, arguments.timeout, interval_s, arguments.worker_role)
    findings: list[Finding] = []
    started_at = time.time()
    try:
        with display() as screen:
            examine(smoke, screen, findings)
    finally:
        report = build_report(smoke, started_at, findings)
        if arguments.report:
            arguments.report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(report, indent=2) if arguments.json else "\n".join(_lines(findings)))
    return 1 if any(finding.result == "failed" for finding in findings) else 0


def build_report(smoke: Smoke, started_at: float, findings: Sequence[Finding]) -> dict[str, Any]:
    """What `--report` writes. It has no credentials, but it names buckets and the account."""
    return {
        "version": REPORT_VERSION,
        "stack": smoke.stack.name,
        "region": smoke.aws.settings.aws_region,
        "endpoint": smoke.aws.settings.aws_endpoint_url,
        "started_at": int(started_at),
        "seconds": round(time.time() - started_at, 1),
        "jobs": {trial.engine: trial.job_id for trial in smoke.trials},
        "passed": bool(findings) and all(finding.result != "failed" for finding in findings),
        "checks": [asdict(finding) for finding in findings],
    }


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    rows = [(each.result.upper(), each.check, f"{each.seconds:.1f} s", each.found) for each in findings]
    yield from as_table(("RESULT", "CHECK", "TIME", "FOUND"), rows)
    for finding in findings:
        if finding.advice:
            yield f"\n{finding.check}: {finding.advice}"


def examine(smoke: Smoke, screen: Display, findings: list[Finding]) -> None:
    """Make all checks, in the order in which a job meets them. The last one is the cleanup, which always runs."""
    unproven: set[str] = set()
    try:
        for step in STEPS:
            screen.say(f"checking: {step.name}")
            if step.needs in unproven:
                findings.append(Finding(step.name, "not checked", f"it needs: {step.needs}"))
            else:
                findings.append(_look(smoke, step))
            if findings[-1].result != "proven":
                unproven.add(step.name)
    finally:
        screen.say("removing what the check has made")
        findings.append(_look(smoke, Step("cleanup", None, clean_up)))


def _look(smoke: Smoke, step: Step) -> Finding:
    begin = time.monotonic()

    def found(result: Result, text: str, advice: str = "") -> Finding:
        return Finding(step.name, result, " ".join(text.split()), advice, round(time.monotonic() - begin, 1))

    try:
        return found("proven", step.look(smoke))
    except NotChecked as reason:
        return found("not checked", str(reason))
    except Disproven as error:
        return found("failed", str(error), error.advice)
    except (ClientError, BotoCoreError, Boto3Error, MediaWorkerError, CommandError, OSError) as error:
        return found("failed", f"{type(error).__name__}: {error}", LOOK)


def clean_up(smoke: Smoke) -> str:
    """Remove everything that the check has made."""
    listener = smoke.listener
    if left := [*(listener.close() if listener else ()), *delete_jobs(smoke)]:
        advice = "delete what is left: a job with `media-worker delete JOB`, a rule or queue in the AWS console"
        raise Disproven("; ".join(left), advice)
    made = "rule, queue, " if listener and listener.parts else ""
    return f"{made}objects, rows and messages of both jobs are removed"
