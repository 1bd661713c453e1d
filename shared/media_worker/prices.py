"""What a job has cost so far, by the list prices and the arithmetic of docs/deploy.md ("What it costs"). Pure.

It is an estimate: the job's row has the seconds of its last run, and requests are derived from sizes. Segment workers
are not included.
"""

from collections.abc import Sequence
from dataclasses import dataclass

# US dollars, us-east-1, November 2026.
_LAMBDA_GB_S = 0.0000166667
_TMP_GB_S = 0.0000000309
_PUT = 0.005 / 1_000
_GET = 0.0004 / 1_000
_STORAGE_GB_MONTH = 0.023

# The template's defaults.
_MEMORY_GB = 2
_TMP_GB = 9.5

_GB = 10**9
_PART_BYTES = 8 * 1024 * 1024
_MONTH_S = 730 * 3600
# Requests for one segment: to write it from ranges of the source, and to upload it when it is processed.
_WRITES_PER_SEGMENT = 4 + 2
_READS_PER_SEGMENT = 6


@dataclass(frozen=True, slots=True)
class Usage:
    """What a job has used."""

    # Seconds of each step of both functions.
    step_seconds: Sequence[float]
    source_bytes: int
    segments: int
    processed: int
    has_final: bool
    # Seconds since the source was uploaded.
    age_s: int


@dataclass(frozen=True, slots=True)
class Cost:
    """US dollars."""

    functions: float
    requests: float
    storage: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.functions + self.requests + self.storage


def estimate(usage: Usage) -> Cost:
    """What the job has cost so far."""
    done = usage.processed / usage.segments if usage.segments else 0.0
    parts = -(-usage.source_bytes // _PART_BYTES)
    writes = parts * (1 + done) + usage.segments * _WRITES_PER_SEGMENT
    reads = parts * done + usage.segments * _READS_PER_SEGMENT
    copies = 1 + bool(usage.segments) + done + usage.has_final
    return Cost(
        functions=sum(usage.step_seconds) * (_MEMORY_GB * _LAMBDA_GB_S + _TMP_GB * _TMP_GB_S),
        requests=writes * _PUT + reads * _GET,
        storage=copies * usage.source_bytes / _GB * _STORAGE_GB_MONTH * usage.age_s / _MONTH_S,
    )
