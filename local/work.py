"""The segment workers of one run: as many at once as there are cores, each the example worker's loop."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from media_worker.keys import SegmentKey

from examples.segment_worker import work_on_next
from local.command import Commands
from local.routing import own_queue, pass_on
from local.stack import Stack

_POLL_S = 1


@dataclass(frozen=True, slots=True)
class Processing:
    """What is done with a segment: the user's command, or a plain copy; and where its files are kept for a look."""

    words: tuple[str, ...] | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    keep: Path | None = None
    workers: int = field(default_factory=lambda: os.process_cpu_count() or 1)


@dataclass(slots=True)
class Crew:
    """Threads that work on one job's segments. The first failure ends the work of all."""

    stop: threading.Event = field(default_factory=threading.Event)
    failure: Exception | None = None

    def raise_failure(self) -> None:
        """Raise what ended the work, if something did."""
        if self.failure:
            raise self.failure

    def loop(self, work: Callable[[], Any]) -> None:
        """Work again and again, until told to stop."""
        try:
            while not self.stop.is_set():
                work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the main thread raises it
            # What fails after the end was decided only fails because of it.
            if not self.stop.is_set():
                self.failure = error
            self.stop.set()


@contextmanager
def crew_at_work(stack: Stack, job_id: str, processing: Processing) -> Iterator[Crew]:
    """Have a job's segments processed while the block runs. Whatever still runs at its end is killed."""
    commands = Commands(processing.words, processing.environ) if processing.words else None
    crew = Crew()

    def process(segment: SegmentKey, source: Path, processed: Path) -> None:
        if commands:
            commands.run(segment.segment_index, source, processed)
        else:
            shutil.copyfile(source, processed)
        if processing.keep:
            _keep(processing.keep, segment.segment_index, source, processed)

    with ExitStack() as cleanup:
        queue_url = cleanup.enter_context(own_queue(stack.aws, job_id))
        loops: list[Callable[[], Any]] = [lambda: pass_on(stack.aws, stack.segment_queue_url, crew.stop)]
        loops += [lambda: work_on_next(stack.aws, queue_url, process, _POLL_S)] * processing.workers
        threads = [threading.Thread(target=crew.loop, args=(work,), daemon=True) for work in loops]
        for thread in threads:
            thread.start()
            cleanup.callback(thread.join)
        # Callbacks run in reverse: stop first, then kill, then wait for the threads, then remove the queue.
        if commands:
            cleanup.callback(commands.end)
        cleanup.callback(crew.stop.set)
        yield crew


def _keep(directory: Path, index: int, source: Path, processed: Path) -> None:
    for name, path in (("segments", source), ("processed", processed)):
        (directory / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, directory / name / f"{index:05d}.mp4")
