"""One file and one engine: split into thirds, join, compare."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from .compare import Finding, Verdict, compare, compare_segments
from .outcome import Engine, Refused
from .probe import ProbeFailed, Stream, read_streams, run, tool

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Judgement:
    finding: Finding
    segments: int
    alone: Finding  # whether each segment can be decoded alone


def judge(source: Path, engine: Engine, streams: tuple[Stream, ...] | None = None, parts: int = 3) -> Judgement:
    """The verdict for one file. `streams` is the result of `read_streams`, if that is known already."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            outcome = engine(source, Path(folder), duration_s(source) / parts)
        except (Refused, ProbeFailed) as refusal:
            return Judgement(Finding(Verdict.REFUSED, str(refusal)), 0, Finding(Verdict.EXACT))
        before = read_streams(source) if streams is None else streams
        finding = _guarded(lambda: compare(before, read_streams(outcome.final)))
        alone = _guarded(lambda: compare_segments(before, [read_streams(path) for path in outcome.segments]))
        return Judgement(finding, len(outcome.segments), alone)


def _guarded(question: Callable[[], Finding]) -> Finding:
    """A result that cannot be read is lossy."""
    try:
        return question()
    except ProbeFailed as error:
        return Finding(Verdict.LOSSY, str(error))


def duration_s(path: Path) -> Fraction:
    text = run([tool("ffprobe"), "-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", str(path)])
    try:
        return max(Fraction(text.strip()), Fraction(1, 1000))
    except ValueError:
        return Fraction(1)
