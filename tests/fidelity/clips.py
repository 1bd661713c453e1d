"""Clips to judge engines by, made by ffmpeg from test patterns and tones. Each has a feature that breaks something.

A recipe is an ffmpeg argument list. `rewritten.py` changes some of the clips in ways that ffmpeg cannot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .probe import ProbeFailed, run, tool
from .rewritten import REWRITTEN

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

SECONDS = 6
X264 = ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"]
X265 = ["-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-x265-params"]
GOP = ["-g", "24", "-bf", "2"]
H264 = [*X264, *GOP]
AAC = ["-c:a", "aac"]
COPY = ["-c", "copy"]
HDR10 = (
    "log-level=0:keyint=24:open-gop=0:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:hdr10=1:max-cll=1000,400"
    ":master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1)"
)
CHAPTERS = """;FFMETADATA1
title=Chapters
[CHAPTER]
TIMEBASE=1/1000
START=0
END=2500
title=One
[CHAPTER]
TIMEBASE=1/1000
START=2500
END=4000
title=Two
[CHAPTER]
TIMEBASE=1/1000
START=4000
END=6000
title=Three
"""
SUBTITLES = "".join(
    f"{n}\n00:00:0{n},100 --> 00:00:0{n},{900 if n != 3 else 950}\nLine {n}\n\n" for n in range(SECONDS)
)


def video(rate: str = "24", seconds: float = SECONDS, size: str = "128x96") -> list[str]:
    return ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}:duration={seconds}"]


def audio(rate: int = 48000, seconds: float = SECONDS, layout: str = "stereo") -> list[str]:
    """A rising tone, so that no two packets are alike."""
    channels = {"mono": 1, "stereo": 2}[layout]
    tone = "|".join(["sin(2*PI*t*(300+60*t))*0.5"] * channels)
    return ["-f", "lavfi", "-i", f"aevalsrc=exprs={tone}:s={rate}:d={seconds}:c={layout}"]


def _av(*arguments: str, rate: str = "24", sample_rate: int = 48000) -> list[str]:
    return [*video(rate), *audio(sample_rate), *arguments]


def _codecs() -> dict[str, list[str]]:
    return {
        "h264_bframes.mp4": _av(*H264, *AAC),
        "h264_no_bframes.mp4": _av(*X264, "-g", "24", "-bf", "0", *AAC),
        "h264_open_gop.mp4": _av(*H264, "-x264-params", "open-gop=1:scenecut=0", *AAC),
        "h264_long_gop.mp4": _av(*X264, "-g", "9999", *AAC),
        "h264_intra_only.mp4": _av(*X264, "-g", "1", *AAC),
        "h264_pyramid.mp4": _av(*X264, "-g", "40", "-bf", "8", "-x264-params", "b-pyramid=normal:b-adapt=0", *AAC),
        "h264_intra_refresh.mp4": _av(*X264, "-g", "24", "-x264-params", "intra-refresh=1", *AAC),
        "h264_10bit.mp4": _av("-c:v", "libx264", *GOP, "-pix_fmt", "yuv420p10le", *AAC),
        "h264_interlaced.mp4": _av(*H264, "-flags", "+ildct+ilme", "-x264-params", "tff=1", *AAC, rate="25"),
        "hevc_hvc1.mp4": _av(*X265, "log-level=0:keyint=24:open-gop=0", "-tag:v", "hvc1", *AAC),
        "hevc_hev1.mp4": _av(*X265, "log-level=0:keyint=24:open-gop=0", "-tag:v", "hev1", *AAC),
        "hevc_open_gop.mp4": _av(*X265, "log-level=0:keyint=24:open-gop=1", "-tag:v", "hvc1", *AAC),
        "hevc_hdr10.mp4": _av(*X265, HDR10, "-pix_fmt", "yuv420p10le", "-tag:v", "hvc1", *AAC),
        "hevc_hlg.mp4": _av(
            *X265, "log-level=0:keyint=24:open-gop=0:transfer=arib-std-b67", "-pix_fmt", "yuv420p10le", *AAC
        ),
        "av1.mp4": _av("-c:v", "libsvtav1", "-preset", "12", "-g", "24", "-pix_fmt", "yuv420p", *AAC),
        "av1_10bit.mp4": _av("-c:v", "libsvtav1", "-preset", "12", "-g", "24", "-pix_fmt", "yuv420p10le", *AAC),
        "vp9.mp4": _av("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "24", *AAC),
        "vp9_altref.mp4": _av("-c:v", "libvpx-vp9", "-cpu-used", "8", "-g", "24", "-auto-alt-ref", "1", *AAC),
        "mpeg4_bframes.mp4": _av("-c:v", "mpeg4", *GOP, *AAC),
        "mjpeg.mov": _av("-c:v", "mjpeg", "-pix_fmt", "yuvj420p", *AAC),
        "prores.mov": _av("-c:v", "prores_ks", "-profile:v", "0", *AAC),
    }


def _rates() -> dict[str, list[str]]:
    jitter = "setpts='PTS+mod(N*7,5)*0.004/TB'"
    vfr = ["-fps_mode", "vfr", "-enc_time_base", "1:90000"]
    return {
        "rate_23976.mp4": _av(*H264, *AAC, rate="24000/1001"),
        "rate_2997.mov": _av(*H264, *AAC, rate="30000/1001", sample_rate=44100),
        "rate_5994.mp4": _av(*H264, *AAC, rate="60000/1001"),
        "rate_12_5.mp4": _av(*X264, "-g", "12", *AAC, rate="25/2"),
        "vfr.mp4": _av("-vf", jitter, *vfr, *X264, "-g", "24", "-bf", "0", *AAC),
        "vfr_bframes.mp4": _av("-vf", jitter, *vfr, *H264, "-video_track_timescale", "90000", *AAC),
        "vfr_dropped.mp4": _av("-vf", "select='gt(mod(n,7),1)'", "-fps_mode", "vfr", *H264, *AAC),
        "timescale_huge.mp4": _av(*H264, "-video_track_timescale", "10000019", *AAC),
        "timescale_90000.mp4": _av(*H264, "-video_track_timescale", "90000", "-movie_timescale", "90000", *AAC),
        "timescale_600.mov": _av(*H264, "-video_track_timescale", "600", "-movie_timescale", "600", *AAC),
        "one_frame.mp4": [*video(seconds=0.04), *audio(), *H264, *AAC],
        "short.mp4": [*video(seconds=0.4), *audio(seconds=0.4), *X264, "-g", "3", "-bf", "0", *AAC],
    }


def _audio_tracks() -> dict[str, list[str]]:
    def av(*arguments: str, sample_rate: int = 48000) -> list[str]:
        return _av(*H264, *arguments, sample_rate=sample_rate)

    two = [*video(), *audio(), *audio(44100), "-map", "0", "-map", "1", "-map", "2", *H264]
    return {
        "aac_22050_mono.mp4": [*video(), *audio(22050, layout="mono"), *H264, *AAC],
        "aac_44100.mp4": av(*AAC, sample_rate=44100),
        "ac3.mp4": av("-c:a", "ac3"),
        "eac3.mp4": av("-c:a", "eac3"),
        "opus.mp4": av("-c:a", "libopus"),
        "flac.mp4": av("-c:a", "flac", "-strict", "-2"),
        "alac.mov": av("-c:a", "alac"),
        "mp3.mp4": av("-c:a", "libmp3lame"),
        "pcm_s16le.mov": av("-c:a", "pcm_s16le"),
        "pcm_s16be.mov": av("-c:a", "pcm_s16be"),
        "pcm_s24le.mov": av("-c:a", "pcm_s24le", sample_rate=44100),
        "pcm_ipcm.mp4": av("-c:a", "pcm_s16le"),
        "two_audio_tracks.mp4": [*two, "-c:a:0", "aac", "-c:a:1", "ac3"],
        "four_audio_tracks.mov": [
            *two,
            "-map",
            "1",
            "-map",
            "2",
            "-c:a:0",
            "aac",
            "-c:a:1",
            "ac3",
            "-c:a:2",
            "pcm_s16le",
            "-c:a:3",
            "alac",
            "-metadata:s:a:1",
            "language=deu",
        ],
        "audio_longer.mp4": [*video(), *audio(seconds=9), *H264, *AAC],
        "audio_shorter.mp4": [*video(), *audio(seconds=2.5), *H264, *AAC],
        "audio_much_longer.mp4": [*video(seconds=2), *audio(seconds=12), *H264, *AAC],
        "audio_only.m4a": [*audio(), *AAC],
        "audio_only_pcm.mov": [*audio(), "-c:a", "pcm_s16le"],
        "video_only.mp4": [*video(), *H264],
        "audio_late.mp4": [*video(), "-itsoffset", "1.3", *audio(), *H264, *AAC],
        "video_late.mp4": ["-itsoffset", "0.7", *video(), *audio(), *H264, *AAC],
    }


def _edits_and_layouts() -> dict[str, list[str]]:
    source = ["-i", "{folder}/h264_bframes.mp4", *COPY]
    subtitled = ["-i", "{folder}/subtitles.srt"]
    return {
        "trim_start.mp4": ["-ss", "1.37", *source],
        "trim_both.mp4": ["-ss", "0.61", "-t", "4.1", *source],
        "no_edit_list.mp4": [*source, "-use_editlist", "0"],
        "negative_offsets.mp4": [*source, "-movflags", "negative_cts_offsets"],
        "starts_late.mp4": ["-itsoffset", "3600", *source, "-copyts"],
        "moov_first.mp4": [*source, "-movflags", "faststart"],
        "fragmented.mp4": [*source, "-movflags", "frag_keyframe+empty_moov"],
        "fragmented_dash.mp4": [*source, "-movflags", "dash+delay_moov", "-frag_duration", "500000"],
        "fragmented_cmaf.mp4": [*source, "-movflags", "cmaf+delay_moov"],
        "fragmented_base_moof.mp4": [*source, "-movflags", "frag_keyframe+empty_moov+default_base_moof"],
        "fragmented_each_track.mp4": [*source, "-movflags", "frag_keyframe+separate_moof+empty_moov"],
        "fragmented_with_moov.mp4": [*source, "-movflags", "frag_keyframe"],
        "fragmented_late.mp4": ["-itsoffset", "30", *source, "-copyts", "-movflags", "frag_keyframe+empty_moov"],
        "fragmented_pcm.mov": [*_av(*H264, "-c:a", "pcm_s16le"), "-movflags", "frag_keyframe+empty_moov"],
        "fragmented_opus_vfr.mp4": [
            "-i",
            "{folder}/vfr_bframes.mp4",
            "-c:v",
            "copy",
            "-c:a",
            "libopus",
            "-movflags",
            "frag_keyframe+delay_moov",
        ],
        "fragmented_trimmed.mp4": ["-ss", "1.37", *source, "-movflags", "frag_keyframe+delay_moov"],
        "hybrid.mp4": [*source, "-movflags", "hybrid_fragmented"],
        "rotated.mp4": ["-display_rotation", "90", *source],
        "mirrored.mp4": ["-display_hflip", *source],
        "timecode.mov": [*source, "-timecode", "01:00:00:00"],
        "timecode.mp4": [*source, "-timecode", "10:11:12:13"],
        "subtitles.mp4": [
            *subtitled,
            *source,
            "-map",
            "1",
            "-map",
            "0",
            "-c:s",
            "mov_text",
            "-metadata:s:s:0",
            "language=fra",
        ],
        "chapters.mp4": ["-i", "{folder}/chapters.txt", *source, "-map", "1", "-map_metadata", "0"],
        "chapters.mov": ["-i", "{folder}/chapters.txt", *source, "-map", "1", "-map_metadata", "0"],
        "cover.mp4": [
            *source[:2],
            *video(seconds=0.04),
            "-map",
            "0",
            "-map",
            "1",
            *COPY,
            "-c:v:1",
            "mjpeg",
            "-pix_fmt:v:1",
            "yuvj420p",
            "-disposition:v:1",
            "attached_pic",
        ],
        "metadata.mp4": [
            *source,
            "-metadata",
            "title=Title",
            "-metadata",
            "comment=x",
            "-metadata:s:a",
            "language=jpn",
            "-metadata",
            "creation_time=2021-03-04T05:06:07Z",
            "-metadata:s:v",
            "handler_name=Camera",
        ],
        "metadata_mdta.mov": [*source, "-metadata", "com.example.key=1", "-movflags", "use_metadata_tags"],
        "two_videos.mp4": [
            *video(),
            *video(size="64x48"),
            *audio(),
            "-map",
            "0",
            "-map",
            "1",
            "-map",
            "2",
            *H264,
            *AAC,
        ],
        "colour_full_range.mp4": _av(*H264, "-color_range", "pc", "-colorspace", "bt709", "-color_trc", "bt709", *AAC),
        "anamorphic.mp4": _av(*H264, "-aspect", "16:9", *AAC),
        "fragmented_subtitles.mp4": [
            "-i",
            "{folder}/subtitles.mp4",
            "-map",
            "0",
            *COPY,
            "-movflags",
            "frag_keyframe+empty_moov",
        ],
        "3gp.3gp": [*source, "-f", "3gp"],
    }


RECIPES = _codecs() | _rates() | _audio_tracks() | _edits_and_layouts()


def make_clips(folder: Path, wanted: Collection[str] = ()) -> None:
    """Make all clips, or the wanted ones, that are not in the folder yet."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "chapters.txt").write_text(CHAPTERS)
    (folder / "subtitles.srt").write_text(SUBTITLES)
    chosen = _with_sources(wanted) if wanted else {*RECIPES, *REWRITTEN}
    for name, arguments in RECIPES.items():
        if name in chosen and not (folder / name).exists():
            _make(folder, name, arguments)
    for name, (source, rewrite) in REWRITTEN.items():
        if name in chosen and not (folder / name).exists():
            (folder / name).write_bytes(rewrite(folder / source))


def _with_sources(names: Collection[str]) -> set[str]:
    """The wanted clips and those that they are made from."""
    chosen = set(names)
    while True:
        inputs = {argument.removeprefix("{folder}/") for name in chosen for argument in RECIPES.get(name, ())}
        found = chosen | (inputs & set(RECIPES)) | {REWRITTEN[name][0] for name in chosen if name in REWRITTEN}
        if found == chosen:
            return chosen
        chosen = found


def _make(folder: Path, name: str, arguments: list[str]) -> None:
    filled = [argument.format(folder=folder) for argument in arguments]
    try:
        run([tool("ffmpeg"), "-v", "error", "-y", "-threads", "1", *filled, "-strict", "-2", str(folder / name)])
    except ProbeFailed as error:
        (folder / name).unlink(missing_ok=True)
        raise ProbeFailed(f"cannot make {name}: {error}") from error
