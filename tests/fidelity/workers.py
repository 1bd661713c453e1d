"""What becomes of a source with each kind of segment worker: python -m tests.fidelity.workers [CORPUS_DIR].

Every file goes through both handlers four times: with a worker that changes nothing, with two that re-encode video and
audio, into a file with edit lists and into fragments without, and with one that returns video only. The workers encode
losslessly, so each decoded frame of the final can be compared with that of the source. Prints a table in Markdown.

    segments    wanted (thirds of the duration) and got
    alone       segments that present exactly their frames of the source when decoded alone
    unchanged   the final of the worker that changes nothing: all frames, packets and times
    re-encoded  the final of the worker that re-encodes: all frames and their times; the audio, as decoded
    fragmented  the same of the worker that writes fragments
    video only  the same, and all packets of the other tracks are the source's, at their times
"""

# ruff: noqa: T201 -- a command that prints its findings
from __future__ import annotations

import argparse
import io
import json
import logging
import math
import sys
import tempfile
from array import array
from contextlib import redirect_stdout
from dataclasses import dataclass
from fractions import Fraction
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING

from media_worker.jobs import JobStatus
from moto import mock_aws

from tests.functional.stack import Stack

from .compare import TOLERANCE_S
from .judge import duration_s
from .outcome import Refused
from .probe import ProbeFailed, Stream, Unit, read_streams, run, tool
from .recorders import make_clips

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

PARTS = 3
LOSSLESS = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-qp", "0")
TIMES = ("-fps_mode", "passthrough", "-enc_time_base:v", "demux")
# For video that this build of ffmpeg cannot decode (AV1): packets are compared in place of frames.
COPYING = ("-map", "0:V:0", "-c", "copy", "-copyinkf")
RE_ENCODED = ("-map", "0:V:0", "-map", "0:a?", *TIMES, *LOSSLESS, "-c:a", "aac")
WORKERS: dict[str, tuple[str, ...] | None] = {
    "unchanged": None,
    "re-encoded": RE_ENCODED,
    "fragmented": (*RE_ENCODED, "-movflags", "frag_keyframe+empty_moov"),
    "video only": ("-map", "0:V:0", *TIMES, *LOSSLESS),
}
DECODED = {"re-encoded", "fragmented"}  # the audio of these finals is compared when decoded
# In these containers, tracks need not start at 0, so all tracks of the final may be early by the same time.
STARTS_AT_ZERO = {".mp4", ".mov", ".m4v", ".3gp"}
# Decoded audio is compared at this rate, in blocks of 100 ms. At joins, packets may be early or late by half a packet
# (`concatenate_audio`), so a block is alike if one that is up to 12 ms early or late correlates with it. The pitch
# rises: audio that is 60 ms late does not correlate.
RATE_HZ, BLOCK = 8000, 800
LAGS = sorted(range(-96, 97), key=abs)
ALIKE = 0.8
# What a join of re-encoded audio may cost, in milliseconds: an audio frame that fades in, and one that is padded.
JOIN_MS = 2 * 1024 / 44.1


@dataclass(frozen=True, slots=True)
class Row:
    """The findings on one file. An empty finding means exact."""

    name: str
    segments: int
    alone: int
    finals: dict[str, str]
    notice: str = ""

    @property
    def is_exact(self) -> bool:
        return self.alone == self.segments and not any(self.finals.values())

    def __str__(self) -> str:
        cells = [self.finals.get(worker, "") or "exact" for worker in WORKERS]
        return f"| {self.name} | {PARTS} / {self.segments} | {self.alone} / {self.segments} | {' | '.join(cells)} |"


@dataclass(frozen=True, slots=True)
class Final:
    """What one worker's job left: the segments as they were split, and the final."""

    segments: tuple[Path, ...]
    final: Path
    notice: str


def examine(source: Path, workers: Sequence[str] = tuple(WORKERS)) -> Row:
    """The row of one file."""
    streams = read_streams(source)
    finals: dict[str, str] = {}
    segments = alone = 0
    notice = ""
    for worker in workers:
        with tempfile.TemporaryDirectory() as folder:
            arguments = WORKERS[worker]
            if arguments and not _video(streams).frames:
                if worker in DECODED:
                    finals[worker] = "not decodable here"
                    continue
                arguments = COPYING
            try:
                found = through_handlers(source, Path(folder), arguments)
                finals[worker] = _difference(source, streams, found, worker)
            except (Refused, ProbeFailed) as error:
                finals[worker] = f"failed: {error}"
                continue
            if not segments:
                segments, alone = len(found.segments), _alone(streams, found.segments, found.notice)
                notice = found.notice
    return Row(source.name, segments, alone, finals, notice)


# The product


