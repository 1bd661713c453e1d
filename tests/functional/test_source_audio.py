"""Workers return video only, and the final has the source's own audio and other tracks, sample for sample."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from media_worker.jobs import JobStatus
from media_worker.keys import build_final_key, build_source_key
from media_worker.mp4 import Movie, presented_video, read_movie
from media_worker.mp4.boxes import references
from media_worker.mp4.presented import PresentedFrames

from tests.functional.conftest import ClipMaker
from tests.functional.logs import Logs
from tests.functional.stack import INPUT, OUTPUT, Stack
from tests.functional.test_every_frame import Change, dropping
from tests.media import clips, look


def without_audio(folder: Path, *options: str) -> Change:
    """A worker that returns video only; re-encoded, unless `options` say otherwise."""

    def change(index: int, body: bytes) -> bytes:
        source, target = folder / f"in-{index}.mp4", folder / f"out-{index}.mp4"
        source.write_bytes(body)
        clips.ffmpeg("-i", str(source), "-map", "0:V:0", *(options or ENCODED), str(target))
        return target.read_bytes()

    return change


COPIED = ("-c", "copy")
ENCODED = ("-c:v", "libx264", "-preset", "ultrafast")


def join(stack: Stack, source: Path, change: Change | None, path: Path, **attributes: Any) -> Path:
    """The final of a job whose segments a worker changed."""
    stack.add_job(**attributes)
    stack.upload(source)
    assert stack.chunk() == []
    stack.process_segments(change=change)
    stack.reassemble()
    assert stack.job().error is None
    assert stack.job().status is JobStatus.COMPLETED
    return stack.save_final(path)


def decoded_audio(path: Path, number: int = 0) -> str:
    return clips.ffmpeg("-i", str(path), "-map", f"0:a:{number}", "-f", "md5", "-")


def assert_same_audio(final: Path, source: Path, tracks: int = 1) -> None:
    """Packets with their times, and decoded audio, are the source's."""
    for number in range(tracks):
        assert look.packets(final, f"a:{number}") == look.packets(source, f"a:{number}")
        assert decoded_audio(final, number) == decoded_audio(source, number)


def movie_of(path: Path) -> Movie:
    body = path.read_bytes()
    return read_movie(lambda offset, length: body[offset : offset + length], len(body))


def frame_times_ms(path: Path) -> list[float]:
    return [float(frame.presented_at_s) * 1000 for frame in look.decoded_frames(path)]


WORKERS = {
    "copied": COPIED,
    "re-encoded": ENCODED,
    "hevc": ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none", "-tag:v", "hvc1"),
    "90 kHz": (*ENCODED, "-video_track_timescale", "90000"),
    "25 Hz": (*ENCODED, "-video_track_timescale", "25", "-bf", "0"),
    "smaller": (*ENCODED, "-vf", "scale=96:54"),
}


@pytest.mark.parametrize("options", WORKERS.values(), ids=WORKERS)
@pytest.mark.parametrize("name", ["plain", "late_video", "long_audio", "ntsc", "hevc"])
def test_video_only_workers(
    stack: Stack, clip: ClipMaker, tmp_path: Path, logs: Logs, name: str, options: tuple[str, ...]
) -> None:
    """Every frame is presented at its time in the source, within 1 ms, with the source's audio."""
    source = clip(name)
    final = join(stack, source, without_audio(tmp_path, *options), tmp_path / "final.mp4")
    assert_same_audio(final, source)
    found, expected = frame_times_ms(final), frame_times_ms(source)
    assert len(found) == len(expected)
    assert max(abs(one - other) for one, other in zip(found, expected, strict=True)) <= 1
    assert logs.one("tracks_chosen")["tracks"] == "source"
    assert stack.row("Jobs")["tracks_used"] == {"S": "source"}
    assert look.is_fast_start(final)
