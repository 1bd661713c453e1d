"""The verdict on one file: whether what came out is what went in."""

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
    """From best to worst; a file is as good as its worst stream."""

    EXACT = 0
    SHIFTED = 1  # everything there, all of it by one amount too early or too late
    DRIFT = 2  # everything there, at other times
    LOSSY = 3  # pictures or packets missing, added or changed
    REFUSED = 4


@dataclass(frozen=True, slots=True)
class Finding:
    verdict: Verdict
    reason: str = ""


def compare(source: Sequence[Stream], result: Sequence[Stream]) -> Finding:
    """The worst of all streams."""
    if [stream.kind for stream in source] != [stream.kind for stream in result]:
        kinds = (", ".join(stream.kind for stream in streams) for streams in (source, result))
        return Finding(Verdict.LOSSY, "streams {} became {}".format(*kinds))
    findings = [
        _compare_stream(f"{before.kind} {number} ({before.codec})", before, after)
        for number, (before, after) in enumerate(zip(source, result, strict=True))
    ]
    return max(findings, key=lambda finding: finding.verdict, default=Finding(Verdict.EXACT))


def _compare_stream(name: str, before: Stream, after: Stream) -> Finding:
    """Pictures as shown for video, packets for all else (and for video that cannot be decoded here)."""
    if before.codec != after.codec:
        return Finding(Verdict.LOSSY, f"{name}: became {after.codec}")
    if before.kind == "video" and before.pictures:
        return compare_units(f"{name} pictures", before.pictures, after.pictures)
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
    """Whether the segments, each played alone, show all pictures of the source, in order."""
    for number, stream in enumerate(source):
        if stream.kind != "video" or not stream.pictures:
            continue
        # A track without samples may be no stream at all in a segment.
        parts = [streams[number].pictures for streams in segments if len(streams) > number]
        shown = [unit.content for part in parts for unit in part]
        if shown != [unit.content for unit in stream.pictures]:
            return Finding(Verdict.LOSSY, f"segments alone show {len(shown)} of {len(stream.pictures)} pictures")
    return Finding(Verdict.EXACT)
