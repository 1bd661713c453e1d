"""The faults that can be injected into one AWS call, inside the process that makes the call."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal, cast

from botocore.awsrequest import AWSResponse, HeadersDict
from botocore.exceptions import ConnectionClosedError, ReadTimeoutError

type Kind = Literal[
    "killed before",  # the process dies, the call was never made
    "killed after",  # the call took effect, the process died before the answer
    "throttled",
    "internal error",
    "slow down",
    "timeout before",  # no answer, and it had no effect
    "timeout after",  # no answer, but it took effect
    "connection reset",
    "error in a 200",  # CompleteMultipartUpload only
    "412",
    "409",
    "held",  # blocks until it is killed
    "stopped",  # the whole process is stopped (SIGSTOP) until it is resumed: World sets the action
    "hit and lost",  # took effect, the answer of the first attempt was lost, the SDK repeats the call
]
EVERYWHERE: tuple[Kind, ...] = (
    *("killed before", "killed after", "throttled", "internal error", "slow down"),
    *("timeout before", "timeout after", "connection reset", "hit and lost"),
)
KILLS: tuple[Kind, ...] = ("killed before", "killed after")
# Injected into one attempt of the call; all others into every attempt that the SDK makes.
_ONE_ATTEMPT: frozenset[Kind] = frozenset({"hit and lost", "412", "409", "stopped"})
_TABLES = ("Jobs", "SegmentCompletions", "SegmentAttempts", "ReassemblyTriggered")


@dataclass(frozen=True, slots=True, order=True)
class Call:
    """One call of an invocation: the n-th call of its operation."""

    operation: str
    number: int

    def __str__(self) -> str:
        return f"{self.operation}#{self.number}"


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to which call."""

    call: Call
    kind: Kind

    def __str__(self) -> str:
        return f"{self.kind} {self.call}"


def kinds_for(call: Call) -> tuple[Kind, ...]:
    """Every kind of fault that is possible for this call."""
    operation = call.operation
    if operation == "CompleteMultipartUpload":
        return (*EVERYWHERE, "error in a 200", "412", "409")
    if operation == "UploadPartCopy":
        return (*EVERYWHERE, "error in a 200", "412")
    return (*EVERYWHERE, "412", "409") if operation == "PutObject" else EVERYWHERE


class Injector:
    """Counts the calls of the clients that it watches, and injects the fault into one of them."""

    def __init__(self, fault: Fault | None, on_fire: Callable[[], None]) -> None:
        self._fault = fault
        self._on_fire = on_fire
        self._lock = threading.Lock()
        self._numbers: Counter[str] = Counter()
        self._thread = threading.local()
        self._attempts = 0
        self.calls: list[Call] = []
        self.act: Callable[[Any, Any], Any] | None = None

    def watch(self, *clients: Any) -> None:
        for client in clients:
            session = client._endpoint.http_session
            events = client.meta.events
            events.register_first("before-call.*.*", self._begin)
            events.register_first("before-send.*.*", lambda request, session=session, **_: self._send(request, session))

    def _begin(self, model: Any, params: dict[str, Any], **_: Any) -> None:
        name = model.name
        if model.service_model.service_name == "dynamodb":
            body = bytes(params["body"])
            name += "".join(f" {table}" for table in _TABLES if f'"{table}"'.encode() in body)
        with self._lock:
            self._numbers[name] += 1
            self._thread.call = Call(name, self._numbers[name])
            self.calls.append(self._thread.call)

    def _send(self, request: Any, session: Any) -> AWSResponse | None:
        fault = self._fault
        if fault is None or getattr(self._thread, "call", None) != fault.call:
            return None
        self._attempts += 1
        if fault.kind in _ONE_ATTEMPT and self._attempts > 1:
            return None
        self._on_fire()
        if self.act:
            return self.act(request, session)  # type: ignore[no-any-return]
        return _ACTIONS[fault.kind](request, session)


def _kill(request: Any, session: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def _hold(request: Any, session: Any) -> None:
    threading.Event().wait()


def _send_and_kill(request: Any, session: Any) -> None:
    session.send(request)
    _kill(request, session)


def _time_out(request: Any, session: Any) -> None:
    raise ReadTimeoutError(endpoint_url=request.url)


def _send_and_time_out(request: Any, session: Any) -> None:
    session.send(request)
    raise ReadTimeoutError(endpoint_url=request.url)


def _reset(request: Any, session: Any) -> None:
    raise ConnectionClosedError(endpoint_url=request.url)


class _Raw(BytesIO):
    def stream(self, **_: Any) -> list[bytes]:
        return [self.read()]


def _answering(status: int, code: str) -> Callable[[Any, Any], AWSResponse]:
    def answer(request: Any, session: Any) -> AWSResponse:
        json_body = f'{{"__type": "com.amazonaws#{code}", "message": "injected"}}'
        xml = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>"
        is_json = b"X-Amz-Target" in request.headers or "X-Amz-Target" in request.headers
        headers = HeadersDict({"x-amzn-RequestId": "injected"})
        body = b"" if request.method == "HEAD" else (json_body if is_json else xml).encode()
        return AWSResponse(request.url, status, cast("Any", headers), _Raw(body))

    return answer


_ACTIONS: dict[Kind, Callable[[Any, Any], AWSResponse | None]] = {
    "killed before": _kill,
    "killed after": _send_and_kill,
    "held": _hold,
    "throttled": _answering(400, "ThrottlingException"),
    "internal error": _answering(500, "InternalError"),
    "slow down": _answering(503, "SlowDown"),
    "timeout before": _time_out,
    "timeout after": _send_and_time_out,
    "hit and lost": _send_and_time_out,
    "connection reset": _reset,
    "error in a 200": _answering(200, "InternalError"),
    "412": _answering(412, "PreconditionFailed"),
    "409": _answering(409, "ConditionalRequestConflict"),
}
