"""The memory of the local cloud for each byte of a source: `make bench-local-memory`.

The cloud is one that this program starts. Its memory is the resident set size of its whole process group, so the
functions count, sampled while `media-worker run` works.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from media_worker_cli.local import cloud as clouds

from bench.memory import make_source

_SAMPLE_S = 0.2
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def group_rss_bytes(group: int) -> int:
    """The resident set size of all processes of a process group, in bytes."""
    return sum(_rss_bytes(path, group) for path in Path("/proc").glob("[0-9]*"))


def _rss_bytes(process: Path, group: int) -> int:
    try:
        words = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0
    return int(words[21]) * _PAGE_BYTES if int(words[2]) == group else 0


def peak_while_running(group: int, command: list[str]) -> int:
    """Run a command. Returns the largest size of the process group meanwhile, in bytes."""
    peak, ended = 0, threading.Event()

    def sample() -> None:
        nonlocal peak
        while not ended.is_set():
            peak = max(peak, group_rss_bytes(group))
            time.sleep(_SAMPLE_S)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    finally:
        ended.set()
        sampler.join()
    return peak


def main() -> int:
    """Print the memory for each size, in a cloud started for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes-mb", type=int, nargs="+", default=[200, 800])
    parser.add_argument("--engine", default="auto", choices=("auto", "copy", "ffmpeg"))
    arguments = parser.parse_args()
    command = str(Path(sys.executable).with_name("media-worker"))
    for size_mb in arguments.sizes_mb:
        with tempfile.TemporaryDirectory(prefix="media-worker-bench-") as folder:
            source, state = Path(folder) / "source.mp4", Path(folder) / "state"
            make_source(source, size_mb * 1_000_000)
            os.environ["MEDIA_WORKER_STATE_DIR"] = str(state)
            try:
                cloud = clouds.bring_up(state.resolve(), dict(os.environ), print)
                idle = group_rss_bytes(cloud.pid)
                run = [command, "run", str(source), "--out", f"{folder}/final.mp4", "--engine", arguments.engine]
                peak = peak_while_running(cloud.pid, run)
            finally:
                clouds.stop(state.resolve())
            size_bytes = source.stat().st_size
            print(  # noqa: T201 - a program that prints
                f"source {size_bytes / 1e6:,.0f} MB, idle {idle / 1e6:,.0f} MB, peak {peak / 1e6:,.0f} MB, "
                f"{(peak - idle) / size_bytes:.2f} bytes per source byte"
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
