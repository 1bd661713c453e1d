"""Chapters of real files: ffmpeg as the worker, and as the player."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from media_worker.mp4 import plan_join

from tests.fidelity.engines import read_file, split_file
from tests.fidelity.probe import run, tool

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

CHAPTERS_MS = {"One": 0, "Two": 3000, "Three": 9500, "Four": 12_000, "Five": 13_333}
REENCODED = ("-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac")


def chapters(path: Path) -> dict[str, int]:
    """Titles and start times in milliseconds. Fails if a title occurs twice."""
    found = json.loads(run([tool("ffprobe"), "-v", "error", "-show_chapters", "-of", "json", str(path)]))["chapters"]
    times = {each["tags"]["title"]: round(float(each["start_time"]) * 1000) for each in found}
    assert len(times) == len(found)
    return times


@pytest.fixture(scope="module", params=["both", "track", "list"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 s with five chapters: in a chapter track and a list (as ffmpeg writes them), or in one of both."""
    folder = tmp_path_factory.mktemp("chapters")
    ends = [*list(CHAPTERS_MS.values())[1:], 20_000]
    (folder / "chapters.txt").write_text(
        ";FFMETADATA1\n"
        + "".join(
            f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={start}\nEND={end}\ntitle={title}\n"
            for (title, start), end in zip(CHAPTERS_MS.items(), ends, strict=True)
        )
    )
    path = folder / "source.mp4"
    media = ("-f", "lavfi", "-i", "testsrc2=s=64x48:r=30", "-f", "lavfi", "-i", "sine=r=48000")
    listed = ("-i", str(folder / "chapters.txt"), "-map_chapters", "2", "-t", "20", "-g", "30")
    run([tool("ffmpeg"), "-v", "error", *media, *listed, *REENCODED, str(path)])
    hidden = {"both": b"", "track": b"chpl", "list": b"chap"}[request.param]
    path.write_bytes(path.read_bytes().replace(hidden, b"free") if hidden else path.read_bytes())
    assert chapters(path) == CHAPTERS_MS
    return path


def join(segments: Sequence[Path], final: Path) -> Path:
    layout = plan_join([read_file(path) for path in segments])
    media = [path.read_bytes() for path in segments]
    final.write_bytes(layout.header + b"".join(media[each.source][each.offset : each.end] for each in layout.ranges))
    return final


@pytest.mark.timeout(120)
def test_each_chapter_is_in_one_segment(source: Path, tmp_path: Path) -> None:
    """The segment in which it starts, at its time there. Unchanged segments restore the chapters of the source."""
    segments = split_file(source, tmp_path, Fraction(5))
    assert [chapters(path) for path in segments] == [
        {"One": 0, "Two": 3000},
        {"Three": 4500},
        {"Four": 2000, "Five": 3333},
        {},
    ]
    assert chapters(join(segments, tmp_path / "final.mp4")) == CHAPTERS_MS


@pytest.mark.timeout(120)
def test_workers_that_copy_chapters_do_not_repeat_them(source: Path, tmp_path: Path) -> None:
    """The chapters of its input, in the case of ffmpeg. The final has each of them once, at its time."""
    processed = []
    for path in split_file(source, tmp_path, Fraction(5)):
        processed.append(path.with_name(f"processed_{path.name}"))
        run([tool("ffmpeg"), "-v", "error", "-i", str(path), *REENCODED, str(processed[-1])])
    assert chapters(join(processed, tmp_path / "final.mp4")) == CHAPTERS_MS
