"""The AWS requests and the seconds of one job, by kind: `make bench-requests`.

Runs the chunking, a worker that copies its segments, and the join in moto, with each engine. Each request takes
`--latency-ms` longer than in moto, because a request to AWS takes time too. Runs on older versions of the package:
`PYTHONPATH=<checkout>/shared python -m bench.job_requests`.
"""

# ruff: noqa: T201 - a benchmark prints

import argparse
import io
import logging
import os
import statistics
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.call_depth import (
    CREDENTIALS,
    ENVIRONMENT,
    JOB,
    create_stack,
    deliver,
    process_segments,
    require_completed,
    submit,
)

_STEPS = ("chunking", "worker", "join")


@dataclass(slots=True)
class Meter:
    """Requests and seconds of each step."""

    latency_s: float
    step: str = ""
    requests: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def watch(self, aws: Any) -> None:
        """Count the requests of all clients, the SDK's retries included."""
        for client in (aws.s3, aws.sqs, aws.dynamodb):
            client.meta.events.register("request-created", self._sent)

    @contextmanager
    def measuring(self, step: str) -> Iterator[None]:
        """Measure the body as a step."""
        self.step, begin = step, time.monotonic()
        try:
            yield
        finally:
            self.seconds[step] = time.monotonic() - begin
            self.step = ""

    def _sent(self, operation_name: str, **_: Any) -> None:
        if self.step:
            with self._lock:
                self.requests[self.step][operation_name] += 1
            time.sleep(self.latency_s)


def run_job(source: bytes, engine: str, latency_s: float) -> Meter:
    """One job from its upload to its final, with the package that is on the path."""
    from media_worker.aws import Aws  # noqa: PLC0415 - after the environment is set
    from media_worker.handlers import build_chunking_handler, build_reassembly_handler  # noqa: PLC0415
    from media_worker.settings import Settings  # noqa: PLC0415
    from moto import mock_aws  # noqa: PLC0415

    meter = Meter(latency_s)
    with mock_aws(), redirect_stdout(io.StringIO()):  # the handlers print their metrics
        settings = ENVIRONMENT | {"CHUNK_SEGMENT_DURATION_SEC": "1", "ENGINE": engine}
        aws = Aws.connect(Settings.from_environment(settings))
        create_stack(aws)
        event = submit(aws, source)
        meter.watch(aws)
        with meter.measuring("chunking"):
            deliver(build_chunking_handler(aws), event)
        with meter.measuring("worker"):
            process_segments(aws)
        with meter.measuring("join"):
            deliver(build_reassembly_handler(aws), {"job_id": JOB})
        require_completed(aws)
    return meter


def make_source(folder: Path, segments: int) -> bytes:
    """H.264 and AAC with a sync sample every second."""
    from tests.media import clips  # noqa: PLC0415 - after the environment is set

    path, seconds = folder / "source.mp4", str(segments)
    clips.ffmpeg(
        *("-f", "lavfi", "-i", f"testsrc2=size=192x108:rate=25:duration={seconds}"),
        *("-f", "lavfi", "-i", f"sine=sample_rate=48000:duration={seconds}"),
        *("-c:v", "libx264", "-preset", "ultrafast", "-g", "25", "-bf", "2", "-pix_fmt", "yuv420p"),
        *("-c:a", "aac", "-b:a", "64k", str(path)),
    )
    return path.read_bytes()


def describe(engine: str, meters: Sequence[Meter]) -> Iterator[str]:
    """The rows of an engine: the requests of the first run, and the median of the seconds."""
    requests = meters[0].requests
    for operation in sorted({name for counter in requests.values() for name in counter}):
        yield _row(engine, operation, [requests[step][operation] for step in _STEPS], "d")
    yield _row(engine, "all requests", [requests[step].total() for step in _STEPS], "d")
    yield _row(engine, "seconds", [statistics.median(m.seconds[step] for m in meters) for step in _STEPS], ".2f")


def _row(engine: str, name: str, values: Sequence[float], form: str) -> str:
    return f"| {engine} | {name} | " + " | ".join(format(value, form) for value in (*values, sum(values))) + " |"


def main() -> int:
    """Measure each engine and print the table."""
    parser = argparse.ArgumentParser(prog="make bench-requests")
    parser.add_argument("--segments", type=int, default=25)
    parser.add_argument("--latency-ms", type=float, default=20)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--engines", nargs="+", default=["copy", "ffmpeg"])
    options = parser.parse_args()
    os.environ.update(CREDENTIALS)
    logging.disable(logging.CRITICAL)
    from media_worker_cli.local.ffmpeg import ffmpeg_path  # noqa: PLC0415 - after the environment is set

    ENVIRONMENT["FFMPEG_PATH"] = str(ffmpeg_path())
    with tempfile.TemporaryDirectory() as folder:
        source = make_source(Path(folder), options.segments)
    print("| engine | request | chunking | worker | join | job |\n|---|---|--:|--:|--:|--:|")
    for engine in options.engines:
        meters = [run_job(source, engine, options.latency_ms / 1000) for _ in range(options.repeat)]
        print("\n".join(describe(engine, meters)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
