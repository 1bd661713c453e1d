"""Time and memory of planning: `make bench-plan`. The indexes are made by the tests' own writer; no media is needed.

- Ten hours at 30 fps with audio, 1.08 million frames: reads the index, plans segments of 300 s and lays out each of
  them, in a process of its own, for a source with a chunk every second and for one with a chunk for each frame.
- 4,800 fragments without an index of them: reads and plans them, with 20 ms for each request.
"""

# ruff: noqa: T201 - a benchmark prints

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

from media_worker.mp4 import lay_out, plan_split, read_movie
from media_worker.mp4.boxes import read_box_header

from bench.meter import peak_rss_mb

_SECONDS, _FPS = 36_000, 30
_FRAGMENTS, _FRAGMENT_BYTES = 4800, 256 << 10
_REQUEST_S, _REQUESTS_AT_ONCE = 0.02, 32


def measure(header: Path, size_bytes: int) -> dict[str, float]:
    """Seconds and the peak memory of this process."""
    with header.open("rb") as file:

        def read(offset: int, length: int) -> bytes:
            file.seek(offset)
            return file.read(length)

        began = time.process_time()
        movie = read_movie(read, size_bytes)
        plan = plan_split(movie, Fraction(300))
        planned = time.process_time()
        for index in range(plan.total_segments):
            lay_out(movie, plan, index)
        laid_out = time.process_time()
    return {"plan_s": planned - began, "lay_out_s": laid_out - planned, "peak_rss_mb": peak_rss_mb()}


def write_fragments(file: BinaryIO) -> None:
    """Write the fragmented file. It takes little space on disk: most of each fragment is a hole."""
    from tests.unit.mp4.fragmented_movies import make_fragmented  # noqa: PLC0415  # the measured process does not need it
    from tests.unit.mp4.movies import TrackSpec  # noqa: PLC0415

    small = make_fragmented([TrackSpec([1000] * _FRAGMENTS)], _FRAGMENTS)
    offset = 0
    while (header := read_box_header(small, offset)) is not None:
        end = offset + (header.size_bytes or 0)
        file.write(small[offset:end])
        if header.kind == b"mdat":
            file.write(_FRAGMENT_BYTES.to_bytes(4, "big") + b"free")
            file.seek(_FRAGMENT_BYTES - 8, os.SEEK_CUR)
        offset = end
    file.truncate()


def measure_fragments(file: BinaryIO) -> tuple[float, int]:
    """Seconds and requests to read and plan the file, with as many requests at once as `media_worker.s3` sends."""
    requests = 0

    def read(offset: int, length: int) -> bytes:
        nonlocal requests
        requests += 1
        time.sleep(_REQUEST_S)
        return os.pread(file.fileno(), length, offset)

    with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as pool:
        began = time.monotonic()
        size_bytes = os.fstat(file.fileno()).st_size
        movie = read_movie(read, size_bytes, lambda ranges: list(pool.map(lambda each: read(*each), ranges)))
        plan = plan_split(movie, Fraction(300))
        assert plan.total_segments == _FRAGMENTS // 300
        return time.monotonic() - began, requests


def main() -> None:
    """Print a line for each kind of source."""
    from tests.unit.mp4.movies import long_movie  # noqa: PLC0415

    print(f"{'source':30} {'plan':>7} {'lay out':>8} {'peak RSS':>9}")
    for label, frames_per_chunk in (("a chunk every second", _FPS), ("a chunk for each frame", 1)):
        header, size_bytes = long_movie(_SECONDS, _FPS, frames_per_chunk)
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(header)
            argv = [sys.executable, "-m", "bench.plan", file.name, str(size_bytes)]
            found = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
        print(f"{label:30} {found['plan_s']:5.2f} s {found['lay_out_s']:6.2f} s {found['peak_rss_mb']:6.0f} MB")
    with tempfile.TemporaryFile() as fragments:
        write_fragments(fragments)
        plan_s, requests = measure_fragments(fragments)
    print(f"{f'{_FRAGMENTS:,} fragments':30} {plan_s:5.2f} s, {requests:,} requests of {_REQUEST_S * 1000:.0f} ms")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
    else:
        main()
