"""`media-worker work`: run a command for each segment of a stack.

It needs Python 3.10 and boto3. With rich installed, a terminal shows the progress; anywhere else the log is JSON lines.
"""

import argparse
import json
import logging
import os
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from media_worker.aws import Aws
from media_worker.errors import SettingsError
from media_worker.interruption import Host
from media_worker.segment_command import check_command, run_command
from media_worker.settings import Settings
from media_worker.telemetry import logger
from media_worker.worker import SegmentOptions, Worker, WorkerOptions
from media_worker.worker_segment import Ending

from media_worker_cli.errors import UsageError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_INTERRUPTED = 130
_DRAW_S = 0.25
_JOIN_S = 0.2
_GIB = 1024**3
# SQS hides a message for 12 hours at most.
_MAX_TIMEOUT_S = 11.5 * 3600

_EPILOG = """\
The command runs without a shell. These words are replaced in it, and it finds them in its environment, too, as
MEDIA_WORKER_INPUT and so on:

  {input} {output}            the segment, and the file to write
  {frames} {first_frame}      the frames that the output must have, and the number of the first one in the video
  {context_before} {context_after}
                              context frames that the input has before and after these; the output must not have them
  {fps} {start} {duration}    frames per second if constant (such as 30000/1001), and seconds
  {mode} {attempt}            the job's mode, and the number of this attempt, from 1
  {job} {index}               the job id, and the segment's index

Lines such as `frame=120` or `progress=0.42` that it prints are its progress. The output must have the planned number of
frames, or a whole multiple of it.
"""


def add_parser(subparsers: Any) -> None:
    """Add the command and its options."""
    parser = subparsers.add_parser(
        "work",
        help="run a command for each segment",
        description="Run a command for each segment of a stack, until interrupted.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="media-worker work [options] -- COMMAND...",
    )
    parser.set_defaults(command=run)
    add = parser.add_argument
    add("words", nargs="+", metavar="COMMAND", help="the command and its arguments, after `--`")
    add("--stack", metavar="NAME", help="use this stack on AWS (default: the one that the environment describes)")
    add("--concurrency", type=int, default=1, metavar="N", help="process N segments at once (default: %(default)s)")
    add(
        "--gpus",
        nargs="?",
        const="all",
        metavar="IDS",
        help="process a segment on each GPU, with CUDA_VISIBLE_DEVICES set: all of them, or those listed, such as 0,2",
    )
    add("--once", action="store_true", help="process one segment and exit; the exit code is 1 if that failed")
    add("--idle-exit", type=float, metavar="SECONDS", help="exit if there was no segment for so long")
    add("--timeout", type=float, default=_MAX_TIMEOUT_S, metavar="SECONDS", help="most time for a segment")
    add(
        "--on-failure",
        choices=("fail", "skip", "pass-through"),
        default="fail",
        help="when the last attempt at a segment fails: fail the job at once, leave the segment out so that the others "
        "are finished first, or use the unprocessed segment (default: %(default)s)",
    )
    add("--on-rebalance", choices=("stop", "ignore"), default="stop", help="on a Spot rebalance recommendation")
    add("--visibility", type=int, default=90, metavar="SECONDS", help="a killed worker's segment is free after so long")
    add("--retry-delay", type=int, default=15, metavar="SECONDS", help="wait before the second attempt at a segment")
    add(
        "--expiry-tag",
        metavar="KEY=VALUE",
        help="tag of processed segments; empty sets none (default: EXPIRY_TAG of the environment or the stack, else "
        "kind=processed-segment)",
    )
    add("--directory", type=Path, metavar="DIR", help="for segments and outputs (default: in the temporary directory)")
    add("--cache-gib", type=float, default=10.0, metavar="N", help="room for segments that wait for another attempt")
    add("--name", metavar="NAME", help="the worker's name (default: that of the ECS task, EC2 instance or host)")


def run(arguments: argparse.Namespace) -> int:
    """Run the worker; the exit code says how it ended.

    Raises:
        UsageError: an option cannot be used, or the environment describes no stack.
    """
    logging.disable(logging.NOTSET)  # the log is what an operator reads
    environ = dict(os.environ)
    words = [word for number, word in enumerate(arguments.words) if number or word != "--"]
    try:
        check_command(words, environ)
        worker = Worker(_connect(arguments.stack), Host.of(environ, arguments.on_rebalance), _options(arguments))
        slots = _slots(arguments, environ)
    except (SettingsError, ValueError) as error:
        raise UsageError(str(error)) from error
    with worker.attended(), _display(worker):
        _run_slots([Slot(worker, words, slot, arguments.timeout) for slot in slots])
    if worker.error:
        raise worker.error
    if worker.stop_reason == "SIGINT":
        return _INTERRUPTED
    return int(arguments.once and worker.endings[-1:] == [Ending.FAILED])


@dataclass(frozen=True, slots=True)
class Slot:
    """One of the segments that are processed at the same time."""

    worker: Worker
    words: Sequence[str]
    environ: Mapping[str, str]
    timeout_s: float

    def work(self) -> None:
        """Process segments until the worker stops."""
        try:
            for segment in self.worker.segments():
                with segment:
                    run_command(self.words, segment, self.environ, self.timeout_s)
        except Exception as error:  # noqa: BLE001 - the main thread raises it; without a slot nothing would be processed
            self.worker.stop(f"{type(error).__name__}: {error}", error)


