"""ffmpeg: the command lines (pure), and running them on hostile input.

The media is somebody else's, so ffmpeg gets an empty environment (no credentials), no stdin, only the `file`
protocol, only real containers (no playlist or concat script can name another file), a wall clock limit, and limits of
address space, CPU time and file size.
"""

import errno
import math
import os
import re
import resource
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path

from media_worker.deadline import Deadline
from media_worker.errors import BadSource, FfmpegFailed, FfmpegStopped
from media_worker.plan import Frame, Plan

# Demuxers of containers that hold their own media. Never hls, concat, dash, image2, sdp or the like.
CONTAINERS = "mov,matroska,mpegts,mpeg,avi,flv,asf,mxf,ogg,ivf,wav"
# Copying takes 64 MiB; an index of a day's film takes a few hundred. A static ffmpeg maps little beside, on either
# architecture.
_MEMORY_BYTES = 1024 * 1024 * 1024
_FILE_MARGIN_BYTES = 64 * 1024 * 1024
_STDERR_LINES = 20
_STDERR_LINE_CHARS = 500
# ffmpeg's exit code is the low byte of its negative error number.
_NO_SPACE = -errno.ENOSPC & 0xFF
# AV_NOPTS_VALUE, as framecrc prints it.
_NO_TIME = "-9223372036854775808"
_BEGIN = ("-hide_banner", "-nostdin", "-nostats", "-v", "error", "-y")
_LOCAL_FILES = ("-protocol_whitelist", "file")
# Negative times stay as they are and become edit lists: shifting them to zero, which is ffmpeg's default, moves a
# whole segment by its audio's priming.
_KEEP_TIMES = ("-avoid_negative_ts", "disabled")
_NO_COVERS = ("-map", "-0:disp:attached_pic")


@dataclass(frozen=True, slots=True)
class Track:
    """One track of a file, as ffmpeg describes it."""

    index: int
    kind: str = "unknown"
    codec: str = "unknown"
    # What else has to be the same for two files to be joined: picture size, sample rate, channel layout.
    shape: str = ""

    def __str__(self) -> str:
        """For logs and errors: `track 1 (audio, aac, 48000 Hz stereo)`."""
        return f"track {self.index} ({', '.join(part for part in (self.kind, self.codec, self.shape) if part)})"


@dataclass(frozen=True, slots=True)
class Media:
    """The tracks of a file, and which of them an MP4 cannot hold."""

    tracks: tuple[Track, ...]
    left_out: tuple[Track, ...] = ()

    @property
    def kept(self) -> tuple[Track, ...]:
        """The tracks that travel on."""
        return tuple(track for track in self.tracks if track not in self.left_out)


def probe_command(ffmpeg: str, name: str) -> list[str]:
    """List the tracks without reading media: the header of the framecrc format is made for programs."""
    return [*_input(ffmpeg, name), "-copy_unknown", "-map", "0", "-c", "copy", "-t", "0", "-f", "framecrc", "-"]


def trial_command(ffmpeg: str, name: str, maps: Sequence[str]) -> list[str]:
    """Write an MP4 header for some tracks and nothing else: fails when an MP4 cannot hold them."""
    return [*_input(ffmpeg, name), *maps, "-c", "copy", "-t", "0", "-f", "mp4", "trial.mp4"]


def frames_command(ffmpeg: str, name: str) -> list[str]:
    """List the frames of the first real video track, one line each. Fails on a truncated file (-xerror): the second
    output makes it read every track, as the split will.
    """
    return [
        *(*_input(ffmpeg, name, "-xerror"), "-map", "0:V:0", "-c", "copy", "-f", "framecrc", "-"),
        *("-map", "0", "-copy_unknown", "-c", "copy", "-f", "null", "-"),
    ]


def split_command(ffmpeg: str, name: str, media: Media, plan: Plan) -> list[str]:
    """Cut at the plan's frames into 00000.mp4, 00001.mp4, ...; each is named on stdout when it is complete."""
    # Without a cut, one that no file reaches: the muxer would otherwise cut every two seconds.
    cuts = ",".join(map(str, plan.cuts)) or str(plan.frame_count + 1)
    return [
        *_input(ffmpeg, name, "-xerror"),
        *_kept_maps(media),
        *("-ignore_unknown", "-c", "copy", *_KEEP_TIMES),
        *("-f", "segment", "-segment_frames", cuts, "-reset_timestamps", "1"),
        *("-segment_format", "mp4", "-segment_list", "pipe:1", "-segment_list_type", "flat"),
        "%05d.mp4",
    ]


