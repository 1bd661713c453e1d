"""ffmpeg's command lines, and what its output says. Pure.

The media is untrusted, so ffmpeg gets one protocol, for one input, and only demuxers of real containers: no
playlist or concat script can name another file. Negative times stay as they are and become edit lists: shifting them
to zero, which is ffmpeg's default, moves the video by the priming of the audio.
"""

import re
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

# Demuxers of containers that hold their own media. Never hls, concat, dash, image2, sdp or the like.
CONTAINERS = "mov,matroska,mpegts,mpeg,avi,flv,asf,mxf,ogg,ivf,wav,dv"
# What cover art is stored as; a real video track may be, too.
IMAGE_CODECS = frozenset({"mjpeg", "png", "bmp", "gif", "webp"})
# ffmpeg writes these to an MP4 in a way of its own, which hardly another program reads.
NONSTANDARD_CODECS = frozenset({"vorbis"})
# Codecs of editing and archives that a QuickTime file can hold and an MP4 cannot. Both have the same structure.
QUICKTIME_CODECS = frozenset({"cfhd", "dnxhd", "dvvideo", "ffvhuff", "huffyuv", "prores", "rawvideo", "v210"})
# Codecs whose presentation times ffmpeg can work out where the container has decode times only. With H.264 and HEVC,
# whose B-frames may be references, it gets them wrong.
PREDICTABLE_CODECS = frozenset({"mpeg1video", "mpeg2video", "mpeg4"})
# AV_NOPTS_VALUE, as framecrc prints it.
_NO_TIME = -(1 << 63)
_KEY = 1  # AV_PKT_FLAG_KEY
_DISCARD = 4  # AV_PKT_FLAG_DISCARD: decoded, not presented
_HEAD = 1024
# TrueHD in MP4 is specified by Dolby, and still experimental in ffmpeg.
_EXPERIMENTAL = ("-strict", "experimental")
# Decode times are computed again from the presentation times (`exact_times`). Here they only have to increase, and not
# be later than the presentation times. Those of some writers do not increase, nor do those that ffmpeg guesses. Packets
# without a presentation time keep their decode time: in AVI and ASF files without B-frames, they are presented then.
_EARLY_DECODE_TIMES = "setts=pts=PTS:dts=if(eq(PTS\\,NOPTS)\\,DTS\\,max(DTS-1/TB\\,PREV_OUTDTS+1))"
# Where two recordings were put together, the last audio packet of the first may overlap with those of the second, and a
# recording may start inside an audio packet. Then packets follow as closely as they can (2 ticks, because those of the
# MP4 are longer), but not those that start over 100 ms earlier. In milliseconds, short packets have equal times.
_LATER = "if(between(PREV_OUT{0}-{0}\\,gt(TB\\,0.0005)\\,0.1/TB)\\,PREV_OUT{0}+2\\,{0})"
_INCREASING_TIMES = f"setts=pts={_LATER.format('PTS')}:dts={_LATER.format('DTS')}"
# Leaves out what the container itself calls a cover.
_NO_COVERS = ("-map", "-0:disp:attached_pic")


@dataclass(frozen=True, slots=True)
class Track:
    """One track of a file, as ffmpeg describes it."""

    index: int
    kind: str = "unknown"
    codec: str = "unknown"
    # Frame size, or sample rate and channels.
    shape: str = ""

    def __str__(self) -> str:
        """For logs and errors: `track 1 (audio, aac, 48000 Hz stereo)`."""
        return f"track {self.index} ({', '.join(part for part in (self.kind, self.codec, self.shape) if part)})"


@dataclass(frozen=True, slots=True)
class Tracks:
    """The tracks of a file: those that are copied, and those that are left out."""

    kept: tuple[Track, ...]
    covers: tuple[Track, ...] = ()
    # The file cannot hold these.
    refused: tuple[Track, ...] = ()

    @property
    def muxer(self) -> str:
        """The muxer for the file."""
        return muxer_for(self.kept + self.refused)


def probe_command(ffmpeg: str, name: str) -> list[str]:
    """List the tracks without reading media: the header of the framecrc format is made for programs."""
    return [*_input(ffmpeg, name), "-copy_unknown", "-map", "0", "-c", "copy", "-t", "0", "-f", "framecrc", "-"]


def muxer_for(tracks: Iterable[Track]) -> str:
    """The muxer of ffmpeg that writes these tracks: MP4, or QuickTime if one of them needs it."""
    return "mov" if any(track.codec in QUICKTIME_CODECS for track in tracks) else "mp4"


