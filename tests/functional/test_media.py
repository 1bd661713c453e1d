"""Media through both handlers: the final is compared with the source, frame by frame and packet by packet."""

from pathlib import Path

import pytest
from media_worker.jobs import JobStatus

from tests.functional.conftest import ClipMaker
from tests.functional.stack import Stack
from tests.media import look


def run_through(stack: Stack, source: Path, tmp_path: Path, engine: str = "auto") -> Path:
    """Upload, chunk, process without a change, reassemble. Returns the path of the final."""
    stack.add_job(engine={"S": engine})
    stack.upload(source)
    assert stack.chunk() == []
    assert stack.job().status is JobStatus.CHUNKING_COMPLETE, stack.job().error
    stack.process_segments()
    assert stack.reassembly_messages() == [{"job_id": "job-1"}]
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.COMPLETED, stack.job().error
    assert stack.leftovers() == []
    return stack.save_final(tmp_path / "final.mp4")


@pytest.mark.parametrize("engine", ["auto", "ffmpeg"])
@pytest.mark.parametrize(
    ("name", "segments"),
    [
        ("plain", 3),
        ("one_keyframe", 1),
        ("no_audio", 3),
        ("two_audio", 3),
        ("subtitles", 3),
        ("rotated", 3),
        ("hevc", 3),
        ("open_gop", 3),
        ("variable_rate", 3),
        ("ntsc", 3),
        ("long_audio", 3),
        ("late_video", 3),
        ("timecode", 3),
        ("cover", 3),
        ("matroska", 3),
    ],
)
def test_the_final_equals_the_source(
    stack: Stack, clip: ClipMaker, tmp_path: Path, name: str, segments: int, engine: str
) -> None:
    """Every frame and every audio packet of the source is in the final, with its presentation time to the
    millisecond.
    """
    source = clip(name)
    final = run_through(stack, source, tmp_path, engine)

    assert len(stack.segment_keys()) == segments
    before, after = look.decoded_frames(source), look.decoded_frames(final)
    assert [frame.content for frame in after] == [frame.content for frame in before]
    assert look.largest_shift_ms(before, after) < 1
    audio = [stream for stream in look.streams(source) if stream["codec_type"] == "audio"]
    for number in range(len(audio)):
        before, after = look.packets(source, f"a:{number}"), look.packets(final, f"a:{number}")
        assert [packet.content for packet in after] == [packet.content for packet in before]
        assert look.largest_shift_ms(before, after) < 1
    assert look.is_fast_start(final)
