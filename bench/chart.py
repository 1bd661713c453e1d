"""The figures as a picture: bars of seconds, a group for each size, a panel for each step. Plain SVG."""

from collections.abc import Mapping, Sequence
from typing import Any

_COLOURS = {"plain": "#b0b0b0", "ffmpeg": "#4c78a8", "copy": "#e45756", "bound": "#72b7b2", "server": "#eeca3b"}
_WIDTH, _HEIGHT, _LEFT, _TOP = 760, 300, 60, 40
_BAR, _GAP = 24, 40


def draw(rows: Sequence[Mapping[str, Any]]) -> str:
    """Both panels, one above the other."""
    panels = [_panel([row for row in rows if row["step"] == step], step, n) for n, step in enumerate(("split", "join"))]
    size = f'width="{_WIDTH}" height="{2 * _HEIGHT + _TOP}"'
    style = '<style>text{font:12px sans-serif;fill:#333}</style><rect width="100%" height="100%" fill="#fff"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{style}{_legend()}{"".join(panels)}</svg>\n'


def _legend() -> str:
    entries = [
        f'<rect x="{_LEFT + n * 100}" y="12" width="12" height="12" fill="{colour}"/>'
        f'<text x="{_LEFT + n * 100 + 18}" y="22">{way}</text>'
        for n, (way, colour) in enumerate(_COLOURS.items())
    ]
    return "".join(entries)


def _panel(rows: Sequence[Mapping[str, Any]], step: str, number: int) -> str:
    base = _TOP + (number + 1) * _HEIGHT - 40
    scale = (_HEIGHT - 80) / max((row["seconds"] for row in rows), default=1)
    parts = [f'<text x="10" y="{base - _HEIGHT + 60}">{step}: seconds</text>']
    x = _LEFT
    for size in sorted({row["gb"] for row in rows}):
        group = [row for row in rows if row["gb"] == size]
        parts.append(f'<text x="{x}" y="{base + 18}">{size:g} GB</text>')
        for row in group:
            height = row["seconds"] * scale
            parts.append(
                f'<rect x="{x}" y="{base - height:.1f}" width="{_BAR}" height="{height:.1f}" '
                f'fill="{_COLOURS[row["way"]]}"/><text x="{x}" y="{base - height - 4:.1f}">{row["seconds"]:.1f}</text>'
            )
            x += _BAR + 8
        x += _GAP
    return "".join(parts)
