"""Many segments on workers that are killed, and many jobs at once, in a local cloud of its own: `make load`.

The first part submits one job with many segments, and kills workers at random (SIGKILL) while they process it; each
killed worker is replaced. The second part submits many jobs at once. The exit code is 1 if a final does not have
exactly the frames of its source, a command ran for a segment that was uploaded already, a job waited too long, or a
process used too much memory. Every job is tiny, so the figures are about the control of the work, not about media.
"""

# ruff: noqa: T201 - a benchmark prints

import argparse
import contextlib
import functools
import hashlib
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from media_worker.jobs import JobStatus, read_row
from media_worker.keys import build_final_key
from media_worker_cli.local import cloud as clouds
from media_worker_cli.local.commands import use_local_cloud
from media_worker_cli.local.deployment import STACK_NAME
from media_worker_cli.stack import Stack, find_stack
from media_worker_cli.submission import Submission, submit

from bench.load_memory import Memory
from tests.media import clips, look

_COMMAND = Path(__file__).with_name("load_command.py")
_FPS = 10
_FRAMES_PER_SEGMENT = 5
_SEGMENT_S = Decimal(_FRAMES_PER_SEGMENT) / _FPS
# Jobs at once have different sources, so that a final with frames of another job is noticed.
_SOURCES = 8
_UPLOADS = 16
_POLL_S = 0.5
_ENDED = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.DELETED})


@dataclass(slots=True)
class Workers:
    """`media-worker work` processes."""

    folder: Path
    command: Sequence[str]
    visibility_s: int
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    started: int = 0
    killed: int = 0

    def start(self) -> None:
        """Start one more."""
        self.started += 1
        name = f"worker-{self.started}"
        directory = self.folder / name
        directory.mkdir()
        words = ["--visibility", str(self.visibility_s), "--name", name, "--directory", str(directory)]
        argv = [str(Path(sys.executable).with_name("media-worker")), "work", *words, "--", *self.command]
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.running[process.pid] = process

    def kill_one(self, chance: random.Random) -> None:
        """Kill a worker (SIGKILL) and start another one."""
        process = self.running.pop(chance.choice(sorted(self.running)))
        process.kill()
        process.wait()
        self.killed += 1
        self.start()

    def stop(self) -> None:
        """Stop all of them."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            process.wait(timeout=30)
        self.running.clear()


@dataclass(frozen=True, slots=True)
class Load:
    """The stack and its workers."""

    stack: Stack
    folder: Path
    workers: Workers
    memory: Memory

    def submit(self, sources: Sequence[Path]) -> dict[str, Path]:
        """Submit a job for each source, many at once; the source of each job id."""
        jobs = {f"load-{len(sources)}-{number:05d}": source for number, source in enumerate(sources)}
        with ThreadPoolExecutor(_UPLOADS) as pool:
            list(pool.map(self._submit, jobs.items()))
        return jobs

    def _submit(self, job: tuple[str, Path]) -> None:
        submit(self.stack.aws, Submission(*job, segment_duration_s=_SEGMENT_S), lambda _: None)

    def wait(self, jobs: Iterator[str] | Sequence[str], limit_s: float) -> dict[str, float]:
        """Wait until the jobs have ended; the seconds after which each was seen to end, at most `_POLL_S` late."""
        begin, ended, open_jobs = time.monotonic(), dict[str, float](), set(jobs)
        while open_jobs and time.monotonic() - begin < limit_s:
            time.sleep(_POLL_S)
            for job_id in sorted(open_jobs):
                if read_row(self.stack.aws, job_id).get("status") in _ENDED:
                    ended[job_id] = time.monotonic() - begin
            open_jobs -= set(ended)
        return ended

    def progress_gaps(self, job_id: str) -> tuple[int, int]:
        """Seconds from a job's creation to its end, and the longest time without progress. The rows have seconds."""
        row, aws = read_row(self.stack.aws, job_id), self.stack.aws
        table, key = aws.settings.segment_completions_table_name, {":job": {"S": job_id}}
        pages = aws.dynamodb.get_paginator("query").paginate(
            TableName=table, KeyConditionExpression="job_id = :job", ExpressionAttributeValues=key
        )
        segments = [int(item["completed_at"]["N"]) for page in pages for item in page["Items"]]
        moments = sorted([int(row["created_at"]), *segments, int(row.get("completed_at", time.time()))])
        gaps = [after - before for before, after in itertools.pairwise(moments)]
        return moments[-1] - moments[0], max(gaps)

    def is_exact(self, job_id: str, source: Path) -> bool:
        """Whether the job is completed and its final has exactly the source's decoded frames."""
        if read_row(self.stack.aws, job_id).get("status") != JobStatus.COMPLETED:
            return False
        bucket, path = self.stack.aws.settings.output_bucket_name, self.folder / f"{job_id}.mp4"
        self.stack.aws.s3.download_file(bucket, build_final_key(job_id), str(path))
        try:
            return _frames_of_file(path) == _frames_of_file(source)
        finally:
            path.unlink()

    def runs(self, jobs: Sequence[str]) -> "Runs":
        """The runs of the command for some jobs."""
        lines = [json.loads(line) for line in (self.folder / "runs.jsonl").read_text().splitlines()]
        return Runs([line for line in lines if line["job"] in set(jobs)])