def join_command(ffmpeg: str, list_name: str, media: Media, final_name: str) -> list[str]:
    """Join the files of a concat list that we wrote, with the movie header in front (fast start)."""
    return [
        *(ffmpeg, *_BEGIN, "-copyts", *_LOCAL_FILES, "-format_whitelist", f"concat,{CONTAINERS}"),
        *("-f", "concat", "-safe", "1", "-i", list_name),
        *_kept_maps(media),
        *("-ignore_unknown", "-c", "copy", *_KEEP_TIMES, "-movflags", "+faststart", "-f", "mp4", final_name),
    ]


def concat_list(names: Sequence[str], durations_s: Sequence[Fraction]) -> str:
    """The list for the concat demuxer. Each file but the last has the duration after which the next one begins.

    The demuxer's own choice, the longest track of each file, would add the sound's overhang at every join.
    """
    lines = ["ffconcat version 1.0"]
    for name, duration_s in zip_longest(names, durations_s):
        lines.append(f"file '{name}'")
        if duration_s is not None:
            lines.append(f"duration {float(duration_s):.6f}")
    return "\n".join(lines) + "\n"


def _input(ffmpeg: str, name: str, *flags: str) -> list[str]:
    return [ffmpeg, *_BEGIN, *flags, *_LOCAL_FILES, "-format_whitelist", CONTAINERS, "-i", name]


def _kept_maps(media: Media) -> list[str]:
    maps = ["-map", "0", *_NO_COVERS]
    for track in media.left_out:
        maps += ["-map", f"-0:{track.index}"]
    return maps


@dataclass(frozen=True, slots=True)
class Ffmpeg:
    """Runs ffmpeg in a work directory, until the deadline at most."""

    path: str
    directory: Path
    deadline: Deadline

    def probe(self, name: str) -> Media:
        """The tracks of a file, and which of them an MP4 cannot hold.

        Raises:
            FfmpegFailed: this is no media file of a container that we take.
        """
        tracks = parse_tracks(self.run(probe_command(self.path, name)))
        if self._mp4_holds(name, ("-map", "0", *_NO_COVERS)):
            covers = [track for track in tracks if track.kind == "video" and self._is_cover(name, track)]
            return Media(tracks, tuple(covers))
        refused = [track for track in tracks if not self._mp4_holds(name, ("-map", f"0:{track.index}", *_NO_COVERS))]
        return Media(tracks, tuple(refused))

    def frames(self, name: str) -> Iterator[Frame]:
        """The frames of the first video track, in decoding order.

        Raises:
            FfmpegFailed: there is no video track, or the file is damaged.
        """
        with self.running(frames_command(self.path, name)) as process:
            yield from parse_frames(process.lines())

    def run(self, argv: Sequence[str]) -> str:
        """Run a command to its end; what it printed."""
        with self.running(argv) as process:
            return "\n".join(process.lines())

    @contextmanager
    def running(self, argv: Sequence[str]) -> Iterator["Process"]:
        """Run a command beside the body; at the end of the body it is waited for, after an error it is killed.

        Raises:
            FfmpegFailed: it ended with an exit code.
            FfmpegStopped: a signal, the clock or a full disk ended it.
        """
        process = Process(argv, self.directory, self.deadline.remaining_s())
        try:
            yield process
            process.finish()
        finally:
            process.close()

    def _mp4_holds(self, name: str, maps: Sequence[str]) -> bool:
        try:
            self.run(trial_command(self.path, name, maps))
        except FfmpegFailed:
            return False
        finally:
            (self.directory / "trial.mp4").unlink(missing_ok=True)
        return True

    def _is_cover(self, name: str, track: Track) -> bool:
        return track.codec in _PICTURE_CODECS and not self._mp4_holds(name, ("-map", f"0:{track.index}", *_NO_COVERS))


# What cover art is stored as; a real video track may be, too.
_PICTURE_CODECS = frozenset({"mjpeg", "png", "bmp", "gif", "webp"})


