"""How much time an invocation has left, and whether it may go on.

A timeout cannot be caught, so do not start what cannot finish.
"""

from dataclasses import dataclass
from typing import Protocol

from media_worker.errors import NotEnoughTime

# Kept back for the end: to kill ffmpeg, abort an upload, write the job's row, return the batch response.
RESERVE_S = 15.0
# A record is not begun with less than this.
MIN_FOR_A_RECORD_S = 60.0


class Context(Protocol):
    """The part of Lambda's context object that we use."""

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the invocation is stopped."""


class Hold(Protocol):
    """The lease under which the work is done."""

    def require(self) -> None:
        """Raise LeaseLost unless the lease is still held."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """The end of an invocation, less the reserve, and the lease that its work needs."""

    context: Context
    hold: Hold | None = None

    def remaining_s(self) -> float:
        """Seconds that work may still take; never negative."""
        return max(0.0, self.context.get_remaining_time_in_millis() / 1000 - RESERVE_S)

    def require(self, seconds: float, step: str) -> None:
        """Stop before a step that would not finish in time, or that another invocation may be doing.

        Raises:
            NotEnoughTime: names the step.
            LeaseLost: the lease is not held any more.
        """
        if self.hold:
            self.hold.require()
        if (remaining := self.remaining_s()) < seconds:
            raise NotEnoughTime(f"{remaining:.0f} s are left, {seconds:.0f} s are needed to {step}")
