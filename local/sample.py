"""A video to try things with, from ffmpeg's test sources: 60 s, 1080p, 30 frames a second, B-frames, stereo sound."""

# ruff: noqa: T201 - a command line prints

import subprocess
import sys
from pathlib import Path

from local.binaries import ffmpeg_path
from local.checkout import ROOT
from local.errors import LocalError

SAMPLE = ROOT / ".cache" / "sample-1080p30-60s.mp4"
_DURATION_S = 60


def sample() -> Path:
    """The sample; it is made once, which takes some ten seconds."""
    if not SAMPLE.is_file():
        print("making a sample video", file=sys.stderr)
        SAMPLE.parent.mkdir(parents=True, exist_ok=True)
        partial = SAMPLE.with_name(f".{SAMPLE.name}.partial.mp4")
        made = subprocess.run(
            build_argv(ffmpeg_path(), partial), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        if made.returncode != 0:
            raise LocalError(f"the sample could not be made: {made.stderr.strip()}")
        partial.replace(SAMPLE)
    return SAMPLE


def build_argv(ffmpeg: Path, target: Path) -> list[str]:
    """The command that makes the sample: a keyframe every two seconds, another tone in each ear."""
    video = f"testsrc2=size=1920x1080:rate=30:duration={_DURATION_S}"
    left, right = (f"sine=frequency={hertz}:sample_rate=48000:duration={_DURATION_S}" for hertz in (440, 554))
    return [
        *(str(ffmpeg), "-hide_banner", "-v", "error", "-y"),
        *("-f", "lavfi", "-i", video, "-f", "lavfi", "-i", left, "-f", "lavfi", "-i", right),
        *("-filter_complex", "[1:a][2:a]join=inputs=2:channel_layout=stereo[sound]", "-map", "0:v", "-map", "[sound]"),
        *("-c:v", "libx264", "-preset", "ultrafast", "-crf", "26", "-bf", "2", "-g", "60", "-pix_fmt", "yuv420p"),
        *("-c:a", "aac", "-b:a", "128k", "-movflags", "+faststart", str(target)),
    ]


if __name__ == "__main__":
    print(sample())
