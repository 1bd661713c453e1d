"""Holes in the audio at joins: segments are re-encoded one by one through both handlers, and the final is decoded.

`make joins` prints a table. A hole is a time in the decoded audio in which a steady tone is below 10 % of its amplitude
for 1.5 ms or longer. Drift is how much more or less audio a decoder delivers for the final than for a file that was
encoded in one go; players that count samples instead of reading times are off by that much at the end.
"""

from __future__ import annotations

import io
import logging
import math
import sys
import tempfile
from array import array
from contextlib import redirect_stdout
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from media_worker.jobs import JobStatus
from moto import mock_aws

from tests.functional.stack import Stack

from .probe import run, tool

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

RATE_HZ = 48_000
# Frame rate, video and audio encoder of each container.
CONTAINERS: dict[str, tuple[str, str, str]] = {
    "h264-30.mp4": ("30", "libx264 -preset ultrafast -bf 2", "aac"),
    "h264-30.mkv": ("30", "libx264 -preset ultrafast -bf 2", "aac"),
    "pyramid-24.mkv": ("24", "libx264 -preset fast -x264-params bframes=3:b-pyramid=normal", "aac"),
    "h264-30.ts": ("30", "libx264 -preset ultrafast -bf 2", "aac"),
    "h264-30.flv": ("30", "libx264 -preset ultrafast -bf 2", "aac"),
    "vp9-30.webm": ("30", "libvpx-vp9 -deadline realtime -cpu-used 8", "libopus"),
    "mpeg4-30.avi": ("30", "mpeg4", "libmp3lame"),
}
ENCODERS = ("aac", "libopus", "ac3")
FRAME_MS = {"aac": 1024 / 48, "libopus": 20.0, "ac3": 1536 / 48}


@dataclass(frozen=True, slots=True)
class Joins:
    """What was measured on one final."""

    joins: int
    holes_ms: tuple[float, ...]
    drift_ms: float
    frames: int
    expected_frames: int

    @property
    def longest_ms(self) -> float:
        return max(self.holes_ms, default=0.0)


def measure(name: str, encoder: str, segments: int, folder: Path, output: Sequence[str] = ()) -> Joins:
    """Make a source of `segments` segments, process each with libx264 and `encoder`, join them, and measure.

    `output`: ffmpeg's options for the container of the processed segments.
    """
    segment_s = 2
    source = _make(name, folder / name, segments * segment_s, segment_s)
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    logging.disable(logging.CRITICAL)
    try:
        with mock_aws(), redirect_stdout(io.StringIO()):  # the functions print their metrics
            final = _through_handlers(Stack.create(folder), source, (encoder, *output), folder, segment_s)
    finally:
        tempfile.tempdir = before
        logging.disable(logging.NOTSET)
    audio, whole = _decoded(final), _decoded(_encoded(source, (encoder,), folder / "whole.mp4"))
    return Joins(
        joins=segments - 1,
        holes_ms=tuple(_holes_ms(audio)),
        drift_ms=(len(audio) - len(whole)) * 1000 / RATE_HZ,
        frames=_count_frames(final),
        expected_frames=_count_frames(source),
    )


def _make(name: str, path: Path, seconds: int, segment_s: int) -> Path:
    rate, video, audio = CONTAINERS[name]
    gop = int(rate) * segment_s
    run(
        [
            *(tool("ffmpeg"), "-v", "error", "-y"),
            *("-f", "lavfi", "-i", f"testsrc2=size=128x72:rate={rate}:duration={seconds}"),
            *("-f", "lavfi", "-i", f"sine=frequency=1000:sample_rate={RATE_HZ}:duration={seconds}"),
            *("-c:v", *video.split(), "-g", str(gop), "-sc_threshold", "0", "-pix_fmt", "yuv420p"),
            *("-c:a", audio, str(path)),
        ]
    )
    return path


def _through_handlers(stack: Stack, source: Path, output: Sequence[str], folder: Path, segment_s: int) -> Path:
    stack.add_job(engine={"S": "auto"}, segment_duration_sec={"N": str(segment_s)})
    stack.upload(source)
    stack.chunk()
    assert stack.job().status is JobStatus.CHUNKING_COMPLETE, stack.job().error

    def process(_: int, body: bytes) -> bytes:
        segment = folder / "segment.mp4"
        segment.write_bytes(body)
        return _encoded(segment, output, folder / "processed.mp4").read_bytes()

    stack.process_segments(change=process)
    stack.reassemble()
    assert stack.job().status is JobStatus.COMPLETED, stack.job().error
    return stack.save_final(folder / "final.mp4")


def _encoded(path: Path, output: Sequence[str], target: Path) -> Path:
    """What a segment worker does. `output`: an audio encoder, and options."""
    video = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2")
    run([tool("ffmpeg"), "-v", "error", "-y", "-i", str(path), *video, "-c:a", *output, str(target)])
    return target


def _decoded(path: Path) -> array[int]:
    """The audio as a decoder delivers it, without looking at times."""
    pcm = path.with_suffix(".pcm")
    run([tool("ffmpeg"), "-v", "error", "-y", "-i", str(path), "-map", "0:a:0", "-ac", "1", "-f", "s16le", str(pcm)])
    samples = array("h")
    samples.frombytes(pcm.read_bytes())
    return samples


def _holes_ms(audio: array[int]) -> list[float]:
    """The length of each hole, but not at the start and the end, where encoders fade."""
    edge = RATE_HZ // 10
    inner = audio[edge:-edge]
    silent = 0.1 * math.sqrt(2) * math.sqrt(sum(sample * sample for sample in inner) / len(inner))
    runs = ((is_silent, sum(1 for _ in group)) for is_silent, group in groupby(abs(s) <= silent for s in inner))
    return [length * 1000 / RATE_HZ for is_silent, length in runs if is_silent and length > RATE_HZ * 0.0015]


def _count_frames(path: Path) -> int:
    command = [tool("ffmpeg"), "-v", "error", "-i", str(path), "-map", "0:V:0", "-fps_mode", "passthrough"]
    printed = run([*command, "-f", "framecrc", "-"])
    return sum(not line.startswith("#") for line in printed.splitlines())


def table(segments: int) -> Iterator[str]:
    """A row for each container and encoder."""
    yield f"| source | processed with | holes over {segments - 1} joins | in total | longest | drift | frames |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    for name in CONTAINERS:
        for encoder in ENCODERS:
            with tempfile.TemporaryDirectory() as folder:
                found = measure(name, encoder, segments, Path(folder))
            holes = f"{len(found.holes_ms)} | {sum(found.holes_ms):.0f} ms | {found.longest_ms:.1f} ms"
            frames = f"{found.frames} of {found.expected_frames}"
            yield f"| {name} | {encoder} | {holes} | {found.drift_ms:+.1f} ms | {frames} |"


if __name__ == "__main__":
    for line in table(31):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