def trial_command(ffmpeg: str, name: str, muxer: str, trial_name: str, track: Track | None = None) -> list[str]:
    """Write a header for one track or all and nothing else: fails when the file cannot hold them, or for a cover."""
    maps = ("-map", "0" if track is None else f"0:{track.index}")
    return [*_input(ffmpeg, name), *maps, *_NO_COVERS, "-c", "copy", "-t", "0", *_EXPERIMENTAL, "-f", muxer, trial_name]


def unpack_command(ffmpeg: str, name: str, output_name: str) -> list[str]:
    """Copy an AVI file, with each frame of MPEG-4 video in a packet of its own."""
    copied = ("-map", "0", "-c", "copy", "-bsf:v", "mpeg4_unpack_bframes")
    return [*_input(ffmpeg, name, "-xerror"), *copied, "-f", "avi", output_name]


def remux_command(ffmpeg: str, name: str, kept: Sequence[Track], output_name: str) -> list[str]:
    """Copy the packets of these tracks into an MP4, and print the times of each. Fails on a damaged file (-xerror)."""
    flags = ["-xerror"]
    if any(track.codec in PREDICTABLE_CODECS for track in kept):
        flags += ["-fflags", "+genpts"]
    copied: list[str] = []
    for number, track in enumerate(kept):
        copied += ["-map", f"0:{track.index}"]
        # ffmpeg leaves out packets before the first key frame. GStreamer's Matroska muxer marks no audio packet as one.
        # The first times of an MPEG program stream are unknown, so there, they stay left out.
        if track.codec not in PREDICTABLE_CODECS:
            copied.append(f"-copyinkf:{number}")
        if track.kind == "video":
            # DivX writes two frames in one packet.
            filters = ["mpeg4_unpack_bframes"] if track.codec == "mpeg4" else []
            copied += [f"-bsf:{number}", ",".join([*filters, _EARLY_DECODE_TIMES])]
        if track.kind == "audio":
            copied += [f"-bsf:{number}", _INCREASING_TIMES]
    copied += ["-c", "copy", "-avoid_negative_ts", "disabled", *_EXPERIMENTAL]
    return [*_input(ffmpeg, name, *flags), *copied, "-f", muxer_for(kept), output_name, *copied, "-f", "framecrc", "-"]


def _input(ffmpeg: str, name: str, *flags: str) -> list[str]:
    protocol = "pipe" if name.startswith("pipe:") else "file"
    return [
        *(ffmpeg, "-hide_banner", "-nostdin", "-nostats", "-v", "error", "-y", *flags),
        *("-protocol_whitelist", protocol, "-format_whitelist", CONTAINERS, "-i", name),
    ]


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


@dataclass(slots=True)
class PacketTimes:
    """The times of a track's packets, in ticks of `time_base` seconds."""

    time_base: Fraction
    count: int = 0
    key_frames: int = 0
    # Whether each packet has a presentation time.
    are_known: bool = True
    # Presentation times: of the first packet, and those from the first to the last packet that is presented.
    first: int | None = None
    presented_start: int | None = None
    presented_end: int | None = None
    # And of those that an edit list hides.
    discarded: "array[int]" = field(default_factory=lambda: array("q"))
    # Of the first packets, in decode order.
    head: list[int] = field(default_factory=list)

    @property
    def hides_inside(self) -> bool:
        """Whether an edit list hides packets between others, as one that repeats or skips media does."""
        if self.presented_start is None or self.presented_end is None:
            return False
        return any(self.presented_start <= pts < self.presented_end for pts in self.discarded)

    def add(self, pts: int, duration: int, flags: int) -> None:
        """Count a packet."""
        self.count += 1
        self.key_frames += flags & _KEY
        if pts == _NO_TIME:
            self.are_known = False
            return
        if len(self.head) < _HEAD:
            self.head.append(pts)
        if self.first is None or pts < self.first:
            self.first = pts
        if flags & _DISCARD:
            self.discarded.append(pts)
            return
        if self.presented_start is None or pts < self.presented_start:
            self.presented_start = pts
        if self.presented_end is None or pts + duration > self.presented_end:
            self.presented_end = pts + duration


def parse_packets(lines: Iterable[str]) -> list[PacketTimes]:
    """The packets of each track in ffmpeg's framecrc format: `track, dts, pts, duration, size, crc[, F=flags]`."""
    found: dict[int, PacketTimes] = {}
    for line in lines:
        if not line.startswith("#"):
            index, _, pts, duration, rest = line.split(",", 4)
            _, has_flags, flags = rest.partition(" F=0x")
            found[int(index)].add(int(pts), int(duration), int(flags.partition(",")[0], 16) if has_flags else _KEY)
        elif (match := _HEADER.fullmatch(line)) and match["name"] == "tb":
            found[int(match["index"])] = PacketTimes(Fraction(match["value"]))
    return [times for _, times in sorted(found.items())]
