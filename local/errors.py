"""What a person can get wrong, or be told, on the command line. Each error carries the exit code it ends with."""


class LocalError(Exception):
    """Base of the errors that end a command without a traceback.

    What went wrong is the last line of the message; lines before it are what some program said.
    """

    exit_code = 1


class UsageError(LocalError):
    """The command was given something that cannot be used: a missing file, an unknown stack or job."""

    exit_code = 2


class CloudError(LocalError):
    """The local cloud did not start, or did not take the stack."""


class JobFailed(LocalError):
    """The job ended without a final; the message is the job's error."""
