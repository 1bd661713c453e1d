"""Stopping a worker: on a signal, on a notice of its host, or because its work is not wanted any more."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from media_worker.interruption import Host
from media_worker.telemetry import logger

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Interrupts the main thread and means nothing else: by default it is ignored.
_INTERRUPT = signal.SIGURG
# AWS recommends to look for notices every 5 seconds.
NOTICE_POLL_S = 5.0
_PAUSE_STEP_S = 0.1


class Halted(BaseException):
    """The processing of a segment ends now. Not an `Exception`: an `except Exception` in its body lets it pass."""


class Stopping:
    """Whether and why a worker stops. The main thread is interrupted if it is in the body of a segment."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.error: Exception | None = None
        # The check of the segment whose body the main thread runs: raises Halted if it has to end.
        self._check: Callable[[], None] | None = None
        self._handles_signals = False

    def stop(self, reason: str, error: Exception | None = None) -> None:
        """Start no more segments, and end those that are in work. `error` is what makes the worker useless."""
        if self.reason is None:
            self.reason, self.error = reason, error
            logger.info("Stopping", event="worker_stopping", reason=reason)
        self.interrupt()

    def interrupt(self) -> None:
        """Have the main thread check its segment, even in the middle of a system call."""
        main = threading.main_thread().ident
        if self._check and self._handles_signals and main is not None:
            signal.pthread_kill(main, _INTERRUPT)

    def pause(self, seconds: float) -> None:
        """Wait, but not longer than until the worker stops. Without a lock, which a signal handler could wait for."""
        ends_at = time.monotonic() + seconds
        while self.reason is None and (left_s := ends_at - time.monotonic()) > 0:
            time.sleep(min(left_s, _PAUSE_STEP_S))

    def enter_body(self, check: Callable[[], None]) -> None:
        """The body of a segment begins. If this is the main thread, the body can be interrupted."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._check = check
        if self.reason is not None:  # not here, but in the body: an error of `__enter__` would end the caller's loop
            threading.Timer(_PAUSE_STEP_S, self.interrupt).start()

    def leave_body(self) -> None:
        """The body of a segment has ended."""
        if threading.current_thread() is threading.main_thread():
            self._check = None

    @contextmanager
    def attended(self, host: Host, poll_s: float = NOTICE_POLL_S) -> Iterator[None]:
        """Stop on SIGTERM, on SIGINT, and on a notice of the host. For the main thread."""
        before = {number: signal.signal(number, self._handle) for number in (*_STOP_SIGNALS, _INTERRUPT)}
        self._handles_signals = True
        ended = threading.Event()
        watcher = threading.Thread(target=self._watch, args=(host, poll_s, ended), name="notices", daemon=True)
        if host.announces:
            watcher.start()
        try:
            yield
        finally:
            ended.set()
            self._handles_signals = False
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number != _INTERRUPT and self.reason is None:
            # Not `stop`: that logs, and this handler may have interrupted the logger while it holds its lock.
            self.reason = signal.Signals(number).name
        if self._check:
            self._check()

    def _watch(self, host: Host, poll_s: float, ended: threading.Event) -> None:
        while not ended.wait(poll_s):
            if notice := host.notice():
                self.stop(notice)
                return
