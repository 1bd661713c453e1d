"""Everything that can go wrong, in one tree. What a handler does with an error depends on its class alone.

MediaWorkerError
├── SettingsError             the environment is wrong: stops at start
├── MessageError              the message cannot be understood: ends in the dead-letter queue
├── NothingToDo               the message asks for nothing (any more): acknowledged
│   └── JobMoved              the job left the status that this step needs (deleted, completed, ...)
├── PermanentError            doing it again would give the same: the job becomes `failed`
│   ├── BadSource             the source is not a video that can be cut
│   ├── BadSegment            a processed segment does not fit the others
│   ├── BadFinal              the final does not hold what was planned
│   ├── NoRoom                the media is larger than /tmp
│   └── FfmpegFailed          ffmpeg gave up on its input
└── RetryableError            the message comes back later
    ├── LeaseHeld             somebody else works on this job right now
    ├── GivenUp               the message has used up its tries: it goes to the dead-letter queue
    ├── ReceivesUsedUp        the message has used up its receives by waiting: it needs a fresh one
    ├── NotEnoughTime         the invocation would end before the work does
    ├── SourceChanged         the source was replaced while it was being read
    ├── NotReady              completions are missing
    ├── TransferFailed        S3 did not take or give the bytes
    └── FfmpegStopped         ffmpeg was killed, hung, or had no room
"""

import re
from collections.abc import Sequence


class MediaWorkerError(Exception):
    """Base of all errors of this package."""


class SettingsError(MediaWorkerError):
    """An environment variable is missing or bad; the message names each."""


class MessageError(MediaWorkerError):
    """The body of an SQS message is neither what the queue carries nor a test event."""


class NothingToDo(MediaWorkerError):
    """The message is fine and asks for nothing: the job is unknown, deleted or further on."""


class JobMoved(NothingToDo):
    """A conditional write found the job in a status from which the step is not allowed."""


class PermanentError(MediaWorkerError):
    """Trying again would end the same way; the text becomes the job's `error`, for a person to read."""


class BadSource(PermanentError):
    """The source is not a video that can be cut into MP4 segments."""


class BadSegment(PermanentError):
    """A processed segment is not what the others are; the message names it and the difference."""


class BadFinal(PermanentError):
    """The final was written, and what is read back is not what was planned."""


class NoRoom(PermanentError):
    """The media does not fit into the work directory's file system."""


class FfmpegFailed(PermanentError):
    """ffmpeg ended with an error of its own; `reason` is what it said, for a person."""

    def __init__(self, argv: Sequence[str], code: int, stderr_tail: str) -> None:
        self.reason = _said(stderr_tail) or f"exit code {code}"
        super().__init__(f"ffmpeg ended with {code}: {stderr_tail.strip() or '(no message)'} [{' '.join(argv)}]")


class RetryableError(MediaWorkerError):
    """It may work later: the message goes back to its queue after `retry_after_s` (None: the usual back-off)."""

    retry_after_s: int | None = None


class LeaseHeld(RetryableError):
    """Another invocation holds the job's lease; come back when that has expired."""

    def __init__(self, job_id: str, retry_after_s: int) -> None:
        super().__init__(f"job {job_id} is being worked on elsewhere; its lease ends in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class GivenUp(RetryableError):
    """The job is `failed`, or somebody else's to fail; SQS moves the message at its next receive."""

    retry_after_s = 0


class ReceivesUsedUp(RetryableError):
    """The last receive has come, and the work was hardly tried: the others were spent on waiting."""

    def __init__(self, text: str, retry_after_s: int | None = 0) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class NotEnoughTime(RetryableError):
    """The time that is left does not allow the next step; another invocation starts afresh."""

    retry_after_s = 0


class SourceChanged(RetryableError):
    """The source's ETag changed between looking at it and reading it."""


class NotReady(RetryableError):
    """The job cannot be joined yet; the message says what is missing."""


class TransferFailed(RetryableError):
    """S3 refused or broke off a transfer."""


class FfmpegStopped(RetryableError):
    """ffmpeg did not end by itself: a signal, the clock, or a full disk."""


# Lines that only tell how ffmpeg unwinds.
_SAYS_NOTHING = ("Error opening input file", "Last message", "Task finished with", "Terminating thread with")


def _said(stderr_tail: str) -> str:
    """Ffmpeg's lines without the addresses in front, each once, and without the repeated name of the file."""
    lines = (re.sub(r"^(\[[^\]]*\] *)+", "", line.strip()) for line in stderr_tail.splitlines())
    told = dict.fromkeys(line for line in lines if line and not line.startswith(_SAYS_NOTHING))
    return "; ".join(told)[:500]
