"""The media of the state machine over attempts: tiny sources, and what workers make of their segments."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from tests.media import clips, look

# `negative` has the cuts of `plain`, and other frames.
type SourceName = Literal["plain", "negative", "shorter", "late", "matroska"]
SOURCES: Sequence[SourceName] = get_args(SourceName.__value__)
type Style = Literal["copy", "lossless", "video only", "short"]

_TINY = ("-f", "lavfi", "-i", "testsrc2=size=64x36:rate=4:duration={s}", "-f", "lavfi", "-i", "sine=duration={s}")
_X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
_LOSSLESS = (*_X264, "-qp", "0")
_STYLES: Mapping[Style, tuple[str, ...]] = {
    "lossless": (*_LOSSLESS, "-c:a", "copy"),
    "video only": (*_LOSSLESS, "-an"),
    "short": (*_LOSSLESS, "-c:a", "copy"),  # with one frame less
}


def _make_source(name: SourceName, folder: Path) -> bytes:
    path = folder / f"{name}.{'mkv' if name == 'matroska' else 'mp4'}"
    tiny = [word.format(s=5 if name == "shorter" else 6) for word in _TINY]
    options = ("-vf", "negate") if name in {"negative", "shorter"} else ()
    # Lossless like what the workers write: ffmpeg decodes H.264 wrongly where lossy segments turn into lossless ones.
    encoded = (*_LOSSLESS, "-g", "4", "-bf", "1", "-c:a", "aac", "-b:a", "32k")
    if name == "late":
        plain = folder / "plain.mp4"
        clips.ffmpeg(
            *("-itsoffset", "0.6", "-i", str(plain), "-i", str(plain)),
            *("-map", "0:v", "-map", "1:a", "-c", "copy", str(path)),
        )
    else:
        clips.ffmpeg(*tiny, *options, *encoded, str(path))
    return path.read_bytes()


@dataclass(frozen=True, eq=False)
class Studio:
    """The media of all examples: each is made, changed and decoded once."""

    folder: Path
    sources: Mapping[SourceName, bytes]

    @classmethod
    def open(cls, folder: Path) -> "Studio":
        return cls(folder, {name: _make_source(name, folder) for name in SOURCES})

    @cache  # noqa: B019  # one studio for the session
    def change(self, body: bytes, style: Style) -> bytes:
        """What a worker makes of a segment."""
        if style == "copy":
            return body
        source, target = self.folder / "in.mp4", self.folder / "out.mp4"
        source.write_bytes(body)
        fewer = ("-frames:v", str(max(1, look.count_frames(source) - 1))) if style == "short" else ()
        clips.ffmpeg("-i", str(source), *_STYLES[style], *fewer, str(target))
        return target.read_bytes()

    @cache  # noqa: B019
    def frames(self, body: bytes) -> list[str]:
        """The hash of each decoded frame."""
        path = self.folder / "decoded"
        path.write_bytes(body)
        return [frame.content for frame in look.decoded_frames(path)]

    def source_of(self, etag: str) -> bytes:
        return next(body for body in self.sources.values() if etag_of(body) == etag.strip('"'))


def etag_of(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()
