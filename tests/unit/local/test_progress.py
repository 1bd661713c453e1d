"""Progress where there is no terminal."""

import io

from media_worker.jobs import Job, JobStatus

from local.progress import Bytes, Lines, display, show_sighting
from local.watching import Sighting


def test_plain_lines_tell_the_begin_and_the_end_of_a_step() -> None:
    """What happens within the same seconds is left out, and nothing is told twice."""
    stream = io.StringIO()
    with display(stream) as lines:
        for done in (0, 1, 2, 3, 3):
            lines.show("processing", done, 3)
    assert stream.getvalue().splitlines() == ["processing: 0 of 3 segments", "processing: 3 of 3 segments"]


def test_bytes_are_told_in_megabytes() -> None:
    """Parts add up, and the last byte completes the step."""
    stream = io.StringIO()
    upload = Bytes(Lines(stream), "upload", 2_500_001)
    for part in (1_000_000, 1_500_000, 1):
        upload.add(part)
    assert stream.getvalue().splitlines() == ["upload: 1 of 3 MB", "upload: 3 of 3 MB"]


def test_a_job_tells_of_three_steps() -> None:
    """Nothing before the plan is there; the join begins when all segments are processed."""
    stream = io.StringIO()
    lines = Lines(stream)
    planned = Job("job", JobStatus.CHUNKING_IN_PROGRESS, "sbs", total_segments=2)
    show_sighting(lines, Sighting(Job("job", JobStatus.CREATED, "sbs")))
    assert stream.getvalue() == ""
    show_sighting(lines, Sighting(planned, 2, 1))
    show_sighting(lines, Sighting(Job("job", JobStatus.COMPLETED, "sbs", total_segments=2), 2, 2))
    assert stream.getvalue().splitlines() == [
        "segments: 2 of 2 segments",
        "processing: 1 of 2 segments",
        "processing: 2 of 2 segments",
        "join: 1 of 1",
    ]
