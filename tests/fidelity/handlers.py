"""The product's own engines: a source goes through both handlers on a stack in moto."""

import io
import logging
import tempfile
from contextlib import redirect_stdout
from fractions import Fraction
from functools import partial
from pathlib import Path

from media_worker.jobs import JobStatus
from media_worker.keys import build_final_key
from moto import mock_aws

from tests.fidelity.outcome import Outcome, Refused
from tests.functional.stack import OUTPUT, Stack


def through_handlers(engine: str, source: Path, folder: Path, segment_duration_s: Fraction) -> Outcome:
    """Upload, chunk, process without a change, reassemble."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    logging.disable(logging.CRITICAL)
    try:
        with mock_aws(), redirect_stdout(io.StringIO()):  # the functions print their metrics
            return _run(Stack.create(folder), engine, source, folder, segment_duration_s)
    finally:
        tempfile.tempdir = before
        logging.disable(logging.NOTSET)


def _run(stack: Stack, engine: str, source: Path, folder: Path, segment_duration_s: Fraction) -> Outcome:
    # Rounded down, as a person would type it: rounding up could miss a sync sample exactly at the boundary.
    stack.add_job(engine={"S": engine}, segment_duration_sec={"N": f"{int(segment_duration_s * 10**6) / 10**6:.6f}"})
    stack.upload(source)
    stack.chunk()
    if stack.job().status is not JobStatus.CHUNKING_COMPLETE:
        raise Refused(stack.job().error or stack.job().status)
    segments = stack.save_segments(folder)
    stack.process_segments()
    stack.reassemble()
    if stack.job().status is not JobStatus.COMPLETED:
        raise Refused(stack.job().error or stack.job().status)
    final = folder / "final.mp4"
    final.write_bytes(stack.read(OUTPUT, build_final_key("job-1")))
    return Outcome(tuple(segments), final)


ffmpeg_engine = partial(through_handlers, "ffmpeg")
auto_engine = partial(through_handlers, "auto")
