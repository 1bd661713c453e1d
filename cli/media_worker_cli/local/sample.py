"""A sample video from ffmpeg's test sources: 60 s, 1080p, 30 frames per second, B-frames, stereo audio."""

# ruff: noqa: T201 - a command line prints

import subprocess
import sys
from pathlib import Path

from media_worker_cli.errors import CommandError
from media_worker_cli.local.deployment import CACHE
from media_worker_cli.local.ffmpeg import ffmpeg_path

SAMPLE = CACHE / "sample-1080p30-60s.mp4"
_DURATION_S = 60


def sample() -> Path:
    """The sample. The first call encodes it, which takes about ten seconds."""
    if not SAMPLE.is_file():
        print("encoding a sample video", file=sys.stderr)
        SAMPLE.parent.mkdir(parents=True, exist_ok=True)
        partial = SAMPLE.with_name(f".{SAMPLE.name}.partial.mp4")
        encoded = subprocess.run(
            build_argv(ffmpeg_path(), partial), capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        if encoded.returncode != 0:
            raise CommandError(f"cannot encode the sample: {encoded.stderr.strip()}")
        partial.replace(SAMPLE)
    return SAMPLE


def build_argv(ffmpeg: Path, target: Path) -> list[str]:
    """The command that encodes the sample: a keyframe every two seconds, a different tone in each channel."""
    video = f"testsrc2=size=1920x1080:rate=30:duration={_DURATION_S}"
    left, right = (f"sine=frequency={hertz}:sample_rate=48000:duration={_DURATION_S}" for hertz in (440, 554))
    return [
        *(str(ffmpeg), "-hide_banner", "-v", "error", "-y"),
        *("-f", "lavfi", "-i", video, "-f", "lavfi", "-i", left, "-f", "lavfi", "-i", right),
        *("-filter_complex", "[1:a][2:a]join=inputs=2:channel_layout=stereo[audio]", "-map", "0:v", "-map", "[audio]"),
        *("-c:v", "libx264", "-preset", "ultrafast", "-crf", "26", "-bf", "2", "-g", "60", "-pix_fmt", "yuv420p"),
        *("-c:a", "aac", "-b:a", "128k", "-movflags", "+faststart", str(target)),
    ]


if __name__ == "__main__":
    print(sample())
