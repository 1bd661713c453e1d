"""Clips that imitate recorders and encoders: cameras, phones, screen recorders, broadcast, streaming, editing.

Each lasts 6 seconds. Video and audio change all the time, so that no two frames and no two packets are alike.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from .clips import AAC, CHAPTERS, HDR10, SECONDS, SUBTITLES, audio, video
from .probe import ProbeFailed, run, tool

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

# Only libaom writes forward key frames, and not from ffmpeg's options (`tests/unit/mp4/test_mp4_forward_keys.py`).
AV1_FORWARD_KEYS = Path(__file__).parents[1] / "media" / "av1_forward_keys.mp4"
X264 = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"]
X265 = ["-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p"]
SVT_AV1 = ["-c:v", "libsvtav1", "-preset", "12", "-pix_fmt", "yuv420p"]
VP9 = ["-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8"]
MPEG2 = ["-c:v", "mpeg2video", "-b:v", "3M"]
QUIET = "log-level=none"
OPUS = ["-c:a", "libopus"]
FRAGMENTS = ["-movflags", "frag_keyframe+empty_moov+default_base_moof"]
TWO_AUDIO = [*video("25"), *audio(), *audio(44100)]
ALL = ["-map", "0", "-map", "1", "-map", "2"]
HDR10_OPEN = HDR10.replace("open-gop=0", "open-gop=1").replace("log-level=0", QUIET)
INTERLACED = ["-flags", "+ildct+ilme"]


def _av(*arguments: str, rate: str = "25", sample_rate: int = 48000) -> list[str]:
    return [*video(rate), *audio(sample_rate), *arguments]


def _x264(options: str, *arguments: str, rate: str = "25", sample_rate: int = 48000) -> list[str]:
    return _av(*X264, "-x264-params", f"scenecut=0:{options}", *arguments, rate=rate, sample_rate=sample_rate)


def _x265(options: str, *arguments: str, rate: str = "25") -> list[str]:
    return _av(*X265, "-x265-params", f"{QUIET}:{options}", *arguments, rate=rate)


RECIPES: dict[str, list[str]] = {
    # Encoders
    "x265_plain.mp4": _x265("keyint=25", *AAC),
    "x265_plain.mkv": _x265("keyint=25", *AAC),
    "x265_bpyramid.mp4": _x265("keyint=30:bframes=8:b-pyramid=1:b-adapt=0:rc-lookahead=20", *AAC),
    "x265_hdr10.mp4": _av(*X265, "-pix_fmt", "yuv420p10le", "-x265-params", HDR10_OPEN, "-tag:v", "hvc1", *AAC),
    "x265_hdr10_atmos.mkv": _av(*X265, "-pix_fmt", "yuv420p10le", "-x265-params", HDR10_OPEN, "-c:a", "eac3"),
    "x264_open_gop.mp4": _x264("keyint=25:open-gop=1:bframes=3", *AAC),
    "x264_open_gop.mkv": _x264("keyint=25:open-gop=1:bframes=3", *AAC),
    "x264_bpyramid.mp4": _x264("keyint=40:bframes=8:b-pyramid=normal:b-adapt=0", *AAC, rate="24000/1001"),
    "x264_intra_refresh.mp4": _x264("keyint=25:intra-refresh=1", *AAC),
    "x264_444.mp4": _x264("keyint=25", "-pix_fmt", "yuv444p", *AAC),
    "svt_av1.mp4": _av(*SVT_AV1, "-g", "25", *OPUS),
    "svt_av1_intra_only.mp4": _av(*SVT_AV1, "-g", "25", "-svtav1-params", "irefresh-type=1", *AAC),
    "av1_forward_keyframes.mp4": ["-i", str(AV1_FORWARD_KEYS), "-c", "copy"],
    "av1_opus.webm": _av(*SVT_AV1, "-g", "25", *OPUS, rate="30"),
    "vp9_opus.webm": _av(*VP9, "-g", "30", *OPUS, rate="30"),
    "vp9_altref.webm": _av("-c:v", "libvpx-vp9", "-cpu-used", "8", "-g", "30", "-auto-alt-ref", "1", *OPUS),
    "vp9_opus.mp4": _av(*VP9, "-g", "30", *OPUS, rate="30"),
    # Phones and action cameras
    "iphone_hevc.mov": _av(
        *X265, "-x265-params", f"{QUIET}:keyint=30:bframes=2", "-tag:v", "hvc1", *AAC,
        "-movie_timescale", "600", "-video_track_timescale", "600", rate="30", sample_rate=44100,
    ),
    "iphone_portrait.mov": ["-display_rotation", "-90", "-i", "{folder}/iphone_hevc.mov", "-c", "copy"],
    "iphone_trimmed.mov": ["-ss", "1.23", "-i", "{folder}/iphone_hevc.mov", "-c", "copy"],
    "android_vfr.mp4": _av(
        "-vf", "setpts='(PTS+0.011*mod(N*7,5)/5/TB)'", "-fps_mode", "passthrough", "-enc_time_base", "1:90000",
        *X264, "-g", "30", "-bf", "0", "-video_track_timescale", "90000", *AAC, rate="30",
    ),
    "android_vfr_dropped.mp4": _av(
        "-vf", "select='gt(mod(n,7),1)'", "-fps_mode", "passthrough", "-enc_time_base", "1:90000",
        *X264, "-g", "25", "-bf", "2", "-video_track_timescale", "90000", *AAC, rate="30",
    ),
    "android_3gp.3gp": _av("-c:v", "mpeg4", "-g", "25", *AAC),
    "gopro_timecode.mp4": _x264("keyint=15:bframes=0", *AAC, "-timecode", "10:11:12:13", rate="60000/1001"),
    "gopro_text.mp4": [
        *video("60000/1001"), *audio(), "-i", "{folder}/subtitles.srt", "-map", "0", "-map", "1", "-map", "2",
        *X264, "-g", "15", *AAC, "-c:s", "mov_text", "-timecode", "10:11:12:13",
    ],
    "drone_hevc_no_audio.mp4": [*video("30000/1001"), *X265, "-x265-params", f"{QUIET}:keyint=30", "-tag:v", "hvc1"],
    # Screen recorders and live streams
    "obs.mkv": _x264("keyint=50:bframes=2", *AAC, rate="60"),
    "obs_fragmented.mp4": _x264("keyint=50:bframes=2", *AAC, *FRAGMENTS, rate="60"),
    "obs_two_audio.mkv": [*TWO_AUDIO, *ALL, *X264, "-g", "25", *AAC],
    "obs_hybrid.mp4": _x264("keyint=50:bframes=2", *AAC, "-movflags", "hybrid_fragmented", rate="60"),
    "screen_vfr.webm": _av(
        "-vf", "select='eq(mod(n,3),0)+lt(mod(n,40),12)'", "-fps_mode", "passthrough", *VP9, "-g", "20", *OPUS,
    ),
    "screen_vfr.mp4": _av(
        "-vf", "select='eq(mod(n,3),0)+lt(mod(n,40),12)'", "-fps_mode", "passthrough", "-enc_time_base", "1:1000",
        *X264, "-g", "20", "-bf", "2", *AAC,
    ),
    "fragmented_hevc.mp4": _x265("keyint=25", "-tag:v", "hvc1", *AAC, *FRAGMENTS),
    "fragmented_open_gop.mp4": _x264("keyint=25:open-gop=1:bframes=3", *AAC, *FRAGMENTS),
    "cmaf_hevc.mp4": _x265("keyint=25", "-tag:v", "hvc1", *AAC, "-movflags", "cmaf+delay_moov"),
    "rtmp.flv": _x264("keyint=50:bframes=2", *AAC, rate="30", sample_rate=44100),
    # Broadcast and camcorders
    "broadcast.ts": _x264("keyint=25:open-gop=1:bframes=3", "-c:a", "mp2"),
    "broadcast_hevc_ac3.ts": _x265("keyint=25", "-c:a", "ac3", rate="50"),
    "avchd.mts": _x264("keyint=13:open-gop=1:bframes=2:tff=1", *INTERLACED, "-c:a", "ac3", "-f", "mpegts"),
    "avchd_in.mov": _x264("keyint=13:open-gop=1:bframes=2:tff=1", *INTERLACED, "-c:a", "pcm_s16le"),
    "broadcast_no_idr.mp4": ["-ss", "1.5", "-i", "{folder}/x264_open_gop.mp4", "-c", "copy"],
    "xdcam.mov": _av(
        *MPEG2, "-g", "12", "-bf", "2", *INTERLACED, "-c:a", "pcm_s24le", "-timecode", "01:00:00:00",
    ),
    "xdcam.mxf": _av(*MPEG2, "-g", "12", "-bf", "2", *INTERLACED, "-c:a", "pcm_s16le"),
    "dvd.mpg": _av(*MPEG2, "-g", "12", "-bf", "2", "-c:a", "mp2", "-f", "vob"),
    "dvb.ts": _av(*MPEG2, "-g", "12", "-bf", "2", "-c:a", "mp2"),
    "dvb_capture.ts": ["-ss", "2", "-i", "{folder}/dvb.ts", "-c", "copy", "-avoid_negative_ts", "make_zero"],
    # Editing
    "prores.mov": _av("-c:v", "prores_ks", "-profile:v", "0", "-c:a", "pcm_s16le"),
    "dnxhr.mov": [
        *video("25", size="256x144"), *audio(), "-c:v", "dnxhd", "-profile:v", "dnxhr_lb", "-pix_fmt", "yuv422p",
        "-c:a", "pcm_s24le",
    ],
    "dnxhr.mxf": [
        *video("25", size="256x144"), *audio(), "-c:v", "dnxhd", "-profile:v", "dnxhr_lb", "-pix_fmt", "yuv422p",
        "-c:a", "pcm_s16le",
    ],
    "mjpeg.avi": _av("-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-c:a", "pcm_s16le"),
    "mjpeg.mov": _av("-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-c:a", "pcm_s16le"),
    "mpeg4_mp3.avi": _av("-c:v", "mpeg4", "-g", "25", "-bf", "0", "-c:a", "libmp3lame"),
    "edit_list_delay.mp4": ["-itsoffset", "0.48", *video("25"), *audio(), *X264, "-g", "25", *AAC],
    # Files of many tracks
    "multitrack_flac_chapters.mkv": [
        *TWO_AUDIO, "-i", "{folder}/chapters.txt", "-map_metadata", "3", *ALL, *X264, "-g", "25", "-c:a:0", "flac",
        "-c:a:1", "ac3", "-metadata:s:a:1", "language=deu",
    ],
    "multitrack_opus_subtitles.mkv": [
        *video("24000/1001"), *audio(), "-i", "{folder}/subtitles.srt", "-map", "0", "-map", "1", "-map", "2",
        *X264, "-g", "24", *OPUS, "-c:s", "subrip",
    ],
    "multitrack.mp4": [
        *TWO_AUDIO, "-i", "{folder}/subtitles.srt", "-i", "{folder}/chapters.txt", *ALL,
        "-map", "3", "-map_metadata", "4", *X264, "-g", "25", "-c:a:0", "aac", "-c:a:1", "ac3", "-c:s", "mov_text",
    ],
    "multitrack_open_gop.mp4": [
        *TWO_AUDIO, "-i", "{folder}/chapters.txt", "-map_metadata", "3", *ALL, *X265,
        "-x265-params", f"{QUIET}:keyint=25", *AAC,
    ],
    "audio_shorter.mkv": [*video("25"), *audio(seconds=3.1), *X264, "-g", "25", *AAC],
    "audio_late.mkv": [*video("25"), "-itsoffset", "1.3", *audio(seconds=4), *X264, "-g", "25", *AAC],
    "audio_late.mp4": [*video("25"), "-itsoffset", "2.7", *audio(seconds=3), *X264, "-g", "25", *AAC],
    "audio_longer.ts": [*video("25", seconds=5), *audio(seconds=6), *X264, "-g", "25", *AAC],
    "surround.mp4": [
        *video("25"), *audio(), "-filter_complex", "[1:a]pan=5.1|c0=c0|c1=c1|c2=c0|c3=c1|c4=c0|c5=c1[a]",
        "-map", "0:v", "-map", "[a]", *X264, "-g", "25", *AAC,
    ],
}  # fmt: skip


def _as_metadata_track(data: bytes) -> bytes:
    """The text track as one of GoPro metadata (`gpmd`)."""
    return data.replace(b"\0sbtl", b"\0meta").replace(b"tx3g", b"gpmd")


def _killed(data: bytes) -> bytes:
    """A recording whose program was killed while it wrote the last fragment."""
    at, last = 0, 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        last = at if kind == b"moof" else last
        at += size
    return data[: last + (len(data) - last) // 3]


def _without_audio_key_frames(data: bytes) -> bytes:
    """A Matroska file whose audio packets are not marked as key frames, as GStreamer writes them."""
    return re.sub(rb"(\xa3[\x40-\x7f].\x82..)\x80", b"\\1\0", data, flags=re.DOTALL)


REWRITTEN: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gopro.mp4": ("gopro_text.mp4", _as_metadata_track),
    "gstreamer.mkv": ("obs.mkv", _without_audio_key_frames),
    "obs_killed.mp4": ("obs_fragmented.mp4", _killed),
}


def make_clips(folder: Path, wanted: Collection[str] = ()) -> list[Path]:
    """Make all clips, or the wanted ones and those that they are made from, if they are not in the folder yet."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chapters.txt").write_text(CHAPTERS)
    (folder / "subtitles.srt").write_text(SUBTITLES)
    chosen = set(wanted or {*RECIPES, *REWRITTEN})
    chosen |= {REWRITTEN[name][0] for name in chosen if name in REWRITTEN}
    chosen |= {a.removeprefix("{folder}/") for name in chosen for a in RECIPES.get(name, ())} & set(RECIPES)
    for name, arguments in RECIPES.items():
        if name in chosen and not (folder / name).exists():
            _make(folder / name, [argument.format(folder=folder) for argument in arguments])
    for name, (source, rewrite) in REWRITTEN.items():
        if name in chosen and not (folder / name).exists():
            (folder / name).write_bytes(rewrite((folder / source).read_bytes()))
    return [folder / name for name in sorted(wanted or {*RECIPES, *REWRITTEN})]


def _make(path: Path, arguments: list[str]) -> None:
    try:
        length = ["-t", str(SECONDS)]
        run([tool("ffmpeg"), "-v", "error", "-y", "-threads", "1", *arguments, *length, "-strict", "-2", str(path)])
    except ProbeFailed as error:
        path.unlink(missing_ok=True)
        raise ProbeFailed(f"cannot make {path.name}: {error}") from error