@dataclass(slots=True)
class Process:
    """A running ffmpeg."""

    argv: Sequence[str]
    directory: Path
    limit_s: float
    _stderr: deque[str] = field(default_factory=lambda: deque(maxlen=_STDERR_LINES))
    _timed_out: bool = False
    _popen: "subprocess.Popen[str]" = field(init=False)
    _reader: threading.Thread = field(init=False)
    _clock: threading.Timer = field(init=False)

    def __post_init__(self) -> None:
        self._popen = subprocess.Popen(  # no shell; the names in argv are ours
            self.argv,
            cwd=self.directory,
            env={},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._limit()
        self._reader = threading.Thread(target=self._read_stderr, daemon=True)
        self._reader.start()
        self._clock = threading.Timer(self.limit_s, self._time_out)
        self._clock.daemon = True
        self._clock.start()

    def _limit(self) -> None:
        """Set what it may use. After its start, not in `preexec_fn`: that is not safe beside threads."""
        cpu_s = math.ceil(self.limit_s) * (os.cpu_count() or 1)  # ends it also when we are not there any more
        limits = {
            resource.RLIMIT_AS: _MEMORY_BYTES,
            resource.RLIMIT_CPU: max(1, cpu_s),
            resource.RLIMIT_FSIZE: self._most_bytes(),
            resource.RLIMIT_CORE: 0,
        }
        with suppress(ProcessLookupError):  # it has ended
            for kind, most in limits.items():
                resource.prlimit(self._popen.pid, kind, (most, most))

    def _most_bytes(self) -> int:
        """No file that copies packets is larger than what is there to copy, unless its tables name bytes repeatedly."""
        return 2 * sum(path.stat().st_size for path in self.directory.iterdir()) + _FILE_MARGIN_BYTES

    def lines(self) -> Iterator[str]:
        """What it prints, line by line, as it comes."""
        assert self._popen.stdout
        for line in self._popen.stdout:
            yield line.rstrip("\n")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Hold it still while the body runs, so that it does not fill the disk."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def finish(self) -> None:
        """Wait for its end, and raise what went wrong."""
        code = self._popen.wait()
        self._reader.join()
        tail = "\n".join(self._stderr)
        if self._timed_out:
            raise FfmpegStopped(f"ffmpeg did not end within {self.limit_s:.0f} s and was killed: {tail}")
        if -code == signal.SIGXFSZ:
            raise FfmpegFailed(self.argv, code, "it would write far more than the media holds")
        if code < 0:
            raise FfmpegStopped(f"ffmpeg was killed by {signal.Signals(-code).name}: {tail}")
        if code == _NO_SPACE:
            raise FfmpegStopped(f"ffmpeg had no room to write: {tail}")
        if code > 0:
            raise FfmpegFailed(self.argv, code, tail)

    def close(self) -> None:
        """Leave nothing running."""
        self._clock.cancel()
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait()
        self._reader.join()
        for stream in (self._popen.stdout, self._popen.stderr):
            if stream:
                stream.close()

    def _read_stderr(self) -> None:
        assert self._popen.stderr
        # readline with a limit: a line of a hostile file's making may be endless.
        while line := self._popen.stderr.readline(_STDERR_LINE_CHARS):
            if text := line.strip():
                self._stderr.append(text)

    def _time_out(self) -> None:
        self._timed_out = True
        self._popen.kill()

    def _signal(self, number: signal.Signals) -> None:
        if self._popen.poll() is None:
            self._popen.send_signal(number)


_HEADER = re.compile(r"#(?P<name>[a-z_]+) (?P<index>\d+): +(?P<value>.*)")


def parse_tracks(framecrc: str) -> tuple[Track, ...]:
    """The tracks in the header of ffmpeg's framecrc format."""
    found: dict[int, dict[str, str]] = {}
    for line in framecrc.splitlines():
        if match := _HEADER.fullmatch(line):
            found.setdefault(int(match["index"]), {})[match["name"]] = match["value"]
    return tuple(
        Track(
            index,
            kind=entries.get("media_type", "unknown"),
            codec=entries.get("codec_id", "unknown"),
            shape=_shape(entries),
        )
        for index, entries in sorted(found.items())
        if "tb" in entries
    )


def _shape(entries: dict[str, str]) -> str:
    if "dimensions" in entries:
        return entries["dimensions"]
    if "sample_rate" in entries:
        return f"{entries['sample_rate']} Hz {entries.get('channel_layout_name', '')}".strip()
    return ""


def parse_frames(lines: Iterator[str]) -> Iterator[Frame]:
    """The frames in ffmpeg's framecrc format: `stream, dts, pts, duration, size, crc[, F=flags]`, times in `#tb`.

    Raises:
        BadSource: a frame has no time, as in an AVI with B-frames.
    """
    time_base = Fraction(1)
    for line in lines:
        if line.startswith("#"):
            if (match := _HEADER.fullmatch(line)) and match["name"] == "tb":
                time_base = Fraction(match["value"])
            continue
        columns = line.split(",")
        # No flags column means just the keyframe flag, bit 0.
        flags = next((column.strip() for column in columns[6:] if column.strip().startswith("F=")), "F=0x1")
        if _NO_TIME in {column.strip() for column in columns[1:3]}:
            raise BadSource("the container does not say when each picture is presented; convert it before the upload")
        dts, pts, duration = (int(column) * time_base for column in columns[1:4])
        yield Frame(dts, pts, duration, is_keyframe=bool(int(flags.removeprefix("F="), 0) & 1))
