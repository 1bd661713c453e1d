"""Broken and hostile media files: `python -m tests.hostile.mutants` runs 2,000 of them, the tests a sample.

Each file is the source of a job. The job must end `failed` with an error, or `completed` with a final that holds what
was planned, use at most 300 MB of memory, and leave no process behind. The workers return the segments unchanged, or,
for half of the files, without their provenance, so that they are joined by their own times. `make hostile` also reports
jobs that take longer than 20 s.
"""

import argparse
import logging
import os
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from media_worker import telemetry
from media_worker.jobs import JobStatus
from moto import mock_aws

import tests.conftest  # noqa: F401  # no run may reach AWS
from bench.meter import peak_rss_mb
from tests.crash.process import processes_in
from tests.functional.stack import Stack
from tests.media import clips
from tests.unit.mp4.movies import without_provenance

MAX_S = 20
MAX_BYTES = 300 * 1000 * 1000
# Memory of the interpreter, our modules and the clients before the first message.
_IDLE_BYTES = 100 * 1000 * 1000
SIZES = (0, 1, 7, 8, 2**31 - 1, 2**31, 2**32 - 1)
BOXES = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"stts", b"stsc", b"stsz", b"stco", b"ctts", b"stss")
FRAGMENT_BOXES = (b"moof", b"traf", b"tfhd", b"tfdt", b"trun", b"sidx", b"mfra", b"mvex")
BASES = (
    *("plain", "two_audio", "hevc", "subtitles", "timecode", "matroska"),
    *("open_gop", "fragmented", "mpegts", "avi"),
)
FORWARD_KEYS = Path(__file__).parents[1] / "media" / "av1_forward_keys.mp4"

type Mutation = Callable[[bytearray, random.Random], None]


_NAMES = (*BOXES, *FRAGMENT_BOXES, b"mdat", b"ftyp", b"elst")


def _box_types(content: bytearray, names: tuple[bytes, ...] = _NAMES) -> list[int]:
    """Offsets of box types."""
    return [offset for name in names if (offset := content.find(name)) >= 4]


def flip_bits(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 64)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def flip_bits_in_the_index(content: bytearray, rng: random.Random) -> None:
    begin = max(0, content.find(b"moov"))
    for _ in range(rng.randint(1, 16)):
        content[rng.randrange(begin, min(len(content), begin + 8000))] ^= 1 << rng.randrange(8)