@dataclass(frozen=True, slots=True)
class Runs:
    """The logged runs of the command."""

    lines: Sequence[dict[str, Any]]

    @property
    def segments(self) -> int:
        """The number of segments with a run."""
        return len(self._per_segment)

    @property
    def repeated(self) -> int:
        """Runs beyond the first one of each segment."""
        return len(self.lines) - self.segments

    @property
    def most(self) -> int:
        """The most runs of a segment."""
        return max(self._per_segment.values())

    @property
    def wasted(self) -> int:
        """Runs for a segment that was uploaded already."""
        return sum(line["wasted"] for line in self.lines)

    @property
    def _per_segment(self) -> Counter[tuple[str, int]]:
        return Counter((line["job"], line["index"]) for line in self.lines)


def _frames_of_file(path: Path) -> str:
    content = path.read_bytes()
    return _frames(hashlib.sha256(content).hexdigest(), path)


_known_frames: dict[str, str] = {}


def _frames(digest: str, path: Path) -> str:
    """The hash of all decoded frames. Files with the same bytes are decoded once."""
    if digest not in _known_frames:
        frames = [frame.content for frame in look.decoded_frames(path)]
        _known_frames[digest] = f"{len(frames)} {hashlib.sha256(' '.join(frames).encode()).hexdigest()}"
    return _known_frames[digest]


def make_source(path: Path, segments: int, variant: int = 0) -> Path:
    """A tiny video with a sync sample for each segment."""
    seconds = segments * float(_SEGMENT_S)
    clips.ffmpeg(
        *("-f", "lavfi", "-i", f"testsrc2=size=64x36:rate={_FPS}:duration={seconds}", "-vf", f"hue=h={variant * 40}"),
        *("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", str(_FRAMES_PER_SEGMENT)),
        *("-sc_threshold", "0", "-pix_fmt", "yuv420p", str(path)),
    )
    return path


@contextlib.contextmanager
def loaded_stack(options: argparse.Namespace) -> Iterator[Load]:
    """A local cloud of its own with workers; everything is stopped at the end."""
    with tempfile.TemporaryDirectory() as name:
        folder, state = Path(name), Path(name) / "cloud"
        cloud = clouds.bring_up(state, dict(os.environ), print)
        try:
            use_local_cloud(cloud)
            stack = find_stack(STACK_NAME, os.environ)
            os.environ.update(stack.environment)
            bucket = stack.aws.settings.output_bucket_name
            words = [str(folder / "runs.jsonl"), bucket, str(options.seconds), "{input}", "{output}"]
            workers = Workers(folder, [sys.executable, "-I", str(_COMMAND), *words], options.visibility)
            for _ in range(options.workers):
                workers.start()
            with Memory.watching(cloud.pid, workers.running) as memory:
                yield Load(stack, folder, workers, memory)
            workers.stop()
        finally:
            for process in workers.running.values():
                process.kill()
            clouds.stop(state)


