"""A heartbeat: something that is repeated in a thread while work goes on."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


class Heartbeat:
    """Calls `beat` every `interval_s` seconds while the body of the `with` statement runs.

        with Heartbeat(30, lease.renew):
            work()

    `beat` says whether to go on: after False it is not called again. It handles its own errors; an exception ends the
    heartbeat and goes to `threading.excepthook`. When the body has ended, no call is running and none follows.
    """

    def __init__(self, interval_s: float, beat: Callable[[], bool]) -> None:
        self._interval_s = interval_s
        self._beat = beat
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":  # noqa: PYI034  # Self needs Python 3.11
        self._thread.start()
        return self

    def __exit__(
        self, kind: "type[BaseException] | None", error: "BaseException | None", trace: "TracebackType | None"
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s) and self._beat():
            pass
