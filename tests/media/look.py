"""Decoded frames and packets of a media file, by ffmpeg and ffprobe."""

import json
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from local.binaries import ffprobe_path
from tests.media.clips import ffmpeg


@dataclass(frozen=True, slots=True)
class Sample:
    """A decoded frame or a packet: its presentation time and a hash of its content."""

    presented_at_s: Fraction
    content: str


def decoded_frames(path: Path) -> list[Sample]:
    """Every decoded frame of the first video track."""
    return _samples(ffmpeg("-i", str(path), "-map", "0:V:0", "-fps_mode", "passthrough", "-f", "framemd5", "-"))


def packets(path: Path, track: str) -> list[Sample]:
    """Every packet of one track as it is stored."""
    return _samples(ffmpeg("-i", str(path), "-map", f"0:{track}", "-c", "copy", "-f", "framemd5", "-"))


def streams(path: Path) -> list[dict[str, Any]]:
    """The tracks as ffprobe describes them."""
    printed = subprocess.run(
        [str(ffprobe_path()), "-v", "error", "-of", "json", "-show_streams", str(path)],
        capture_output=True,
        check=True,
    ).stdout
    found: list[dict[str, Any]] = json.loads(printed)["streams"]
    return found


def largest_shift_ms(before: list[Sample], after: list[Sample]) -> float:
    """The largest change of a presentation time, in milliseconds."""
    assert len(before) == len(after)
    return max(float(abs(b.presented_at_s - a.presented_at_s)) * 1000 for b, a in zip(before, after, strict=True))


def is_fast_start(path: Path) -> bool:
    """Whether the movie header is in front of the media."""
    content = path.read_bytes()
    return 0 <= content.find(b"moov") < content.find(b"mdat")


def _samples(framemd5: str) -> list[Sample]:
    time_base = Fraction(1)
    samples = []
    for line in framemd5.splitlines():
        if line.startswith("#tb 0: "):
            time_base = Fraction(line.removeprefix("#tb 0: "))
        if line and not line.startswith("#"):
            columns = [column.strip() for column in line.split(",")]
            samples.append(Sample(int(columns[2]) * time_base, columns[5]))
    return samples
