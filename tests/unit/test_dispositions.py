"""What becomes of a record and its job after each error, at each receive count."""

from collections.abc import Callable

import pytest
from media_worker import errors
from media_worker.errors import (
    FailureRecorded,
    FfmpegFailed,
    LeaseHeld,
    LeaseLost,
    MediaWorkerError,
    MessageError,
    NotEnoughTime,
    NothingToDo,
    PermanentError,
    ReceivesUsedUp,
    SettingsError,
)
from media_worker.final_delivery import Delivery
from media_worker.handlers import DISPOSITIONS, Disposition, disposition_of

MAX_RECEIVE_COUNT = 6
LAST_ATTEMPT, FINAL = 5, 6

_WITH_ARGUMENTS: dict[type[Exception], Callable[[], Exception]] = {
    LeaseHeld: lambda: LeaseHeld("job-1", 100),
    FfmpegFailed: lambda: FfmpegFailed(["ffmpeg"], 1, "no"),
    ReceivesUsedUp: lambda: ReceivesUsedUp("waited"),
}
# Every error class of the package, and two from outside it. A SettingsError is raised before any record is handled.
CLASSES = [
    OSError,
    KeyError,
    *(
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, MediaWorkerError) and kind is not SettingsError
    ),
]
every_class = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
every_receive = pytest.mark.parametrize("receive_count", range(1, FINAL + 2))


def after(kind: type[Exception], receive_count: int) -> Disposition:
    error = _WITH_ARGUMENTS.get(kind, lambda: kind("text"))()
    return disposition_of(error, Delivery(receive_count, MAX_RECEIVE_COUNT))


@every_class
@every_receive
def test_a_record_is_acknowledged_if_a_retry_changes_nothing(kind: type[Exception], receive_count: int) -> None:
    """These are NothingToDo and PermanentError; every other error keeps the message, or sends a new one."""
    acknowledged = issubclass(kind, NothingToDo | PermanentError)
    assert (after(kind, receive_count).record == "acknowledged") == acknowledged


@every_class
@every_receive
def test_a_record_is_reenqueued_if_its_receives_were_used_up_by_waiting(
    kind: type[Exception], receive_count: int
) -> None:
    """ReceivesUsedUp says so; a held lease and missing time mean it on the final receive."""
    waited = receive_count >= FINAL and issubclass(kind, LeaseHeld | NotEnoughTime)
    assert (after(kind, receive_count).record == "reenqueued") == (kind is ReceivesUsedUp or waited)


@every_class
@every_receive
def test_the_last_attempt_fails_the_job(kind: type[Exception], receive_count: int) -> None:
    """Not after errors that say nothing about the job, that another delivery handles, or that failed it already."""
    never = (NothingToDo, PermanentError, MessageError, FailureRecorded, ReceivesUsedUp, LeaseHeld, LeaseLost)
    expected = receive_count >= LAST_ATTEMPT and not issubclass(kind, never)
    assert after(kind, receive_count).fails_job == expected


@every_class
def test_no_error_fails_a_job_before_its_last_attempt(kind: type[Exception]) -> None:
    """A retry may succeed."""
    assert not any(after(kind, receive_count).fails_job for receive_count in range(1, LAST_ATTEMPT))


@pytest.mark.parametrize(
    ("kind", "delays_s"),
    [
        (OSError, [5, 10, 20, 40, 80, 160, 300, 300]),
        (errors.TransferFailed, [5, 10, 20, 40, 80, 160, 300, 300]),
        (errors.NotReady, [5, 10, 20, 40, 80, 160, 300, 300]),
        (NotEnoughTime, [0] * 8),
        (FailureRecorded, [0] * 8),
        (ReceivesUsedUp, [0] * 8),
        (LeaseHeld, [100] * 8),
        (LeaseLost, [None] * 8),
        (MessageError, [0] * 8),
        (NothingToDo, [0] * 8),
        (PermanentError, [0] * 8),
    ],
)
def test_the_delay(kind: type[Exception], delays_s: list[int | None]) -> None:
    """The back-off doubles from 5 s to 300 s. An error that knows better sets its own delay; a message that somebody
    else may have received is left alone.
    """
    assert [after(kind, receive_count).delay_s for receive_count in range(1, 9)] == delays_s


@pytest.mark.parametrize(("receive_count", "most_s"), [(1, 12 * 3600), (FINAL, 900)])
def test_the_delay_is_within_the_limits_of_sqs(receive_count: int, most_s: int) -> None:
    """A visibility timeout has at most 12 hours, the delay of a new message at most 15 minutes."""
    assert disposition_of(LeaseHeld("job-1", 10**6), Delivery(receive_count, MAX_RECEIVE_COUNT)).delay_s == most_s


@pytest.mark.parametrize(("max_receive_count", "last_attempt"), [(1, 1), (2, 1), (3, 2), (6, 5)])
def test_the_final_receive_is_not_an_attempt(max_receive_count: int, last_attempt: int) -> None:
    """With a single receive there is no final delivery beside the attempt."""
    deliveries = [Delivery(number, max_receive_count) for number in range(1, max_receive_count + 1)]
    assert [each.receive_count for each in deliveries if each.is_last_attempt] == list(
        range(last_attempt, max_receive_count + 1)
    )
    assert [each.receive_count for each in deliveries if each.is_final] == list(
        range(last_attempt + 1, max_receive_count + 1)
    )


@every_class
@every_receive
def test_every_error_is_counted(kind: type[Exception], receive_count: int) -> None:
    """The metric names what becomes of the record."""
    found = after(kind, receive_count)
    expected = {"returned": {"RecordsReturned"}, "reenqueued": {"RecordsReenqueued"}}
    assert found.metric in expected.get(found.record, {"NothingToDo", "JobsFailed"})


def test_the_table_covers_every_exception() -> None:
    """Its last row is Exception, and no row is hidden by a row above it."""
    kinds = [kind for kind, _ in DISPOSITIONS]
    assert kinds[-1] is Exception
    for number, kind in enumerate(kinds):
        assert not any(issubclass(kind, earlier) for earlier in kinds[:number])
