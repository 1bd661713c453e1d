"""The memory and the disk space of a run in the local cloud: `make bench-local-memory`.

The cloud is one that this program starts. The memory is the resident set size of all processes of the cloud, of
`media-worker run` and of their children. The disk space is that of the cloud's state, the run's temporary files and
the final. Both are sampled while `media-worker run` works.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from media_worker_cli.local import cloud as clouds

from bench.memory import make_source

_SAMPLE_S = 0.2
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_BLOCK_BYTES = 512


@dataclass(frozen=True, slots=True)
class Peak:
    """The largest memory and disk space while a command ran."""

    seconds: float
    memory_bytes: int
    disk_bytes: int


def group_rss_bytes(group: int) -> int:
    """The resident set size of all processes of a process group, in bytes."""
    return sum(_rss_bytes(path, group) for path in Path("/proc").glob("[0-9]*"))


def _rss_bytes(process: Path, group: int) -> int:
    try:
        words = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0
    return int(words[21]) * _PAGE_BYTES if int(words[2]) == group else 0


def folder_bytes(folder: Path) -> int:
    """The disk space of all files below a folder. A file with several links counts once."""
    return sum(dict(_inodes(folder)).values())


def _inodes(folder: Path) -> Iterator[tuple[int, int]]:
    for directory, _, names in folder.walk():
        for name in names:
            with suppress(OSError):  # it has been deleted
                status = (directory / name).lstat()
                yield status.st_ino, status.st_blocks * _BLOCK_BYTES


def peak_while_running(cloud: int, folder: Path, command: list[str]) -> Peak:
    """Run a command with its temporary files in a folder. `cloud` is the process group of the cloud."""
    memory_bytes = disk_bytes = 0
    started = time.monotonic()
    environment = os.environ | {"TMPDIR": str(folder)}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment, start_new_session=True) as process:
        while process.poll() is None:
            memory_bytes = max(memory_bytes, group_rss_bytes(cloud) + group_rss_bytes(process.pid))
            disk_bytes = max(disk_bytes, folder_bytes(folder))
            time.sleep(_SAMPLE_S)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} exited with {process.returncode}")
    return Peak(time.monotonic() - started, memory_bytes, disk_bytes)


def measure(source: Path, state: Path, engine: str) -> str:
    """Run a source in a new cloud. Returns the figures as a line."""
    os.environ["MEDIA_WORKER_STATE_DIR"] = str(state)
    work = state.parent
    try:
        cloud = clouds.bring_up(state.resolve(), dict(os.environ), print)
        idle_bytes, before_bytes = group_rss_bytes(cloud.pid), folder_bytes(work)
        command = [str(Path(sys.executable).with_name("media-worker")), "run", str(source)]
        command += ["--out", str(work / "final.mp4"), "--engine", engine]
        peak = peak_while_running(cloud.pid, work, command)
    finally:
        clouds.stop(state.resolve())
    size_bytes = source.stat().st_size
    memory_bytes, disk_bytes = peak.memory_bytes - idle_bytes, peak.disk_bytes - before_bytes
    return (
        f"source {size_bytes / 1e6:,.0f} MB, engine {engine}, {peak.seconds:,.0f} s: "
        f"memory idle {idle_bytes / 1e6:,.0f} MB, peak {peak.memory_bytes / 1e6:,.0f} MB, "
        f"{memory_bytes / size_bytes:.2f} bytes per source byte; "
        f"disk {disk_bytes / 1e6:,.0f} MB, {disk_bytes / size_bytes:.2f} bytes per source byte"
    )


def main() -> int:
    """Print the figures for each size, in a cloud started for it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes-mb", type=int, nargs="+", default=[200, 600])
    parser.add_argument("--engines", nargs="+", default=["copy", "ffmpeg"], choices=("auto", "copy", "ffmpeg"))
    parser.add_argument("--source", type=Path, help="a video to use instead of generated ones")
    arguments = parser.parse_args()
    for size_mb in [0] if arguments.source else arguments.sizes_mb:
        for engine in arguments.engines:
            with tempfile.TemporaryDirectory(prefix="media-worker-bench-") as name:
                work = Path(name, "work")
                work.mkdir()
                source = arguments.source or Path(name, "source.mp4")
                if not arguments.source:
                    make_source(source, size_mb * 1_000_000)
                print(measure(source, work / "state", engine), flush=True)  # noqa: T201 - a program that prints
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
