"""Fragmented files: sample tables spread over `moof` boxes (ISO/IEC 14496-12, 8.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .boxes import Box
from .errors import Unsupported
from .source import Window

if TYPE_CHECKING:
    from .movie import Track


def has_fragments(moov: Box) -> bool:
    return moov.find(b"mvex") is not None


def add_fragments(
    window: Window, moov: Box, tracks: tuple[Track, ...], offset: int, movie_timescale: int
) -> tuple[Track, ...]:
    raise Unsupported("a fragmented file")
