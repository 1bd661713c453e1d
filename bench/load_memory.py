"""Peak memory of the local cloud, its functions and the workers, from /proc."""

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

_SAMPLE_S = 0.5


@dataclass(slots=True)
class Memory:
    """The largest resident set of a process, for each kind of process."""

    cloud_pid: int
    workers: Collection[int]
    peaks_mb: dict[str, float] = field(default_factory=dict)
    _end: threading.Event = field(default_factory=threading.Event)

    @classmethod
    @contextmanager
    def watching(cls, cloud_pid: int, workers: Collection[int]) -> Iterator[Self]:
        """Look at the processes twice per second while the body runs. `workers` may change meanwhile."""
        memory = cls(cloud_pid, workers)
        sampler = threading.Thread(target=memory._sample_until_end, daemon=True)
        sampler.start()
        try:
            yield memory
        finally:
            memory._end.set()
            sampler.join()

    def _sample_until_end(self) -> None:
        while not self._end.wait(_SAMPLE_S):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    self._sample(process)
                except OSError:  # it has ended meanwhile
                    continue

    def _sample(self, process: Path) -> None:
        if kind := self._kind(process):
            status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
            if "VmHWM" in status:  # not in a process that has ended
                peak_mb = int(status["VmHWM"].split()[0]) / 1024
                self.peaks_mb[kind] = max(peak_mb, self.peaks_mb.get(kind, 0))

    def _kind(self, process: Path) -> str | None:
        if int(process.name) == self.cloud_pid:
            return "local cloud"
        if int(process.name) in self.workers:
            return "worker"
        parent, group = (process / "stat").read_text().rpartition(")")[2].split()[1:3]
        if int(parent) == self.cloud_pid and int(group) == self.cloud_pid:
            return "function"
        return None
