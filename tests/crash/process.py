"""One invocation as a forked process: it starts in milliseconds and can be killed as a Lambda is."""

import json
import os
import signal
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from media_worker.aws import Aws

from tests.crash.clock import Clock
from tests.crash.faults import Call

WORK_S = 900


@dataclass(frozen=True, slots=True)
class Delivery:
    """How one process ended."""

    died: bool
    failures: tuple[int, ...]
    hidden_s: Mapping[str, int]
    calls: tuple[Call, ...]
    fired: bool
    error: str
    ahead_s: float
    worked: tuple[str, ...] = ()
    # Segments for which a worker's command ran, and whether the processed segment was there already.
    ran: tuple[tuple[str, bool], ...] = ()


@dataclass
class InvocationContext:
    """Lambda's context object on the test's clock."""

    clock: Clock
    function_name: str = "test"
    memory_limit_in_mb: int = 2048
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:test"
    aws_request_id: str = "request"
    work_s: float = WORK_S
    end: float = 0

    def __post_init__(self) -> None:
        self.end = self.clock.monotonic() + self.work_s

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self.end - self.clock.monotonic()) * 1000))


class Report:
    """What a delivery reports to the harness, written at once, because a killed process reports nothing later."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.failures: list[int] = []
        self.calls: list[Call] = []

    def send(self, **what: Any) -> None:
        os.write(self._descriptor, json.dumps(what).encode() + b"\n")

    def fire(self) -> None:
        self.send(fired=True)

    def watch_visibility(self, aws: Aws) -> None:
        def changed(parsed: Any, http_response: Any, **_: Any) -> None:
            # moto does not know the receipts of messages that the harness made.
            is_ours = "ReceiptHandleIsInvalid" in str(parsed.get("Error", {}).get("Code", ""))
            if http_response.status_code == 200 or is_ours:
                self.send(hidden=[asked["ReceiptHandle"], asked["VisibilityTimeout"]])

        asked: dict[str, Any] = {}
        events = aws.sqs.meta.events
        events.register_first(
            "provide-client-params.sqs.ChangeMessageVisibility", lambda params, **_: asked.update(params)
        )
        events.register_last("after-call.sqs.ChangeMessageVisibility", changed)


@dataclass
class Child:
    """A running delivery."""

    pid: int
    pipe: IO[str]
    clock: Clock
    received: list[Any] = field(default_factory=list)

    def wait_until_held(self) -> None:
        """Wait until the fault "held" has stopped the process."""
        while not any("fired" in line for line in self.received):
            self.received.append(json.loads(self.pipe.readline()))

    def wait_until_stopped(self) -> None:
        """Wait until the fault "stopped" has stopped the process."""
        assert os.WIFSTOPPED(os.waitpid(self.pid, os.WUNTRACED)[1])

    def resume(self) -> Delivery:
        os.kill(self.pid, signal.SIGCONT)
        return self.finish()

    def kill(self) -> Delivery:
        os.kill(self.pid, signal.SIGKILL)
        return self.finish()

    def finish(self) -> Delivery:
        with self.pipe:
            self.received += [json.loads(line) for line in self.pipe]
        _, status = os.waitpid(self.pid, 0)
        received, last = self.received, next((line for line in reversed(self.received) if "calls" in line), None)
        return Delivery(
            died=os.WIFSIGNALED(status),
            failures=tuple(last["failures"]) if last else (),
            hidden_s=dict(line["hidden"] for line in received if "hidden" in line),
            calls=tuple(Call(*call) for call in last["calls"]) if last else (),
            fired=any("fired" in line for line in received),
            error=next((line["error"] for line in received if "error" in line), ""),
            ahead_s=last["ahead_s"] if last else self.clock.ahead_s,
            worked=tuple(line["worked"] for line in received if "worked" in line),
            ran=tuple((key, is_there) for line in received if "ran" in line for key, is_there in [line["ran"]]),
        )


def fork(body: Callable[[Report], None], clock: Clock) -> Child:
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # The child process uses no locks or threads of its parent.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _run_child(body, clock, writing)
    os.close(writing)
    return Child(pid, os.fdopen(reading), clock)


def _run_child(body: Callable[[Report], None], clock: Clock, writing: int) -> None:
    """Run the delivery and exit. Never returns."""
    report = Report(writing)
    try:
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 1)
        if not os.environ.get("CRASH_DEBUG"):
            os.dup2(null, 2)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with clock.patches():
            body(report)
    except BaseException:  # noqa: BLE001  # a worker's own error; handlers raise none
        report.send(error=traceback.format_exc())
        report.failures = [0]
    calls = [[call.operation, call.number] for call in report.calls]
    report.send(failures=report.failures, calls=calls, ahead_s=clock.ahead_s)
    os._exit(0)


def processes_in(directory: Path) -> Iterator[tuple[int, str]]:
    """Live processes whose working directory is below a directory, which may have been removed."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            cwd = str((path / "cwd").readlink())
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if cwd.startswith(str(directory)):
            yield int(path.name), command
