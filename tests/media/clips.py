"""Clips, made by the layer's ffmpeg from its own test sources."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from media_worker_cli.local.ffmpeg import ffmpeg_path

_SOURCE = ("-f", "lavfi", "-i", "testsrc2=size=192x108:rate={rate}:duration={seconds}")
_TONE = ("-f", "lavfi", "-i", "sine=frequency={hertz}:sample_rate=48000:duration={seconds}")
_H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "{gop}", "-pix_fmt", "yuv420p")
_HEVC = (
    *("-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-tag:v", "hvc1"),
    *("-x265-params", "log-level=none:bframes=3:{gop}"),
)
_AAC = ("-c:a", "aac", "-b:a", "64k")

SUBTITLES = "1\n00:00:01,000 --> 00:00:02,000\none\n\n2\n00:00:06,000 --> 00:00:07,500\ntwo\n"


def ffmpeg(*arguments: str, cwd: Path | None = None) -> str:
    """Run ffmpeg; its output."""
    done = subprocess.run(
        [str(ffmpeg_path()), "-hide_banner", "-nostdin", "-v", "error", "-y", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _fill(words: Sequence[str], **values: object) -> list[str]:
    return [word.format(**values) for word in words]


def _video(rate: str = "25", seconds: float = 10) -> list[str]:
    return _fill(_SOURCE, rate=rate, seconds=seconds)


def _tone(hertz: int = 440, seconds: float = 10) -> list[str]:
    return _fill(_TONE, hertz=hertz, seconds=seconds)


def _h264(gop: int = 25) -> list[str]:
    return _fill(_H264, gop=gop)


def make(name: str, path: Path) -> Path:
    """Make the named clip: ten seconds with a sync sample every second, unless its name says otherwise."""
    _MAKERS[name](path)
    return path


def _plain(path: Path) -> None:
    ffmpeg(*_video(), *_tone(), *_h264(), *_AAC, str(path))


def _one_keyframe(path: Path) -> None:
    ffmpeg(*_video(), *_tone(), *_h264(1000), *_AAC, str(path))


def _no_audio(path: Path) -> None:
    ffmpeg(*_video(), *_h264(), str(path))


def _audio_only(path: Path) -> None:
    ffmpeg(*_tone(), *_AAC, str(path))


def _audio_with_cover(path: Path) -> None:
    cover = _fill(_SOURCE, rate="1", seconds=1)
    ffmpeg(
        *_tone(), *cover, *_AAC, "-c:v", "mjpeg", "-pix_fmt", "yuvj420p", "-disposition:v", "attached_pic", str(path)
    )


def _two_audio(path: Path) -> None:
    ffmpeg(
        *(*_video(), *_tone(), *_tone(880)),
        *("-map", "0", "-map", "1", "-map", "2", *_h264(), "-c:a:0", "aac", "-c:a:1", "ac3"),
        *("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=deu", str(path)),
    )


def _subtitles(path: Path) -> None:
    srt = path.with_suffix(".srt")
    srt.write_text(SUBTITLES)
    ffmpeg(*_video(), *_tone(), "-i", str(srt), *_h264(), *_AAC, "-c:s", "mov_text", str(path))


def _rotated(path: Path) -> None:
    flat = path.with_suffix(".flat.mp4")
    _plain(flat)
    ffmpeg("-display_rotation", "90", "-i", str(flat), "-map", "0", "-c", "copy", str(path))


def _hevc(path: Path) -> None:
    ffmpeg(*_video(), *_tone(), *_fill(_HEVC, gop="open-gop=0:keyint=25:min-keyint=25"), *_AAC, str(path))


def _open_gop(path: Path) -> None:
    ffmpeg(*_video(), *_tone(), *_fill(_HEVC, gop="open-gop=1:keyint=40"), *_AAC, str(path))


def _variable_rate(path: Path) -> None:
    ffmpeg(
        *(*_video("50"), *_tone(), "-vf", "select='not(mod(n,3))+lt(mod(t,4),1)'", "-fps_mode", "vfr"),
        *(*_h264(), *_AAC, str(path)),
    )


def _ntsc(path: Path) -> None:
    ffmpeg(*_video("30000/1001"), *_tone(), *_h264(30), *_AAC, str(path))


def _long_audio(path: Path) -> None:
    ffmpeg(*_video(), *_tone(seconds=13), *_h264(), *_AAC, str(path))


def _late_video(path: Path) -> None:
    plain = path.with_suffix(".plain.mp4")
    _plain(plain)
    ffmpeg(
        *("-itsoffset", "0.5", "-i", str(plain), "-i", str(plain)),
        *("-map", "0:v", "-map", "1:a", "-c", "copy", str(path)),
    )


def _timecode(path: Path) -> None:
    """A QuickTime file with a timecode track, named .mp4."""
    ffmpeg(*_video(), *_tone(), *_h264(), *_AAC, "-timecode", "01:00:00:00", "-f", "mov", str(path))


def _cover(path: Path) -> None:
    ffmpeg(
        *(*_video(), *_tone(), *_video("1", 1), "-map", "0", "-map", "1", "-map", "2"),
        *(
            *_h264(),
            *_AAC,
            "-c:v:1",
            "mjpeg",
            "-bf:v:1",
            "0",
            "-pix_fmt:v:1",
            "yuvj420p",
            "-disposition:v:1",
            "attached_pic",
            str(path),
        ),
    )


def _matroska(path: Path) -> None:
    ffmpeg(*_video(), *_tone(), *_h264(), *_AAC, "-f", "matroska", str(path))


def _mpegts(path: Path) -> None:
    gop = ("-x264-params", "open-gop=1:keyint=40:bframes=2:scenecut=0")
    ffmpeg(*_video(), *_tone(), *_h264(), *gop, *_AAC, "-f", "mpegts", str(path))


def _fragmented(path: Path) -> None:
    """A fragment for each open GOP."""
    movflags = ("-movflags", "frag_keyframe+empty_moov+default_base_moof")
    ffmpeg(*_video(), *_tone(), *_fill(_HEVC, gop="open-gop=1:keyint=40"), *_AAC, *movflags, str(path))


def _avi(path: Path) -> None:
    ffmpeg(*_video(), *_tone(), "-c:v", "mpeg4", "-g", "25", "-c:a", "libmp3lame", "-f", "avi", str(path))


def _wma_audio(path: Path) -> None:
    """Audio that an MP4 cannot hold."""
    ffmpeg(*_video(), *_tone(), *_h264(), "-c:a", "wmav2", "-f", "asf", str(path))


def _small_frame(path: Path) -> None:
    ffmpeg(*_video(), *_tone(), "-vf", "scale=96:54", *_h264(), *_AAC, str(path))


def _crash_one(path: Path) -> None:
    """Three seconds: one segment."""
    ffmpeg(*_video(seconds=3), *_tone(seconds=3), *_h264(), *_AAC, str(path))


def _crash_five(path: Path) -> None:
    """Twenty seconds: five segments of four."""
    ffmpeg(*_video("5", 20), *_tone(seconds=20), *_h264(5), *_AAC, str(path))


def _crash_other(path: Path) -> None:
    """As long as the clip of five segments, with different frames and audio."""
    ffmpeg(*_video("5", 20), *_tone(880, 20), "-vf", "negate", *_h264(5), *_AAC, str(path))


def _crash_parts(path: Path) -> None:
    """Two segments and a final of a few small parts each."""
    ffmpeg(*_video("10", 8), *_tone(seconds=8), *_h264(10), *_AAC, str(path))


def _crash_long(path: Path) -> None:
    """Two segments of a few hundred kilobytes."""
    ffmpeg(*_video("25", 8), *_tone(seconds=8), *_h264(25), *_AAC, str(path))


_MAKERS = {
    "crash_long": _crash_long,
    "crash_one": _crash_one,
    "crash_five": _crash_five,
    "crash_parts": _crash_parts,
    "crash_other": _crash_other,
    "plain": _plain,
    "one_keyframe": _one_keyframe,
    "no_audio": _no_audio,
    "audio_only": _audio_only,
    "audio_with_cover": _audio_with_cover,
    "two_audio": _two_audio,
    "subtitles": _subtitles,
    "rotated": _rotated,
    "hevc": _hevc,
    "open_gop": _open_gop,
    "variable_rate": _variable_rate,
    "ntsc": _ntsc,
    "long_audio": _long_audio,
    "late_video": _late_video,
    "timecode": _timecode,
    "cover": _cover,
    "matroska": _matroska,
    "mpegts": _mpegts,
    "fragmented": _fragmented,
    "avi": _avi,
    "wma_audio": _wma_audio,
    "small_frame": _small_frame,
}
