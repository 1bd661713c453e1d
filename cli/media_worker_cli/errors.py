"""Errors that end a command with a message instead of a traceback. Each class sets the exit code."""

# The codes of AWS's answer to a request that the caller has no right to. S3 answers HEAD with the status alone.
ACCESS_DENIED = frozenset(
    {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "403"}
)


class CommandError(Exception):
    """Base of these errors.

    The last line of the message says what went wrong. Lines before it are output of another program.
    """

    exit_code = 1


class UsageError(CommandError):
    """An argument cannot be used: a missing file, an unknown stack or job."""

    exit_code = 2


class CloudError(CommandError):
    """The local cloud did not start, or the stack could not be deployed into it."""


class RunInterrupted(KeyboardInterrupt):
    """The user interrupted a run, and its job is kept for another run. So the local cloud has to stay up."""


class FramesMissing(CommandError):
    """The final does not have the frames of the source."""


class UploadBroken(CommandError):
    """The upload of a source was not completed; it can be resumed."""


class JobFailed(CommandError):
    """The job ended without a final. The message is the job's error."""


def install_command(extra: str) -> str:
    """How to install an extra: from the wheel, because media-worker is in no package index."""
    return f"`pip install 'media-worker[{extra}] @ file:///path/to/the.whl'`"
