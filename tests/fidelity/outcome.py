"""What an engine that is judged gives back."""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path


class Refused(Exception):
    """The engine does not take this file."""


@dataclass(frozen=True, slots=True)
class Outcome:
    segments: tuple[Path, ...]
    final: Path


type Engine = Callable[[Path, Path, Fraction], Outcome]  # source, folder to work in, segment duration in seconds
