"""Time and memory of planning ten hours at 30 fps with audio, 1.08 million frames: `make bench-plan`.

Reads the index, plans segments of 300 s and lays out each of them, in a process of its own, for a source with a chunk
every second and for one with a chunk for each frame. The index is made by the tests' own writer; no media is needed.
"""

# ruff: noqa: T201 - a benchmark prints

import json
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

from media_worker.mp4 import lay_out, plan_split, read_movie

from bench.meter import peak_rss_mb

_SECONDS, _FPS = 36_000, 30


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


def main() -> None:
    """Print a line for each kind of source."""
    from tests.unit.mp4.movies import long_movie  # noqa: PLC0415  # the measured process does not need it

    print(f"{'source':30} {'plan':>7} {'lay out':>8} {'peak RSS':>9}")
    for label, frames_per_chunk in (("a chunk every second", _FPS), ("a chunk for each frame", 1)):
        header, size_bytes = long_movie(_SECONDS, _FPS, frames_per_chunk)
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(header)
            argv = [sys.executable, "-m", "bench.plan", file.name, str(size_bytes)]
            found = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
        print(f"{label:30} {found['plan_s']:5.2f} s {found['lay_out_s']:6.2f} s {found['peak_rss_mb']:6.0f} MB")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
    else:
        main()
