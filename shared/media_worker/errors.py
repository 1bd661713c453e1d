"""Everything that can go wrong, in one tree. What a handler does with an error depends on its class alone.

MediaWorkerError
├── SettingsError             the environment is wrong: stops at start
├── MessageError              the message cannot be understood: ends in the dead-letter queue
├── NoSuchJob                 an operation names a job that does not exist
├── OperationRefused          the job's status does not allow the operation
├── NothingToDo               the message asks for nothing that is left to do: acknowledged
│   ├── JobMoved              the job has left the status that this step needs (deleted, completed, ...)
│   └── StaleSegment          a worker's segment does not count any more
├── PermanentError            a retry would end the same way: the job becomes `failed`
│   ├── BadSource             the source is not a video that can be split
│   ├── BadSegment            a processed segment does not fit the others
│   ├── BadPlan               the stored plan cannot be carried out
│   ├── BadFinal              the final does not hold what was planned
│   ├── NoRoom                the media is larger than /tmp
│   └── FfmpegFailed          ffmpeg refused its input
└── RetryableError            the message is returned to its queue
    ├── LeaseHeld             another invocation is working on this job
    ├── LeaseLost             our lease on this job has expired: another invocation may be working on it
    ├── FailureRecorded       all attempts were used: the message goes to the dead-letter queue
    ├── ReceivesUsedUp        the receives were used up by waiting: the message is re-enqueued
    ├── NotEnoughTime         the invocation would end before the work does
    ├── SourceChanged         the source was replaced while it was being read
    ├── NotReady              completions are missing
    ├── TransferFailed        S3 broke off a transfer
    ├── AttemptFailed         a worker's command failed, or its output is not the processed segment
    └── FfmpegStopped         ffmpeg was killed, hung, or had no disk space
"""

import re
from collections.abc import Sequence


class MediaWorkerError(Exception):
    """Base of all errors of this package."""


class SettingsError(MediaWorkerError):
    """An environment variable is missing or bad; the message names each."""


class MessageError(MediaWorkerError):
    """The body of an SQS message is neither what the queue carries nor a test event."""


class NoSuchJob(MediaWorkerError):
    """There is no job with this id."""


class OperationRefused(MediaWorkerError):
    """The job is not in a status that allows the operation; the text says what to do instead."""


class NothingToDo(MediaWorkerError):
    """The message is valid, but nothing is left to do: the job is unknown, deleted or further on."""


class JobMoved(NothingToDo):
    """A conditional write found the job in a status that does not allow the step."""


class StaleSegment(NothingToDo):
    """The segment belongs to a plan that was replaced, or to a job that is over."""


class PermanentError(MediaWorkerError):
    """A retry would end the same way; the text becomes the job's `error`, for a person to read."""


class BadSource(PermanentError):
    """The source is not a video that can be split into MP4 segments."""


class BadSegment(PermanentError):
    """A processed segment does not fit the others; the message names it and the difference."""


class BadPlan(PermanentError):
    """The stored plan cannot be read or carried out."""


class BadFinal(PermanentError):
    """The final was written, but what is read back is not what was planned."""


class NoRoom(PermanentError):
    """The media does not fit into the work directory's file system."""


class FfmpegFailed(PermanentError):
    """ffmpeg exited with an error; `reason` is its message, for a person."""

    def __init__(self, argv: Sequence[str], code: int, stderr_tail: str) -> None:
        self.reason = _summarise(stderr_tail) or f"exit code {code}"
        super().__init__(f"ffmpeg exited with {code}: {stderr_tail.strip() or '(no message)'} [{' '.join(argv)}]")


class RetryableError(MediaWorkerError):
    """A retry may succeed: the message is returned to its queue for `retry_after_s` (None: the usual back-off)."""

    retry_after_s: int | None = None


class LeaseHeld(RetryableError):
    """Another invocation holds the job's lease; retry when that has expired."""

    def __init__(self, job_id: str, retry_after_s: int) -> None:
        super().__init__(f"job {job_id} is being worked on elsewhere; its lease expires in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class LeaseLost(RetryableError):
    """The lease was not renewed in time: this process was paused, or DynamoDB could not be reached. Another
    invocation may have taken over the job and its message, so both are left alone.
    """


class FailureRecorded(RetryableError):
    """The job is `failed`; SQS moves the message to the dead-letter queue at its next receive."""

    retry_after_s = 0


class ReceivesUsedUp(RetryableError):
    """The receives were used up by waiting, not by attempts: the message is re-enqueued to reset its receive count."""

    def __init__(self, text: str, retry_after_s: int | None = 0) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class NotEnoughTime(RetryableError):
    """The remaining time does not allow the next step; another invocation has its full time."""

    retry_after_s = 0


class SourceChanged(RetryableError):
    """The source's ETag changed between looking at it and reading it."""


class NotReady(RetryableError):
    """The job cannot be joined yet; the text says what is missing."""


class TransferFailed(RetryableError):
    """S3 refused or broke off a transfer."""


class AttemptFailed(RetryableError):
    """A worker's command failed, or its output is not the processed segment. The text is for a person."""


class FfmpegStopped(RetryableError):
    """ffmpeg was stopped by a signal, by its deadline, or by a full disk."""


# Lines that only report how ffmpeg unwinds.
_UNINFORMATIVE = ("Error opening input file", "Last message", "Task finished with", "Terminating thread with")


def _summarise(stderr_tail: str) -> str:
    """The lines of ffmpeg's error output, each once, without the addresses in front and the repeated file name."""
    lines = (re.sub(r"^(\[[^\]]*\] *)+", "", line.strip()) for line in stderr_tail.splitlines())
    informative = dict.fromkeys(line for line in lines if line and not line.startswith(_UNINFORMATIVE))
    return "; ".join(informative)[:500]
