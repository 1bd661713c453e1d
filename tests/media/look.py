"""Decoded frames and packets of a media file, by ffmpeg and ffprobe."""

import json
import subprocess
import sys
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from media_worker_cli.local.ffmpeg import ffprobe_path

from tests.media.clips import ffmpeg

_ENVIRONMENTS = Path(__file__).parents[2] / ".cache" / "examples"


def python_with(*packages: str) -> str:
    """The Python of an environment with these packages, made once."""
    folder = _ENVIRONMENTS / "-".join(packages)
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages], check=True)
        (folder / "complete").touch()
    return str(python)


@dataclass(frozen=True, slots=True)
class Sample:
    """A decoded frame or a packet: its presentation time and a hash of its content."""

    presented_at_s: Fraction
    content: str


# Without rounding to the frame rate.
_EXACT_TIMES = ("-fps_mode", "passthrough", "-enc_time_base:v", "demux")


def decoded_frames(path: Path) -> list[Sample]:
    """Every decoded frame of the first video track."""
    return _samples(ffmpeg("-i", str(path), "-map", "0:V:0", *_EXACT_TIMES, "-f", "framemd5", "-"))


def count_frames(path: Path) -> int:
    """The number of frames of the first video track that a decoder presents."""
    return len(decoded_frames(path))


def duration_s(path: Path) -> float:
    """Seconds from the first frame of the first video track to the end of the last."""
    printed = ffmpeg("-i", str(path), "-map", "0:V:0", "-fps_mode", "passthrough", "-f", "framecrc", "-")
    lines = [line.split(",") for line in printed.splitlines() if line and not line.startswith("#")]
    base = next(line.split(": ")[1] for line in printed.splitlines() if line.startswith("#tb 0"))
    return float(Fraction(base) * (int(lines[-1][2]) + int(lines[-1][3]) - int(lines[0][2])))


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
