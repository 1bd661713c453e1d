"""The estimate of what a job has cost follows the arithmetic of docs/deploy.md."""

import pytest
from media_worker.prices import Usage, estimate

# The hour of video in docs/deploy.md: 4.5 GB, 12 segments, 280 seconds of both functions.
HOUR = Usage(
    step_seconds=(130, 150), source_bytes=4_500_000_000, segments=12, processed=12, has_final=True, age_s=730 * 3600
)


def test_an_hour_of_video_costs_what_the_documentation_says() -> None:
    """0.0094 for the functions, 0.414 for 18 GB of storage in a month."""
    cost = estimate(HOUR)
    assert cost.functions == pytest.approx(0.0094, abs=0.0001)
    assert cost.storage == pytest.approx(0.414)
    assert 0.003 < cost.requests < 0.009
    assert cost.total == cost.functions + cost.requests + cost.storage


def test_a_job_without_a_source_costs_nothing() -> None:
    """It was created, and nothing happened since."""
    assert estimate(Usage((), 0, 0, 0, has_final=False, age_s=10**6)).total == 0