def _run_slots(slots: Sequence[Slot]) -> None:
    """Run the slots in threads. The main thread has to be free for signals."""
    threads = [threading.Thread(target=slot.work, daemon=True) for slot in slots]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            thread.join(_JOIN_S)


def _slots(arguments: argparse.Namespace, environ: Mapping[str, str]) -> list[Mapping[str, str]]:
    """The environment of each slot."""
    if arguments.concurrency < 1:
        raise UsageError("--concurrency must be 1 or more")
    if arguments.gpus is None:
        return [environ] * arguments.concurrency
    gpus = find_gpus(arguments.gpus, environ)
    return [{**environ, "CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus for _ in range(arguments.concurrency)]


def find_gpus(wanted: str, environ: Mapping[str, str]) -> list[str]:
    """The GPUs to use: those listed, those in CUDA_VISIBLE_DEVICES, or all that nvidia-smi lists.

    Raises:
        UsageError: there are none.
    """
    listed = environ.get("CUDA_VISIBLE_DEVICES", "") if wanted == "all" else wanted
    if gpus := [gpu.strip() for gpu in listed.split(",") if gpu.strip()]:
        return gpus
    try:
        command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        found = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(environ)).stdout.split()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UsageError(f"--gpus: nvidia-smi does not list the GPUs: {error}") from error
    if not found:
        raise UsageError("--gpus: nvidia-smi lists no GPU")
    return found


def _connect(stack: str | None) -> Aws:
    if stack is None:
        return Aws.connect(Settings.from_environment(os.environ))
    from media_worker_cli.stack import find_stack  # noqa: PLC0415 - only with --stack

    return find_stack(stack, os.environ).aws


def _expiry_tag(text: str | None) -> tuple[str, str] | Literal["settings"] | None:
    if text is None:
        return "settings"
    key, equals, value = text.partition("=")
    if text and not (key and equals):
        raise UsageError(f"--expiry-tag: expected KEY=VALUE, found {text!r}")
    return (key, value) if key else None


def _options(arguments: argparse.Namespace) -> WorkerOptions:
    if not 0 < arguments.timeout <= _MAX_TIMEOUT_S:
        raise UsageError(f"--timeout: expected 1 to {_MAX_TIMEOUT_S:.0f} seconds, because SQS hides a message for 12 h")
    if not 1 <= arguments.visibility <= 3600:  # noqa: PLR2004
        raise UsageError("--visibility: expected 1 to 3600 seconds")
    segment = SegmentOptions(
        visibility_s=arguments.visibility,
        heartbeat_s=arguments.visibility / 4,
        on_failure=arguments.on_failure,
        expiry_tag=_expiry_tag(arguments.expiry_tag),
        retry_delay_s=arguments.retry_delay,
    )
    directory = {"directory": arguments.directory} if arguments.directory else {}
    return WorkerOptions(
        once=arguments.once,
        idle_exit_s=arguments.idle_exit,
        name=arguments.name,
        cache_bytes=int(arguments.cache_gib * _GIB),
        segment=segment,
        **directory,
    )


# Display --------------------------------------------------------------------------------------------------------------


@contextmanager
def _display(worker: Worker) -> Iterator[None]:
    """Bars on a terminal with rich, JSON lines anywhere else."""
    try:
        from rich.console import Console  # noqa: PLC0415 - optional
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415
    except ImportError:
        yield
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    ended = threading.Event()
    with Progress(*columns, console=console, transient=True) as bars:
        before = logger.registered_handler.setStream(_Prose(bars))  # type: ignore[attr-defined]
        drawer = threading.Thread(target=_draw, args=(worker, bars, ended), daemon=True)
        drawer.start()
        try:
            yield
        finally:
            ended.set()
            drawer.join()
            logger.registered_handler.setStream(before)  # type: ignore[attr-defined]


def _draw(worker: Worker, bars: "Progress", ended: threading.Event) -> None:
    """Show a bar for each segment that is being processed."""
    tasks: dict[int, TaskID] = {}
    while not ended.wait(_DRAW_S):
        active = {id(segment): segment for segment in worker.active}
        for gone in tasks.keys() - active.keys():
            bars.remove_task(tasks.pop(gone))
        for key, segment in active.items():
            if key not in tasks:
                tasks[key] = bars.add_task(f"{segment.job_id} segment {segment.index} of {segment.total}", total=1)
            bars.update(tasks[key], completed=segment.progress or 0)


class _Prose:
    """Takes the log's JSON lines and prints them above the bars, for a person."""

    def __init__(self, bars: "Progress") -> None:
        self._bars = bars

    def write(self, text: str) -> None:
        """Print a line."""
        for line in text.splitlines():
            entry = json.loads(line)
            where = f"{entry['job_id']} segment {entry['segment_index']}: " if "segment_index" in entry else ""
            reason = f": {entry['reason']}" if "reason" in entry else ""
            self._bars.console.print(f"{where}{entry['message']}{reason}", highlight=False, markup=False)

    def flush(self) -> None:
        """Nothing is held."""
