"""What either way of joining answers, for the one writer behind both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .boxes import Box
    from .edits import Edit
    from .tables import SampleTable


@dataclass(frozen=True, slots=True)
class JointTrack:
    """One track of the joined film: its samples as one table per segment, still at their places there."""

    box: Box
    timescale: int
    descriptions: tuple[Box, ...]
    edits: tuple[Edit, ...]
    tables: tuple[SampleTable, ...]


@dataclass(frozen=True, slots=True)
class Joint:
    """The joined film before anything has a place in a file."""

    box: Box
    timescale: int
    tracks: tuple[JointTrack, ...]
