"""Progress without a terminal."""

import io
import re

from media_worker.attempts import Attempt
from media_worker.description import Segment
from media_worker.jobs import Job, JobStatus
from media_worker_cli.progress import Bytes, JobDisplay, Lines, describe_work, display
from media_worker_cli.watching import JobProgress


def test_a_step_has_a_first_and_a_last_line() -> None:
    """Lines within a few seconds of the last one are left out, and no line is repeated."""
    stream = io.StringIO()
    with display(stream) as lines:
        for done in (0, 1, 2, 3, 3):
            lines.show("processing", done, 3)
    assert stream.getvalue().splitlines() == ["processing: 0 of 3 segments", "processing: 3 of 3 segments"]


def test_bytes_are_displayed_in_megabytes() -> None:
    """Blocks add up, the last byte completes the step, and the rate follows."""
    stream = io.StringIO()
    upload = Bytes(Lines(stream), "upload", 2_500_001)
    for part in (1_000_000, 1_500_000, 1):
        upload.add(part)
    rates = r"upload: 1 of 3 MB, [0-9.]+ MB/s\nupload: 3 of 3 MB, [0-9.]+ MB/s\n"
    assert re.fullmatch(rates, stream.getvalue())


def test_a_job_has_three_steps() -> None:
    """Nothing is displayed before the plan exists. The join begins when all segments are processed."""
    stream = io.StringIO()
    steps = JobDisplay(Lines(stream))
    planned = Job("job", JobStatus.CHUNKING_IN_PROGRESS, "sbs", total_segments=2)
    steps.show(JobProgress(Job("job", JobStatus.CREATED, "sbs")))
    assert stream.getvalue() == ""
    steps.show(JobProgress(planned, 2, 1))
    steps.show(JobProgress(Job("job", JobStatus.COMPLETED, "sbs", total_segments=2), 2, 2))
    assert stream.getvalue().splitlines() == [
        "segments: 2 of 2 segments",
        "processing: 1 of 2 segments",
        "processing: 2 of 2 segments",
        "join: 1 of 1",
    ]


def test_a_notice_is_displayed_once() -> None:
    """Above the steps, as soon as the plan has one."""
    stream = io.StringIO()
    steps = JobDisplay(Lines(stream))
    for _ in range(2):
        steps.show(JobProgress(Job("job", JobStatus.CREATED, "sbs", notice="one segment: a single keyframe")))
    assert stream.getvalue() == "notice: one segment: a single keyframe\n"


def attempt(progress: float | None) -> Attempt:
    return Attempt("job", 0, 1, "gpu-1", "message/1", progress=progress)


def test_work_is_described_by_time_and_segments() -> None:
    """At most four segments are named. A worker may not know its progress."""
    running = tuple(Segment(index, "running", attempt=attempt(None if index else 0.42)) for index in range(6))
    job = Job("job", JobStatus.CHUNKING_COMPLETE, "sbs", total_segments=9)
    assert describe_work(JobProgress(job, 9, 3, running, 150)) == (
        "2 min left, segment 0 42%, segment 1, segment 2, segment 3 and 2 more"
    )
    assert describe_work(JobProgress(job, 9, 9, (), 0)) == ""
