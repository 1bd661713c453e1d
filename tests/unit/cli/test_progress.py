"""Progress without a terminal."""

import io

from media_worker.jobs import Job, JobStatus
from media_worker_cli.progress import Bytes, Lines, display, show_job
from media_worker_cli.watching import JobProgress


def test_a_step_has_a_first_and_a_last_line() -> None:
    """Lines within a few seconds of the last one are left out, and no line is repeated."""
    stream = io.StringIO()
    with display(stream) as lines:
        for done in (0, 1, 2, 3, 3):
            lines.show("processing", done, 3)
    assert stream.getvalue().splitlines() == ["processing: 0 of 3 segments", "processing: 3 of 3 segments"]


def test_bytes_are_shown_in_megabytes() -> None:
    """Blocks add up, and the last byte completes the step."""
    stream = io.StringIO()
    upload = Bytes(Lines(stream), "upload", 2_500_001)
    for part in (1_000_000, 1_500_000, 1):
        upload.add(part)
    assert stream.getvalue().splitlines() == ["upload: 1 of 3 MB", "upload: 3 of 3 MB"]


def test_a_job_has_three_steps() -> None:
    """Nothing is shown before the plan exists. The join begins when all segments are processed."""
    stream = io.StringIO()
    lines = Lines(stream)
    planned = Job("job", JobStatus.CHUNKING_IN_PROGRESS, "sbs", total_segments=2)
    show_job(lines, JobProgress(Job("job", JobStatus.CREATED, "sbs")))
    assert stream.getvalue() == ""
    show_job(lines, JobProgress(planned, 2, 1))
    show_job(lines, JobProgress(Job("job", JobStatus.COMPLETED, "sbs", total_segments=2), 2, 2))
    assert stream.getvalue().splitlines() == [
        "segments: 2 of 2 segments",
        "processing: 1 of 2 segments",
        "processing: 2 of 2 segments",
        "join: 1 of 1",
    ]
