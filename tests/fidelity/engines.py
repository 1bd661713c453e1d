"""The engines to judge: each is a function from a source to its segments and the final."""

from __future__ import annotations

from typing import TYPE_CHECKING

from media_worker.mp4 import Movie, Mp4Error, lay_out, plan_join, plan_split, read_movie
from media_worker.mp4.provenance import PROVENANCE_UUID

from .handlers import auto_engine, ffmpeg_engine
from .outcome import Engine, Outcome, Refused
from .probe import ProbeFailed, run, tool

if TYPE_CHECKING:
    from fractions import Fraction
    from pathlib import Path

    from media_worker.mp4 import Read


def reader(path: Path) -> Read:
    """Ranged reads of a local file, as S3 would answer them."""

    def read(offset: int, length: int) -> bytes:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    return read


def read_file(path: Path) -> Movie:
    return read_movie(reader(path), path.stat().st_size)


def split_file(source: Path, folder: Path, segment_duration_s: Fraction) -> tuple[Path, ...]:
    """Split a local file with the copy engine."""
    movie = read_file(source)
    plan = plan_split(movie, segment_duration_s)
    read = reader(source)
    paths = []
    for index in range(plan.total_segments):
        layout = lay_out(movie, plan, index)
        paths.append(folder / f"{index}.mp4")
        with paths[-1].open("wb") as file:
            file.write(layout.header)
            file.writelines(read(each.offset, each.length) for each in layout.ranges)
    return tuple(paths)


def join_files(segments: tuple[Path, ...], final: Path) -> Path:
    """Join local segments with the copy engine."""
    layout = plan_join([read_file(path) for path in segments])
    reads = [reader(path) for path in segments]
    with final.open("wb") as file:
        file.write(layout.header)
        file.writelines(reads[each.source](each.offset, each.length) for each in layout.ranges)
    return final


def copy_engine(source: Path, folder: Path, segment_duration_s: Fraction) -> Outcome:
    try:
        segments = split_file(source, folder, segment_duration_s)
        return Outcome(segments, join_files(segments, folder / "final.mp4"))
    except Mp4Error as error:
        raise Refused(str(error)) from error


def concat_engine(source: Path, folder: Path, segment_duration_s: Fraction) -> Outcome:
    """The copy engine without the provenance in its segments: they are joined by their own times alone."""
    try:
        segments = split_file(source, folder, segment_duration_s)
        for path in segments:
            data = path.read_bytes()
            path.write_bytes(data.replace(b"uuid" + PROVENANCE_UUID, b"free" + PROVENANCE_UUID))
        return Outcome(segments, join_files(segments, folder / "final.mp4"))
    except Mp4Error as error:
        raise Refused(str(error)) from error


def remux_engine(source: Path, folder: Path, segment_duration_s: Fraction) -> Outcome:
    """Each segment goes through `ffmpeg -c copy` before the join, as a worker does with tracks that it does not
    change.
    """
    try:
        segments = split_file(source, folder, segment_duration_s)
        remuxed = []
        for path in segments:
            remuxed.append(path.with_name(f"remuxed_{path.name}"))
            argv = [tool("ffmpeg"), "-v", "error", "-i", str(path), "-map", "0", "-ignore_unknown", "-c", "copy"]
            run([*argv, "-strict", "-2", str(remuxed[-1])])
        return Outcome(segments, join_files(tuple(remuxed), folder / "final.mp4"))
    except (Mp4Error, ProbeFailed) as error:
        raise Refused(str(error)) from error


def plain_engine(source: Path, folder: Path, segment_duration_s: Fraction) -> Outcome:
    """Segments made by ffmpeg (`-f segment`), joined by the copy engine."""
    argv = [tool("ffmpeg"), "-v", "error", "-i", str(source), "-map", "0", "-ignore_unknown", "-c", "copy"]
    cut = ["-f", "segment", "-segment_time", f"{float(segment_duration_s):.6f}", "-reset_timestamps", "1"]
    try:
        run([*argv, *cut, "-strict", "-2", str(folder / "%05d.mp4")])
        segments = tuple(sorted(folder.glob("*.mp4")))
        return Outcome(segments, join_files(segments, folder / "final.mp4"))
    except (Mp4Error, ProbeFailed) as error:
        raise Refused(str(error)) from error


ENGINES: dict[str, Engine] = {"auto": auto_engine, "copy": copy_engine, "ffmpeg": ffmpeg_engine}
# Joins of remuxed or other segments. These are not engines of the product.
TRIALS: dict[str, Engine] = {"concat": concat_engine, "remux": remux_engine, "plain": plain_engine}
