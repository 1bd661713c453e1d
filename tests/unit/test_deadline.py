"""The time that an invocation has left for work."""

import pytest
from media_worker.deadline import RESERVE_S, Deadline
from media_worker.errors import NotEnoughTime

from tests.functional.stack import LambdaContext


def test_a_reserve_is_subtracted() -> None:
    """The remaining time is less than Lambda's by the reserve, and never negative."""
    assert Deadline(LambdaContext(remaining_ms=100_000)).remaining_s() == 100 - RESERVE_S
    assert Deadline(LambdaContext(remaining_ms=1_000)).remaining_s() == 0


def test_a_step_without_enough_time_is_not_started() -> None:
    """Exactly enough time is enough. The error names the step."""
    deadline = Deadline(LambdaContext(remaining_ms=100_000))
    deadline.require(85, "join")
    with pytest.raises(NotEnoughTime, match="85 s are left, 86 s are needed to join"):
        deadline.require(86, "join")
