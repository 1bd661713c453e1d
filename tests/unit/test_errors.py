"""The tree of errors, and their texts."""

import pytest
from media_worker import errors
from media_worker.errors import (
    FfmpegFailed,
    LeaseHeld,
    MediaWorkerError,
    MessageError,
    NoSuchJob,
    NotEnoughTime,
    NothingToDo,
    OperationRefused,
    PermanentError,
    RetryableError,
    SettingsError,
)

BRANCHES = (SettingsError, MessageError, NoSuchJob, OperationRefused, NothingToDo, PermanentError, RetryableError)
ALL = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, MediaWorkerError) and kind is not MediaWorkerError
]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_an_error_is_on_one_branch(kind: type[Exception]) -> None:
    """The class of an error decides what a handler does, so no class is on two branches."""
    assert sum(issubclass(kind, branch) for branch in BRANCHES) == 1


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_the_tree_in_the_docstring_is_complete(kind: type[Exception]) -> None:
    """The docstring of errors.py shows every error under its parent."""
    tree = (errors.__doc__ or "").splitlines()
    (line,) = (number for number, text in enumerate(tree) if f"── {kind.__name__} " in text)
    parent = next(
        text
        for text in reversed(tree[:line])
        if text and text.index(text.lstrip("│ ├└─")) < tree[line].index(kind.__name__)
    )
    assert kind.__base__ is not None
    assert kind.__base__.__name__ in parent.split()


def test_the_text_of_an_ffmpeg_failure() -> None:
    """For an operator: command, exit code and last lines."""
    error = FfmpegFailed(["ffmpeg", "-i", "source"], 183, "moov atom not found\n")
    assert str(error) == "ffmpeg exited with 183: moov atom not found [ffmpeg -i source]"
    assert str(FfmpegFailed(["ffmpeg"], 1, "")) == "ffmpeg exited with 1: (no message) [ffmpeg]"


def test_the_reason_of_an_ffmpeg_failure() -> None:
    """For a user: no addresses, no repetitions, no command line."""
    tail = """
        [mov,mp4 @ 0x7f0] moov atom not found
        [in#0 @ 0x7f1] [mov @ 0x7f2] moov atom not found
            Last message repeated 3 times
        [in#0 @ 0x7f1] Task finished with error code: -1094995529 (Invalid data found when processing input)
        Error opening input: Invalid data found when processing input
        Error opening input file source.
    """
    reason = FfmpegFailed(["ffmpeg"], 1, tail).reason
    assert reason == "moov atom not found; Error opening input: Invalid data found when processing input"


def test_without_output_the_reason_is_the_exit_code() -> None:
    """There is always a reason, and it is never long."""
    assert FfmpegFailed(["ffmpeg"], 69, "\n").reason == "exit code 69"
    assert len(FfmpegFailed(["ffmpeg"], 1, "x" * 10_000).reason) == 500


def test_errors_say_when_to_retry() -> None:
    """A held lease after its expiry, missing time at once, others after the back-off."""
    assert LeaseHeld("j", 42).retry_after_s == 42
    assert "42 s" in str(LeaseHeld("j", 42))
    assert NotEnoughTime().retry_after_s == 0
    assert RetryableError().retry_after_s is None
