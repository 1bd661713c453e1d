"""The chart: seconds by the size of the source, a line for each way, a panel for each step."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

_COLOURS = {
    "plain": "#8c8c8c",
    "ffmpeg": "#4c78a8",
    "mkv": "#b279a2",
    "bound": "#72b7b2",
    "copy": "#e45756",
    "fragmented": "#54a24b",
    "audio": "#ff9da6",
    "server": "#eeca3b",
    "minimum": "#9d755d",
}


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the chart in the format of the file's suffix."""
    mpl.rcParams["svg.hashsalt"] = "media-worker"  # the same figures give the same file
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, step in zip(figure.subplots(1, 2, sharey=True), ("split", "join"), strict=True):
        for way, colour in _COLOURS.items():
            points = sorted((row["gb"], row["seconds"]) for row in rows if (row["step"], row["way"]) == (step, way))
            if not points:
                continue  # not measured, or the same as another
            axes.plot(*zip(*points, strict=True), label=way, color=colour, marker="o")
        axes.set_title(step)
        axes.set_xlabel("source, GB")
        axes.set_xticks(sorted({row["gb"] for row in rows}))
        axes.set_ylim(bottom=0)
        axes.grid(visible=True, alpha=0.3)
    figure.axes[0].set_ylabel("seconds")
    figure.axes[1].legend()  # the split of `audio` is not measured
    figure.savefig(path, metadata={"Date": None})
