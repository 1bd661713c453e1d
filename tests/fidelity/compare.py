"""The verdict on one file: whether the final equals the source."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .probe import Stream, Unit

TOLERANCE_S = Fraction(1, 1000)


class Verdict(IntEnum):
    """From best to worst. A file's verdict is that of its worst stream."""

    EXACT = 0
    SHIFTED = 1  # everything is there, all of it early or late by the same amount
    DRIFT = 2  # everything is there, at other times
    LOSSY = 3  # frames or packets are missing, added or changed
    REFUSED = 4


@dataclass(frozen=True, slots=True)
class Finding:
    verdict: Verdict
    reason: str = ""


def compare(source: Sequence[Stream], result: Sequence[Stream]) -> Finding:
    """The worst finding of all streams."""
    if [stream.kind for stream in source] != [stream.kind for stream in result]:
        kinds = (", ".join(stream.kind for stream in streams) for streams in (source, result))
        return Finding(Verdict.LOSSY, "streams {} became {}".format(*kinds))
    findings = [
        _compare_stream(f"{before.kind} {number} ({before.codec})", before, after)
        for number, (before, after) in enumerate(zip(source, result, strict=True))
    ]
    return max(findings, key=lambda finding: finding.verdict, default=Finding(Verdict.EXACT))


def _compare_stream(name: str, before: Stream, after: Stream) -> Finding:
    """Compare decoded frames of video; packets of everything else, and of video that this build cannot decode."""
    if before.codec != after.codec:
        return Finding(Verdict.LOSSY, f"{name}: became {after.codec}")
    if before.kind == "video" and before.frames:
        return compare_units(f"{name} frames", before.frames, after.frames)
    return compare_units(f"{name} packets", before.packets, after.packets)


def compare_units(name: str, before: Sequence[Unit], after: Sequence[Unit]) -> Finding:
    if [unit.content for unit in before] != [unit.content for unit in after]:
        return Finding(Verdict.LOSSY, f"{name}: {_difference(before, after)}")
    moves = [
        b.time_s - a.time_s for a, b in zip(before, after, strict=True) if a.time_s is not None and b.time_s is not None
    ]
    if all(abs(move) <= TOLERANCE_S for move in moves):
        return Finding(Verdict.EXACT)
    if max(moves) - min(moves) <= TOLERANCE_S:
        return Finding(Verdict.SHIFTED, f"{name}: by {float(moves[0]) * 1000:.1f} ms")
    worst = max(moves, key=abs)
    return Finding(Verdict.DRIFT, f"{name}: up to {float(worst) * 1000:.1f} ms")


def _difference(before: Sequence[Unit], after: Sequence[Unit]) -> str:
    if len(before) != len(after):
        return f"{len(before)} became {len(after)}"
    changed = sum(a.content != b.content for a, b in zip(before, after, strict=True))
    return f"{changed} of {len(before)} changed"


def compare_segments(source: Sequence[Stream], segments: Sequence[Sequence[Stream]]) -> Finding:
    """Whether the segments, each decoded alone, present all frames of the source in order."""
    for number, stream in enumerate(source):
        if stream.kind != "video" or not stream.frames:
            continue
        # In a segment, a track without samples may not be a stream at all.
        parts = [streams[number].frames for streams in segments if len(streams) > number]
        presented = [unit.content for part in parts for unit in part]
        if presented != [unit.content for unit in stream.frames]:
            return Finding(Verdict.LOSSY, f"segments alone present {len(presented)} of {len(stream.frames)} frames")
    return Finding(Verdict.EXACT)