def truncate(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


def resize_a_box(content: bytearray, rng: random.Random) -> None:
    if offsets := _box_types(content):
        offset = rng.choice(offsets)
        content[offset - 4 : offset] = struct.pack(">I", rng.choice(SIZES))


def resize_a_box_to_64_bits(content: bytearray, rng: random.Random) -> None:
    if offsets := _box_types(content):
        offset = rng.choice(offsets)
        content[offset - 4 : offset] = struct.pack(">I", 1)
        content[offset + 4 : offset + 12] = struct.pack(">Q", rng.choice((0, 15, 16, 2**63 - 1, 2**63, 2**64 - 1)))


def lengthen_a_table(content: bytearray, rng: random.Random) -> None:
    if offsets := _box_types(content, (b"stts", b"stsc", b"stco", b"ctts", b"stss", b"elst")):
        offset = rng.choice(offsets)
        content[offset + 8 : offset + 12] = struct.pack(">I", rng.choice((10**6, 2**24, 2**31 - 1, 2**32 - 1)))


def repeat_one_sample(content: bytearray, rng: random.Random) -> None:
    """A million samples of a constant size in a small file."""
    for name, at in ((b"stsz", 8), (b"stts", 12)):
        if (offset := content.find(name)) >= 0:
            content[offset + at : offset + at + 8] = struct.pack(">II", rng.choice((1, 1000, 10**6)), 10**6)


def nest_deeply(content: bytearray, rng: random.Random) -> None:
    nested = b""
    for _ in range(rng.choice((100, 5000))):
        nested = struct.pack(">I4s", min(2**32 - 1, len(nested) + 8), rng.choice((b"moov", b"trak", b"udta"))) + nested
        if len(nested) > 100_000:
            break
    offset = max(4, content.find(b"moov")) - 4
    content[offset:offset] = nested


def swap_boxes(content: bytearray, rng: random.Random) -> None:
    if offsets := _box_types(content):
        content[(offset := rng.choice(offsets)) : offset + 4] = rng.choice(BOXES)


def cut_out(content: bytearray, rng: random.Random) -> None:
    begin = rng.randrange(len(content))
    del content[begin : begin + rng.randint(1, 5000)]


MUTATIONS: tuple[Mutation, ...] = (
    *(flip_bits, flip_bits_in_the_index, truncate, resize_a_box, resize_a_box_to_64_bits, lengthen_a_table),
    *(repeat_one_sample, nest_deeply, swap_boxes, cut_out),
)


def mutant(number: int, bases: list[bytes]) -> tuple[str, bytes]:
    """The file of this number and the name of its mutation. The same number gives the same file."""
    rng = random.Random(number)
    mutation = MUTATIONS[number % len(MUTATIONS)]
    content = bytearray(bases[number // len(MUTATIONS) % len(bases)])
    mutation(content, rng)
    return mutation.__name__, bytes(content)


@dataclass(frozen=True, slots=True)
class Result:
    number: int
    mutation: str
    outcome: str
    seconds: float
    peak_bytes: int
    complaint: str


def attempt(number: int, bases: list[bytes], temporary: Path, engine: str) -> Result:
    """Run one job in a process of its own, so that its memory can be measured."""
    mutation, content = mutant(number, bases)
    reading, writing = os.pipe()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        begin_bytes = _own_peak_bytes()
        try:
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)
            text = _run_job(content, temporary, engine, keeps_provenance=_keeps_provenance(number, len(bases)))
        except BaseException as error:  # noqa: BLE001  # reported to the parent
            text = f"!{type(error).__name__}: {error}"
        os.write(writing, f"{_peak_bytes(begin_bytes)}\n{text[:2000]}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, errors="replace") as pipe:
        peak, _, text = pipe.read().partition("\n")
    os.waitpid(pid, 0)
    seconds = time.monotonic() - began
    return Result(
        number,
        mutation,
        text.partition(":")[0],
        seconds,
        int(peak or 0),
        "; ".join(_complaints(text, int(peak or 0), temporary)),
    )


def _own_peak_bytes() -> int:
    return int(peak_rss_mb() * 1e6)


def _peak_bytes(begin_bytes: int) -> int:
    """The peak memory that a function, or its ffmpeg, would have had.

    This process starts with all the memory of the tests, a function with `_IDLE_BYTES`. The figure of a child process
    starts with that of its parent, so it counts only when it is higher.
    """
    own = _own_peak_bytes()
    programs = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return max(own - begin_bytes + _IDLE_BYTES, programs if programs > own else 0)


def _keeps_provenance(number: int, bases: int) -> bool:
    return number // (len(MUTATIONS) * bases) % 2 == 0


def _run_job(content: bytes, temporary: Path, engine: str, *, keeps_provenance: bool) -> str:
    tempfile.tempdir = str(temporary)
    with mock_aws():
        stack = Stack.create(temporary)
        stack.add_job(engine={"S": engine})
        stack.upload(content)
        returned = stack.chunk(receive_count=5)
        job = stack.job()
        if job.status is JobStatus.CHUNKING_COMPLETE:
            if len(stack.segment_keys()) != job.total_segments:
                return f"!{len(stack.segment_keys())} segments of {job.total_segments}"
            stack.process_segments(change=None if keeps_provenance else lambda _, body: without_provenance(body))
            returned = stack.reassemble(receive_count=5)
            job = stack.job()
        if returned or job.status not in {JobStatus.COMPLETED, JobStatus.FAILED}:
            return f"!{job.status}, {len(returned)} returned: {job.error}"
        return f"{job.status}: {job.error}"


def _complaints(text: str, peak_bytes: int, temporary: Path) -> Iterator[str]:
    if not text or text.startswith("!"):
        yield text or "the process died"
    if text.startswith("failed") and len(text) < len("failed: reason"):
        yield "failed without a reason"
    if peak_bytes > MAX_BYTES:
        yield f"used {peak_bytes / 1e6:.0f} MB of memory"
    for pid, command in processes_in(temporary):
        yield f"process {pid} is still running: {command}"


def make_bases(folder: Path) -> list[bytes]:
    made = [clips.make(name, folder / f"{name}.mp4") for name in BASES]
    return [path.read_bytes() for path in (*made, FORWARD_KEYS)]


def _share(numbers: range, engine: str) -> list[Result]:
    """The results of one process's share of the files."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        bases = make_bases(Path(folder))
        for number in numbers:
            results.append(attempt(number, bases, Path(folder), engine))
            if complaint := results[-1].complaint:
                print(f"{number} {results[-1].mutation}: {complaint}", file=sys.stderr, flush=True)
    return results


def table(results: Sequence[Result]) -> str:
    """The table that `make hostile` prints."""
    counts = Counter((result.mutation, result.outcome) for result in results)
    outcomes = sorted({result.outcome for result in results})
    lines = [
        f"| {' | '.join(('mutation', 'files', *outcomes))} |",
        f"|---|{'--:|' * (1 + len(outcomes))}",
    ]
    for mutation in sorted({result.mutation for result in results}):
        numbers = [counts[mutation, outcome] for outcome in outcomes]
        lines.append(f"| {' | '.join((mutation.replace('_', ' '), *map(str, [sum(numbers), *numbers])))} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run jobs with broken and hostile media files.")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    telemetry.logger.setLevel(logging.CRITICAL)
    with ProcessPoolExecutor(arguments.processes) as pool:
        shares = [
            pool.submit(_share, range(first, arguments.count, arguments.processes), arguments.engine)
            for first in range(arguments.processes)
        ]
        results = [result for share in shares for result in share.result()]
    print(table(results))
    complaints = sum(bool(result.complaint) for result in results)
    slow = [result for result in results if result.seconds > MAX_S]
    for result in slow:
        print(f"{result.number} {result.mutation}: took {result.seconds:.0f} s", file=sys.stderr)
    slowest, largest = max(result.seconds for result in results), max(result.peak_bytes for result in results)
    print(f"\n{arguments.count} files, {complaints} complaints; slowest {slowest:.1f} s, peak {largest / 1e6:.0f} MB")
    return 1 if complaints or slow else 0


if __name__ == "__main__":
    sys.exit(main())