def through_handlers(source: Path, folder: Path, arguments: tuple[str, ...] | None) -> Final:
    """Upload, split, process each segment with ffmpeg, join."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    logging.disable(logging.CRITICAL)
    try:
        with mock_aws(), redirect_stdout(io.StringIO()):  # the functions print their metrics
            return _run(Stack.create(folder), source, folder, arguments)
    finally:
        tempfile.tempdir = before
        logging.disable(logging.NOTSET)


def _run(stack: Stack, source: Path, folder: Path, arguments: tuple[str, ...] | None) -> Final:
    # Rounded down, so that a sync sample exactly at the boundary is not missed.
    wanted = int(duration_s(source) / PARTS * 1000) / 1000
    stack.add_job(segment_duration_sec={"N": str(wanted)})
    stack.upload(source)
    stack.chunk()
    if stack.job().status is not JobStatus.CHUNKING_COMPLETE:
        raise Refused(stack.job().error or stack.job().status)
    segments = stack.save_segments(folder)

    def process(index: int, body: bytes) -> bytes:
        before, after = folder / f"in-{index}.mp4", folder / f"out-{index}.mp4"
        before.write_bytes(body)
        run([tool("ffmpeg"), "-v", "error", "-threads", "1", "-i", str(before), *(arguments or ()), str(after)])
        return after.read_bytes()

    stack.process_segments(change=process if arguments else None)
    stack.reassemble()
    if stack.job().status is not JobStatus.COMPLETED:
        raise Refused(stack.job().error or stack.job().status)
    notice = stack.row("Jobs").get("notice", {}).get("S", "")
    return Final(tuple(segments), stack.save_final(folder / "final.mp4"), notice)


# Comparing


def _alone(source: Sequence[Stream], segments: Sequence[Path], notice: str) -> int:
    """How many segments present exactly the next frames of the source when decoded alone."""
    expected = [unit.content for unit in _units(source)]
    good = at = 0
    for path in segments:
        found = [unit.content for unit in _units(read_streams(path))]
        good += bool(found) and found == expected[at : at + len(found)]
        at += len(found)
    return good if at == len(expected) or "was cut off" in notice else max(0, good - 1)


def _video(streams: Sequence[Stream]) -> Stream:
    return next(stream for stream in streams if stream.kind == "video")


def _units(streams: Sequence[Stream]) -> Sequence[Unit]:
    """The frames of the video, or its packets if they cannot be decoded."""
    video = _video(streams)
    return video.frames or video.packets


def _difference(source: Path, before: Sequence[Stream], found: Final, worker: str) -> str:
    """What is not exact in a final, or an empty string."""
    after = read_streams(found.final)
    was, now = _units(before), _units(after)
    if "was cut off" in found.notice:
        was = was[: len(now)]  # ffmpeg decodes a part of the last fragment, too
    shift = _shift(source, was, now)
    problems = [_of_units("video", was, now, shift)]
    if worker in DECODED:
        problems += _of_decoded_audio(source, before, found, shift)
    else:
        problems += _of_other_tracks(source, before, after, found, shift)
    return "; ".join(filter(None, problems))


def _shift(source: Path, was: Sequence[Unit], now: Sequence[Unit]) -> Fraction:
    """By how much everything in the final may be late."""
    if source.suffix.lower() in STARTS_AT_ZERO or not was or not now:
        return Fraction(0)
    return (now[0].time_s or Fraction(0)) - (was[0].time_s or Fraction(0))


def _of_units(name: str, was: Sequence[Unit], now: Sequence[Unit], shift: Fraction) -> str:
    if len(was) != len(now):
        return f"{name}: {len(now)} of {len(was)}"
    if changed := sum(a.content != b.content for a, b in zip(was, now, strict=True)):
        return f"{name}: {changed} of {len(was)} differ"
    return _of_times(name, was, now, shift)


def _of_times(name: str, was: Sequence[Unit], now: Sequence[Unit], shift: Fraction) -> str:
    pairs = zip(was, now, strict=True)
    moves = [b.time_s - a.time_s - shift for a, b in pairs if a.time_s is not None and b.time_s is not None]
    worst = max(moves, key=abs, default=Fraction(0))
    return f"{name}: up to {float(worst) * 1000:.1f} ms" if abs(worst) > TOLERANCE_S else ""


def _of_other_tracks(
    source: Path, before: Sequence[Stream], after: Sequence[Stream], found: Final, shift: Fraction
) -> Iterator[str]:
    """Packets of the other tracks. Those that MP4 cannot hold must be named in the job's notice."""
    remaining = [stream for stream in after if stream.kind != "video"]
    number = -1
    for stream in before:
        if stream.kind == "video":
            continue
        number += stream.kind == "audio"
        match = next((each for each in remaining if (each.kind, _codec(each)) == (stream.kind, _codec(stream))), None)
        if match is None:
            yield "" if stream.codec in found.notice else f"{stream.kind} ({stream.codec}) is missing"
            continue
        remaining.remove(match)
        if difference := _of_units(f"{stream.kind} ({stream.codec})", stream.packets, match.packets, shift):
            is_same = stream.kind == "audio" and _pcm(source, number) == _pcm(found.final, number)
            yield "" if is_same else difference
    # Chapters and timecode that other containers have beside the tracks are tracks of an MP4.
    if remaining and (source.suffix in STARTS_AT_ZERO or remaining[0].kind != "data"):
        yield f"{remaining[0].kind} ({remaining[0].codec}) was added"


