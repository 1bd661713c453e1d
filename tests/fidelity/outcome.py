"""The result of an engine."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path


class Refused(Exception):
    """The engine does not support the file."""


@dataclass(frozen=True, slots=True)
class Outcome:
    segments: tuple[Path, ...]
    final: Path


type Engine = Callable[[Path, Path, Fraction], Outcome]  # source, work folder, segment duration in seconds
