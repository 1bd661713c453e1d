"""A sample of `make fidelity`, which takes clips of many recorders through four kinds of segment workers."""

from pathlib import Path

import pytest

from tests.fidelity.recorders import make_clips
from tests.fidelity.workers import examine

CLIPS = ["multitrack.mp4", "obs_fragmented.mp4", "broadcast.ts"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", CLIPS)
def test_every_final_is_exact(tmp_path: Path, name: str) -> None:
    """With each kind of worker, it has all frames and times, and all audio. Each segment can be decoded alone."""
    (source,) = make_clips(tmp_path, [name])
    row = examine(source)
    assert row.segments == 3
    assert row.is_exact, str(row)
