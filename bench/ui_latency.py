"""Latency of the page with 10,000 jobs, and with a job of 2,000 segments, in the local cloud.

    media-worker up && python -m bench.ui_latency

The rows are removed at the end.
"""

# ruff: noqa: T201 - it prints its table

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from media_worker.aws import Aws
from media_worker_cli.stack import choose_stack
from playwright.sync_api import Page, sync_playwright

JOBS = 10_000
SEGMENTS = 2_000
PROCESSED = 1_500
REPEATS = 5
# DynamoDB's limit for one request.
BATCH = 25
STATUSES = ("completed", "completed", "completed", "failed", "chunking_complete")
BIG = "bench-big"


def rows_of_jobs() -> list[dict[str, Any]]:
    """Jobs of three statuses, a minute apart, and a large one."""
    now = int(time.time())
    rows = [
        {
            "job_id": {"S": f"bench-{number:05d}"},
            "mode": {"S": "sbs"},
            "status": {"S": STATUSES[number % len(STATUSES)]},
            "created_at": {"N": str(now - 60 * number)},
            "total_segments": {"N": "24"},
        }
        for number in range(JOBS)
    ]
    big = {"job_id": {"S": BIG}, "total_segments": {"N": str(SEGMENTS)}, "status": {"S": "chunking_complete"}}
    return [*rows, rows[0] | big]


def rows_of_segments() -> list[dict[str, Any]]:
    """The completions of the large job."""
    now = {"N": str(int(time.time()))}
    row = {"job_id": {"S": BIG}, "output_s3_uri": {"S": "s3://bench/final"}, "completed_at": now}
    return [row | {"segment_index": {"N": str(index)}} for index in range(PROCESSED)]


def write(aws: Aws, table: str, requests: Sequence[Any]) -> None:
    """Put or delete rows."""
    for begin in range(0, len(requests), BATCH):
        aws.dynamodb.batch_write_item(RequestItems={table: requests[begin : begin + BATCH]})


@contextmanager
def stored(aws: Aws) -> Iterator[None]:
    """The rows, removed at the end."""
    settings = aws.settings
    tables = ((settings.jobs_table_name, rows_of_jobs()), (settings.segment_completions_table_name, rows_of_segments()))
    try:
        for table, rows in tables:
            write(aws, table, [{"PutRequest": {"Item": row}} for row in rows])
        yield
    finally:
        for table, rows in tables:
            keys = [{name: row[name] for name in ("job_id", "segment_index") if name in row} for row in rows]
            write(aws, table, [{"DeleteRequest": {"Key": key}} for key in keys])


def seconds_until(page: Page, address: str, selector: str, count: int) -> float:
    """The time from opening an address until the elements are there."""
    page.goto("about:blank")
    began = time.monotonic()
    page.goto(address)
    while page.locator(selector).count() < count:
        page.wait_for_timeout(5)
    return time.monotonic() - began


def seconds_until_older(page: Page, address: str) -> float:
    """The time from a click on `Older jobs` until the next page is there."""
    seconds_until(page, address, ".jobs tbody tr", 50)
    first = page.locator(".jobs tbody a").first.inner_text()
    began = time.monotonic()
    page.get_by_role("link", name="Older jobs").click()
    while page.locator(".jobs tbody a").count() == 0 or page.locator(".jobs tbody a").first.inner_text() == first:
        page.wait_for_timeout(5)
    return time.monotonic() - began


def main() -> None:
    """Print the median and the longest time of each view."""
    argv = [str(Path(sys.executable).with_name("media-worker")), "ui", "--no-open"]
    with (
        stored(choose_stack(None).aws),
        subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server,
        sync_playwright() as playwright,
    ):
        assert server.stdout
        url = server.stdout.readline().split()[-1]
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 1100, "height": 1000})
        page.set_default_timeout(60_000)
        measured = {
            f"list of {JOBS:,} jobs, first page": [
                seconds_until(page, url, ".jobs tbody tr", 50) for _ in range(REPEATS)
            ],
            f"list of {JOBS:,} jobs, next page": [seconds_until_older(page, url) for _ in range(REPEATS)],
            f"job of {SEGMENTS:,} segments": [
                seconds_until(page, f"{url}#/job/{BIG}", ".cell", SEGMENTS) for _ in range(REPEATS)
            ],
        }
        for name, times in measured.items():
            print(f"| {name} | {statistics.median(times):.2f} | {max(times):.2f} |", flush=True)
        browser.close()
        server.terminate()


if __name__ == "__main__":
    main()