@contextlib.contextmanager
def _killing(workers: Workers, options: argparse.Namespace) -> Iterator[None]:
    """Kill workers at random while the body runs."""
    chance, stop = random.Random(options.seed), threading.Event()  # noqa: S311 - it chooses victims

    def kill() -> None:
        while not stop.wait(chance.expovariate(1 / options.kill_every)):
            workers.kill_one(chance)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        stop.set()
        killer.join()


def kill_workers(load: Load, options: argparse.Namespace) -> bool:
    """One job whose workers are killed; whether all is well."""
    source = make_source(load.folder / "long.mp4", options.segments)
    with _killing(load.workers, options):
        (job_id,) = load.submit([source])
        ended = load.wait([job_id], options.limit)
    runs, exact = load.runs([job_id]), load.is_exact(job_id, source)
    row = read_row(load.stack.aws, job_id)
    print(f"\n{options.segments} segments on {options.workers} workers, {load.workers.killed} workers killed:")
    _print_row("status", f"{row.get('status')} {row.get('error', '')}".strip())
    _print_row("frames of the final equal the source's", "yes" if exact else "NO")
    _print_row("seconds", f"{ended.get(job_id, options.limit):.0f}")
    _print_runs(runs)
    return exact and not runs.wasted and runs.segments == options.segments


def jobs_at_once(load: Load, options: argparse.Namespace) -> bool:
    """Many jobs at once; whether all is well."""
    made = [make_source(load.folder / f"short-{n}.mp4", options.segments_per_job, n) for n in range(_SOURCES)]
    assert len({_frames_of_file(source) for source in made}) == _SOURCES
    jobs = load.submit([made[number % _SOURCES] for number in range(options.jobs)])
    load.wait(list(jobs), options.limit)
    exact = sum(load.is_exact(job_id, source) for job_id, source in jobs.items())
    gaps = [load.progress_gaps(job_id) for job_id in jobs]
    whole, longest = [gap[0] for gap in gaps], max(gap[1] for gap in gaps)
    runs = load.runs(list(jobs))
    print(f"\n{options.jobs} jobs of {options.segments_per_job} segments at once, {options.workers} workers:")
    _print_row("completed, frames equal the source's", f"{exact} of {options.jobs}")
    _print_row(
        "seconds to complete: shortest, median, longest", f"{min(whole)}, {statistics.median(whole):.0f}, {max(whole)}"
    )
    _print_row("longest wait of a job between two steps, s", str(longest))
    _print_runs(runs)
    return exact == options.jobs and not runs.wasted and longest < options.limit


def _print_runs(runs: Runs) -> None:
    _print_row("runs of the command", str(len(runs.lines)))
    _print_row("runs repeated; most runs of a segment", f"{runs.repeated}; {runs.most}")
    _print_row("runs for a segment that was uploaded", str(runs.wasted))


def _print_row(what: str, value: str) -> None:
    print(f"| {what} | {value} |", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="make load", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = functools.partial(parser.add_argument, type=int)
    add("--segments", default=200, help="segments of the job whose workers are killed")
    add("--workers", default=8)
    add("--jobs", default=200, help="jobs at once")
    add("--segments-per-job", default=2)
    add("--visibility", default=30, help="seconds after which a killed worker's segment is free")
    add("--limit", default=600, help="seconds until a part, or a wait of a job, is too long")
    add("--memory", default=250, help="MB that a function or a worker may use")
    add("--seed", default=1)
    parser.add_argument("--kill-every", type=float, default=4.0, help="mean seconds between two kills")
    parser.add_argument("--seconds", type=float, default=0.3, help="work of the command per segment")
    return parser


def main() -> int:
    """Run both parts and print their tables."""
    options = _parser().parse_args()
    with loaded_stack(options) as load:
        well = [part(load, options) for part in (kill_workers, jobs_at_once)]
        print("\npeak memory of one process, MB:")
        for kind, peak_mb in sorted(load.memory.peaks_mb.items()):
            _print_row(kind, f"{peak_mb:.0f}")
        bounded = all(load.memory.peaks_mb[kind] < options.memory for kind in ("function", "worker"))
    return 0 if all(well) and bounded else 1


if __name__ == "__main__":
    raise SystemExit(main())
