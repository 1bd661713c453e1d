"""AWS calls that may fail without harm: cleaning up, back-off, reading a queue's attributes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from botocore.exceptions import BotoCoreError, ClientError

from media_worker.telemetry import logger

# Answers that mean a missing right. It is missing on every call, so it is logged once in the life of a process.
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "403"})
_logged: set[str] = set()


@dataclass(slots=True)
class Outcome:
    """How the body ended: the code of its AWS error, or None."""

    code: str | None = None

    @property
    def is_denied(self) -> bool:
        """Whether a right is missing."""
        return self.code in _DENIED


@contextmanager
def best_effort(message: str, event: str, **fields: str) -> Iterator[Outcome]:
    """Log an AWS error of the body as a warning, and go on after the body."""
    outcome = Outcome()
    try:
        yield outcome
    except (BotoCoreError, ClientError) as error:
        outcome.code = error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
        if not (outcome.is_denied and event in _logged):
            logger.warning(message, event=event, reason=str(error), **fields)  # type: ignore[arg-type]
        if outcome.is_denied:
            _logged.add(event)
