"""No gap at joins: a sample of `make joins`, which measures 30 joins of every container and encoder."""

from pathlib import Path

import pytest

from tests.fidelity.joins import FRAME_MS, measure

SEGMENTS = 7


@pytest.mark.parametrize(
    ("name", "encoder"),
    [
        ("h264-30.mp4", "aac"),
        ("h264-30.mkv", "aac"),
        ("pyramid-24.mkv", "aac"),
        ("h264-30.ts", "aac"),
        ("h264-30.mkv", "libopus"),
        ("h264-30.ts", "ac3"),
        ("vp9-30.webm", "aac"),
        ("mpeg4-30.avi", "libopus"),
        ("mpeg4-30.avi", "ac3"),
    ],
)
def test_joins_have_no_gap(tmp_path: Path, name: str, encoder: str) -> None:
    """Each hole is shorter than an audio frame, and counting samples instead of reading times is not off by one."""
    found = measure(name, encoder, SEGMENTS, tmp_path)
    assert found.frames == found.expected_frames
    assert found.longest_ms < FRAME_MS[encoder]
    assert abs(found.drift_ms) < FRAME_MS[encoder]
    assert sum(found.holes_ms) < 100 * found.joins / 30


@pytest.mark.parametrize(
    "output",
    [("-movflags", "frag_keyframe+empty_moov"), ("-use_editlist", "0"), ("-f", "mpegts"), ("-f", "matroska")],
    ids=lambda output: output[-1],
)
def test_joins_have_no_gap_whatever_the_worker_writes(tmp_path: Path, output: tuple[str, str]) -> None:
    """Also if its files do not say which packets are encoder delay."""
    found = measure("h264-30.mp4", "aac", SEGMENTS, tmp_path, output)
    assert found.frames == found.expected_frames
    assert found.holes_ms == ()
    assert abs(found.drift_ms) < 1
