"""How much time an invocation has left. A Lambda timeout answers nothing, so no step begins that cannot end."""

from dataclasses import dataclass
from typing import Protocol

from media_worker.errors import NotEnoughTime

# What is kept back to answer: to kill ffmpeg, abort an upload, write the job's row, return the batch response.
RESERVE_S = 15.0
# A record is not begun with less than this.
LEAST_FOR_A_RECORD_S = 60.0


class Context(Protocol):
    """The part of Lambda's context object that we use."""

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the invocation is stopped."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """The end of an invocation, with the reserve taken off."""

    context: Context

    def remaining_s(self) -> float:
        """Seconds that work may still take; never negative."""
        return max(0.0, self.context.get_remaining_time_in_millis() / 1000 - RESERVE_S)

    def require(self, seconds: float, step: str) -> None:
        """Stop before a step that would not end in time.

        Raises:
            NotEnoughTime: names the step.
        """
        if (remaining := self.remaining_s()) < seconds:
            raise NotEnoughTime(f"{remaining:.0f} s are left, {seconds:.0f} s are needed to {step}")
