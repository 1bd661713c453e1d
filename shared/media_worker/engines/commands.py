"""ffmpeg's command lines and what its output says: pure functions.

The media is somebody else's, so ffmpeg gets only the `file` protocol and only real containers: no playlist or concat
script can name another file.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest

from media_worker.engines.cuts import Frame, Plan
from media_worker.errors import BadSource

# Demuxers of containers that hold their own media. Never hls, concat, dash, image2, sdp or the like.
CONTAINERS = "mov,matroska,mpegts,mpeg,avi,flv,asf,mxf,ogg,ivf,wav"
# What cover art is stored as; a real video track may be, too.
PICTURE_CODECS = frozenset({"mjpeg", "png", "bmp", "gif", "webp"})
# Leaves out what the container itself calls a cover.
NO_COVERS = ("-map", "-0:disp:attached_pic")
# AV_NOPTS_VALUE, as framecrc prints it.
_NO_TIME = "-9223372036854775808"
_BEGIN = ("-hide_banner", "-nostdin", "-nostats", "-v", "error", "-y")
_LOCAL_FILES = ("-protocol_whitelist", "file")
# Negative times stay as they are and become edit lists: shifting them to zero, which is ffmpeg's default, moves a
# whole segment by its audio's priming.
_KEEP_TIMES = ("-avoid_negative_ts", "disabled")


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


def trial_command(ffmpeg: str, name: str, maps: Sequence[str], trial_name: str) -> list[str]:
    """Write an MP4 header for some tracks and nothing else: fails when an MP4 cannot hold them."""
    return [*_input(ffmpeg, name), *maps, "-c", "copy", "-t", "0", "-f", "mp4", trial_name]


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
    maps = ["-map", "0", *NO_COVERS]
    for track in media.left_out:
        maps += ["-map", f"-0:{track.index}"]
    return maps


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
