"""The copy engine on real files, compared by decoding. `make fidelity` runs all clips; these are the hardest ones."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import pytest

from tests.fidelity.clips import AAC, X264, audio, make_clips, video
from tests.fidelity.compare import Verdict
from tests.fidelity.engines import concat_engine, copy_engine
from tests.fidelity.judge import judge
from tests.fidelity.probe import read_streams, run, tool
from tests.fidelity.reencode import reencoded

if TYPE_CHECKING:
    from pathlib import Path

EXACT = [
    "h264_bframes.mp4",
    "h264_open_gop.mp4",
    "hevc_hvc1.mp4",
    "vfr_bframes.mp4",
    "four_audio_tracks.mov",
    "audio_late.mp4",
    "timecode.mov",
    "subtitles.mp4",
    "fragmented_dash.mp4",
    "fragmented_late.mp4",
    "rotated.mp4",
    "one_sample_per_chunk.mp4",
    "backwards.mp4",
    "edits_several.mp4",
    "edits_loop.mp4",
    "large_offsets.mp4",
    "negative_offsets.mp4",
]
EXACT_WITHOUT_PROVENANCE = [
    "h264_bframes.mp4",
    "vfr_bframes.mp4",
    "audio_late.mp4",
    "four_audio_tracks.mov",
    "trim_start.mp4",
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    make_clips(folder, [*EXACT, *EXACT_WITHOUT_PROVENANCE, "cut_short.mp4"])
    return folder


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", EXACT)
def test_split_and_join_change_nothing(clips: Path, name: str) -> None:
    """Every decoded frame and every packet is the source's, at its time, and each segment can be decoded alone."""
    judgement = judge(clips / name, copy_engine)
    assert judgement.finding.verdict is Verdict.EXACT, judgement.finding.reason
    assert judgement.alone.verdict is Verdict.EXACT, judgement.alone.reason


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", EXACT_WITHOUT_PROVENANCE)
def test_segments_join_by_their_own_times_too(clips: Path, name: str) -> None:
    """A worker that drops the provenance but changes nothing else still gets the source back."""
    judgement = judge(clips / name, concat_engine)
    assert judgement.finding.verdict is Verdict.EXACT, judgement.finding.reason


def test_a_truncated_file_is_refused(clips: Path) -> None:
    """The error says so, and another engine can try."""
    judgement = judge(clips / "cut_short.mp4", copy_engine)
    assert judgement.finding.verdict is Verdict.REFUSED
    assert "cut short" in judgement.finding.reason


@pytest.mark.timeout(300)
def test_thirty_joins_of_reencoded_segments_stay_in_sync(tmp_path: Path) -> None:
    """Each segment goes through x264 and AAC: all frames are at their times, and the audio keeps its length to one
    packet.
    """
    source = tmp_path / "source.mp4"
    inputs = [*video("30000/1001", 62, "64x48"), *audio(44100, 62)]
    run([tool("ffmpeg"), "-v", "error", *inputs, *X264, "-preset", "ultrafast", "-g", "30", *AAC, str(source)])
    outcome = reencoded(source, tmp_path, Fraction(2))
    assert len(outcome.segments) == 31
    before, after = read_streams(source), read_streams(outcome.final)
    frame_times = [[unit.time_s for unit in streams[0].frames] for streams in (before, after)]
    packets = [[unit.time_s for unit in streams[1].packets] for streams in (before, after)]
    assert frame_times[0] == frame_times[1]
    assert abs(len(packets[0]) - len(packets[1])) <= 1
    tick = Fraction(1, 1000)  # workers write edit lists in milliseconds
    for was, now in zip(*packets, strict=False):
        assert was is not None
        assert now is not None
        assert abs(was - now) <= tick
