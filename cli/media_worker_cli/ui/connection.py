"""The stack that the page shows. It need not be reachable when the server starts."""

import os
import threading
from typing import Any

from media_worker_cli.stack import Stack, choose_stack


class Connection:
    """Finds the stack when it is needed, and again when the local cloud was started again."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._found: Stack | None = None
        self._cloud: Any = None
        # Reading dead letters hides them for a moment, so two readers at once would each see a part of them.
        self.dead_letters = threading.Lock()

    @property
    def label(self) -> str:
        """What the page calls the stack."""
        return self.name or "local cloud"

    def stack(self) -> Stack:
        """The stack.

        Raises:
            UsageError: there is no such stack, or the local cloud is not running.
        """
        with self._lock:
            cloud = self._running_cloud()
            if self._found is None or cloud != self._cloud:
                self._found, self._cloud = choose_stack(self.name), cloud
            return self._found

    def _running_cloud(self) -> Any:
        if self.name:
            return None
        from media_worker_cli.local import cloud  # noqa: PLC0415 - see the package's docstring

        # None if it was stopped: then `choose_stack` says so.
        running = cloud.find(cloud.state_directory(os.environ))
        if running is None:
            self._found = None
        return running
