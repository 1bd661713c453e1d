"""Each segment is re-encoded on its own, as a segment worker does it, and the results are joined."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .engines import join_files, split_file
from .outcome import Outcome
from .probe import run, tool

if TYPE_CHECKING:
    from collections.abc import Sequence
    from fractions import Fraction
    from pathlib import Path

X264_AAC = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-c:a", "aac")


def reencoded(source: Path, folder: Path, segment_duration_s: Fraction, encoder: Sequence[str] = X264_AAC) -> Outcome:
    """Split, re-encode each segment, join."""
    made = []
    for path in split_file(source, folder, segment_duration_s):
        made.append(path.with_name(f"processed_{path.name}"))
        run([tool("ffmpeg"), "-v", "error", "-threads", "1", "-i", str(path), *encoder, str(made[-1])])
    return Outcome(tuple(made), join_files(tuple(made), folder / "final.mp4"))
