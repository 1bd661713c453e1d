"""How much time an invocation has left for work."""

import pytest
from media_worker.deadline import RESERVE_S, Deadline
from media_worker.errors import NotEnoughTime

from tests.functional.stack import LambdaContext


def test_a_reserve_is_kept_back() -> None:
    """What is left is less than Lambda says, and never negative."""
    assert Deadline(LambdaContext(remaining_ms=100_000)).remaining_s() == 100 - RESERVE_S
    assert Deadline(LambdaContext(remaining_ms=1_000)).remaining_s() == 0


def test_a_step_that_would_not_end_is_not_begun() -> None:
    """Exactly enough is enough; the error names the step."""
    deadline = Deadline(LambdaContext(remaining_ms=100_000))
    deadline.require(85, "join")
    with pytest.raises(NotEnoughTime, match="85 s are left, 86 s are needed to join"):
        deadline.require(86, "join")