def _codec(stream: Stream) -> str:
    """PCM may change its byte order. MP4 has one code for all layers of MPEG audio, which ffmpeg takes for MP3."""
    if stream.codec.startswith("pcm_"):
        return "pcm"
    return "mp3" if stream.codec == "mp2" else stream.codec


def _pcm(path: Path, number: int) -> str:
    """The decoded audio of a track."""
    return run([tool("ffmpeg"), "-v", "error", "-i", str(path), "-map", f"0:a:{number}", "-f", "md5", "-"])


def _of_decoded_audio(source: Path, before: Sequence[Stream], found: Final, shift: Fraction) -> Iterator[str]:
    """Every audio track of the final plays the same at the same time, but for the fades at joins."""
    allowed = JOIN_MS * (len(found.segments) + 1)
    for number in range(sum(stream.kind == "audio" for stream in before)):
        was, now = (_samples(path, number, delay) for path, delay in ((source, shift), (found.final, Fraction(0))))
        different = sum(not alike for alike in _blocks(was, now)) * BLOCK * 1000 / RATE_HZ
        lost = (len(was) - len(now)) * 1000 / RATE_HZ
        if different > allowed or abs(lost) > allowed:
            yield f"audio {number}: {different:.0f} ms differ, {lost:.0f} ms lost"


def _samples(path: Path, number: int, delay: Fraction) -> array[int]:
    """The decoded audio from time 0 on, with silence where there is none."""
    chain = f"asetpts=PTS+{float(delay):.6f}/TB,aresample={RATE_HZ}:async=1:first_pts=0"
    pcm = path.with_name(f"{path.name}-{number}.pcm") if path.name == "final.mp4" else None
    with tempfile.TemporaryDirectory() as folder:
        target = pcm or Path(folder) / "audio.pcm"
        command = [tool("ffmpeg"), "-v", "error", "-y", "-copyts", "-i", str(path), "-map", f"0:a:{number}"]
        run([*command, "-af", chain, "-ac", "1", "-f", "s16le", str(target)])
        samples = array("h")
        samples.frombytes(target.read_bytes())
    return samples


def _blocks(was: array[int], now: array[int]) -> Iterator[bool]:
    """For each block, whether both play the same."""
    power = BLOCK * 100.0  # of a block that is silent
    for at in range(LAGS[-1], min(len(was), len(now)) - BLOCK - LAGS[-1], BLOCK):
        one = was[at : at + BLOCK]
        if sum(map(mul, one, one)) < power:
            yield True
            continue
        yield any(_correlation(one, now[at + lag : at + lag + BLOCK]) > ALIKE for lag in LAGS)


def _correlation(one: array[int], other: array[int]) -> float:
    power = math.sqrt(sum(map(mul, one, one)) * sum(map(mul, other, other)))
    return sum(map(mul, one, other)) / power if power else 0.0


# The table


def _rows(paths: Sequence[Path], tell: Callable[[str], None]) -> Iterator[Row]:
    tell("| clip | segments wanted / got | decode alone | " + " | ".join(WORKERS) + " |")
    tell("|---|---|---|" + "---|" * len(WORKERS))
    for path in paths:
        try:
            row = examine(path)
        except (ProbeFailed, StopIteration, json.JSONDecodeError) as error:
            tell(f"| {path.name} | not a video: {error} | | | | |")
            continue
        tell(str(row))
        yield row


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fidelity.workers", description=__doc__)
    parser.add_argument("corpus", type=Path, nargs="?", help="a folder of videos (default: clips of many recorders)")
    parser.add_argument("--only", default="", help="only files whose name contains this")
    options = parser.parse_args()
    paths = sorted(options.corpus.iterdir()) if options.corpus else make_clips(Path(".cache/recorders"))
    rows = list(_rows([path for path in paths if options.only in path.name], lambda line: print(line, flush=True)))
    print(f"\n{sum(row.is_exact for row in rows)} of {len(rows)} are exact. Notices:\n")
    for row in rows:
        if row.notice:
            print(f"- {row.name}: {row.notice}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
