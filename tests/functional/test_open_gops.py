"""Segments of real encoders' open GOPs: each decodes alone, presents exactly its frames, and joins exactly."""

from __future__ import annotations

import subprocess
from array import array
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from media_worker.mp4 import (
    Layout,
    Movie,
    SplitPlan,
    from_first_decodable,
    lay_out,
    plan_join,
    plan_split,
    presented_video,
    read_movie,
    split_at,
)
from media_worker_cli.local.ffmpeg import ffmpeg_path

from tests.media.clips import ffmpeg

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

VIDEO = ("-f", "lavfi", "-i", "testsrc2=size=192x108:rate=25:duration=8")
AUDIO = ("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration=8", "-c:a", "aac")
X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-tag:v", "hvc1", "-x265-params")
X264 = ("-c:v", "libx264", "-preset", "medium", "-x264-params")
OPEN = "log-level=none:keyint=25:min-keyint=25:scenecut=0:bframes=4:open-gop=1"
HDR10 = (
    f"{OPEN}:hdr10=1:repeat-headers=1:colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:"
    "master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,1):max-cll=1000,400"
)
FRAGMENTED = ("-movflags", "frag_keyframe+empty_moov+default_base_moof")
DROPPED = ("-vf", "select='not(eq(mod(n\\,7)\\,3))*not(between(n\\,70\\,90))'", "-fps_mode", "vfr")
# The clips: arguments of ffmpeg, and the extension of the file.
CLIPS: dict[str, tuple[tuple[str, ...], str]] = {
    "hevc": ((*VIDEO, *AUDIO, *X265, OPEN), "mp4"),
    "hevc-default": ((*VIDEO, *AUDIO, "-c:v", "libx265", "-x265-params", "log-level=none:keyint=40"), "mp4"),
    "hevc-hdr10": ((*VIDEO, *AUDIO, "-pix_fmt", "yuv420p10le", *X265, HDR10), "mp4"),
    "hevc-radl": ((*VIDEO, *X265, OPEN.replace("open-gop=1", "open-gop=0:radl=2")), "mp4"),
    "hevc-fragmented": ((*VIDEO, *AUDIO, *X265, OPEN, *FRAGMENTED), "mp4"),
    "hevc-variable-rate": ((*VIDEO, *AUDIO, *DROPPED, *X265, OPEN), "mp4"),
    "h264": ((*VIDEO, *AUDIO, *X264, "keyint=25:min-keyint=12:open-gop=1:b-pyramid=none:bframes=3"), "mp4"),
    "mpeg2-mov": ((*VIDEO, *AUDIO, "-c:v", "mpeg2video", "-g", "12", "-bf", "2"), "mov"),
    "mpeg2-mp4": ((*VIDEO, *AUDIO, "-c:v", "mpeg2video", "-g", "12", "-bf", "2"), "mp4"),
    "mpeg4": ((*VIDEO, *AUDIO, "-c:v", "mpeg4", "-g", "25", "-bf", "2"), "mp4"),
}
WORKERS = {
    "copy": ("-c", "copy"),
    "x264": ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-pix_fmt", "yuv420p", "-c:a", "aac"),
    "timescale": ("-c:v", "libx264", "-preset", "ultrafast", "-video_track_timescale", "90000", "-c:a", "aac"),
    "doubled": ("-vf", "fps=50", "-c:v", "libx264", "-preset", "ultrafast", "-c:a", "aac"),
    "variable": (*DROPPED, "-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none"),
}


@dataclass(frozen=True)
class Clip:
    """A source, its plan and its segments as files."""

    path: Path
    movie: Movie
    plan: SplitPlan
    segments: tuple[Path, ...]


def load(path: Path) -> tuple[bytes, Movie]:
    data = path.read_bytes()
    return data, read_movie(lambda offset, length: data[offset : offset + length], len(data))


def write(layout: Layout, path: Path, *sources: bytes) -> Path:
    media = b"".join(sources[each.source][each.offset : each.end] for each in layout.ranges)
    path.write_bytes(layout.header + media)
    return path


def split(path: Path, directory: Path, duration_s: Fraction = Fraction(2)) -> Clip:
    data, movie = load(path)
    plan = plan_split(movie, duration_s, lambda offset, length: data[offset : offset + length])
    names = [directory / f"{index}{path.suffix}" for index in range(plan.total_segments)]
    segments = [write(lay_out(movie, plan, index), name, data) for index, name in enumerate(names)]
    return Clip(path, movie, plan, tuple(segments))


def join(segments: tuple[Path, ...], plan: SplitPlan, path: Path) -> Layout:
    loaded = [load(segment) for segment in segments]
    layout = plan_join([movie for _, movie in loaded], plan.starts_s)
    write(layout, path, *(data for data, _ in loaded))
    return layout


@dataclass(frozen=True)
class Decoded:
    frames: list[str]  # a digest of each frame
    times: list[int]
    errors: str


def decode(path: Path, *arguments: str) -> Decoded:
    command = [str(ffmpeg_path()), "-v", "error", "-nostdin", *arguments, "-i", str(path), "-map", "0:v:0"]
    done = subprocess.run(
        [*command, "-fps_mode", "passthrough", "-f", "framemd5", "-"], capture_output=True, text=True, check=True
    )
    rows = [line.split(",") for line in done.stdout.splitlines() if not line.startswith("#")]
    return Decoded([row[5].strip() for row in rows], [int(row[2]) for row in rows], done.stderr)


@pytest.fixture(scope="module", params=sorted(CLIPS))
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Clip:
    arguments, extension = CLIPS[request.param]
    directory = tmp_path_factory.mktemp(request.param)
    ffmpeg(*arguments, str(directory / f"source.{extension}"))
    return split(directory / f"source.{extension}", directory)


def test_each_segment_decodes_alone_and_presents_its_frames(clip: Clip) -> None:
    """Exactly the frames of the source, without an error. Each clip has open GOPs, and each is cut."""
    assert clip.plan.total_segments >= 3
    assert any(cut.leading for cut in clip.plan.cuts[clip.plan.main_track])
    frames = decode(clip.path).frames
    for planned, path in zip(clip.plan.segments, clip.segments, strict=True):
        found = decode(path)
        expected, frames = frames[: planned.frames], frames[planned.frames :]
        assert found.frames == expected
        assert not found.errors
        assert presented_video(load(path)[1]).frames == planned.frames
    assert not frames


def test_readers_that_ignore_edit_lists_see_one_frame_more(clip: Clip) -> None:
    """It is the first frame of the next segment, at the end."""
    cuts = clip.plan.cuts[clip.plan.main_track]
    for planned, path, end in zip(clip.plan.segments, clip.segments, cuts[1:], strict=True):
        found = decode(path, "-ignore_editlist", "1")
        assert len(found.frames) == planned.frames + bool(end.leading)


def test_untouched_segments_restore_the_source(clip: Clip, tmp_path: Path) -> None:
    """The same samples in the same order with the same tables: nothing is there twice."""
    final = tmp_path / f"final{clip.path.suffix}"
    assert join(clip.segments, clip.plan, final).is_restored
    for before, after in zip(clip.movie.tracks, load(final)[1].tracks, strict=True):
        assert list(after.table.sizes.table or ()) == list(before.table.sizes.table or ())
        assert after.table.durations.merged() == before.table.durations.merged()
        assert (after.table.offsets is None) == (before.table.offsets is None)
        if before.table.offsets is not None and after.table.offsets is not None:
            assert after.table.offsets.merged() == before.table.offsets.merged()
        assert (after.table.sync, after.table.partial_sync) == (before.table.sync, before.table.partial_sync)
        assert after.edits == before.edits
    source, joined = decode(clip.path), decode(final)
    assert (joined.frames, joined.times) == (source.frames, source.times)


@pytest.mark.parametrize("worker", sorted(WORKERS))
def test_processed_segments_join_to_every_frame_once(clip: Clip, worker: str, tmp_path: Path) -> None:
    """Copied by a muxer that rewrites the edit list, or re-encoded in several ways."""
    outputs = tuple(tmp_path / path.name for path in clip.segments)
    for path, output in zip(clip.segments, outputs, strict=True):
        ffmpeg("-i", str(path), "-map", "0", *WORKERS[worker], str(output))
    if worker != "variable":
        for planned, output in zip(clip.plan.segments, outputs, strict=True):
            is_last = planned is clip.plan.segments[-1]
            found = presented_video(load(output)[1], None if is_last else planned.duration_s)
            if worker != "doubled":
                assert found.frames == planned.frames
            assert abs(found.duration_s - planned.duration_s) <= planned.longest_frame_s
    final = tmp_path / f"final{clip.path.suffix}"
    join(outputs, clip.plan, final)
    joined = decode(final)
    assert presented_video(load(final)[1]).frames == len(joined.frames)
    assert not joined.errors
    if worker == "copy":
        assert joined.frames == decode(clip.path).frames
    else:
        assert joined.frames == [frame for output in outputs for frame in decode(output).frames]
    if worker in {"x264", "timescale"}:
        assert len(joined.frames) == presented_video(clip.movie).frames


def test_closed_gops_do_not_overlap(tmp_path: Path) -> None:
    """Their segments have no sample twice."""
    ffmpeg(*VIDEO, *X264, "keyint=25:open-gop=0:bframes=3", str(tmp_path / "source.mp4"))
    clip = split(tmp_path / "source.mp4", tmp_path)
    samples = [load(path)[1].tracks[0].table.count for path in clip.segments]
    assert samples == [segment.frames for segment in clip.plan.segments]
    assert len(samples) == 4


@pytest.mark.parametrize(("name", "lost"), [("hevc", 4), ("h264", 1), ("mpeg2-mp4", 2), ("mpeg4", 2), ("hevc-radl", 0)])
def test_frames_that_refer_to_others_before_the_start_are_not_presented(tmp_path: Path, name: str, lost: int) -> None:
    """No decoder presents them. The others are presented at their times, and there is a notice."""
    whole, source = tmp_path / "whole.mp4", tmp_path / "source.mp4"
    ffmpeg(*CLIPS[name][0], str(whole))
    cut = ("-map", "0:v", "-c", "copy", "-avoid_negative_ts", "make_zero", "-use_editlist", "0")
    ffmpeg("-ss", "3.1", "-i", str(whole), *cut, str(source))
    data, movie = load(source)
    reads: list[tuple[int, int]] = []

    def read_many(requests: Sequence[tuple[int, int]]) -> list[bytes]:
        reads.extend(requests)
        return [data[offset : offset + length] for offset, length in requests]

    found = from_first_decodable(movie, read_many)
    before, after = presented_video(movie), presented_video(found)
    assert (before.frames, after.frames) == (after.frames + lost, len(decode(source).frames))
    assert (after.start_s, after.end_s) == (before.start_s + Fraction(lost, 25), before.end_s)
    assert len(found.notices) == (lost > 0)
    assert len(reads) < 10
    plan = plan_split(found, Fraction(2), lambda offset, length: data[offset : offset + length])
    segments = [write(lay_out(found, plan, n), tmp_path / f"{n}.mp4", data) for n in range(plan.total_segments)]
    assert [len(decode(path).frames) for path in segments] == [each.frames for each in plan.segments]
    join(tuple(segments), plan, tmp_path / "final.mp4")
    assert decode(tmp_path / "final.mp4").frames == decode(source).frames


def test_an_intra_refresh_is_one_segment(tmp_path: Path) -> None:
    """x264 marks its recovery points as sync samples, but decoding there is not exact for some frames."""
    ffmpeg(*VIDEO, *X264, "keyint=25:intra-refresh=1:bframes=0", str(tmp_path / "source.mp4"))
    clip = split(tmp_path / "source.mp4", tmp_path)
    assert clip.plan.total_segments == 1
    assert clip.plan.notice is not None
    assert clip.plan.notice.startswith("one segment: the source has no keyframe after the first")


@pytest.mark.parametrize("every_sample", [False, True])
@pytest.mark.parametrize(
    "encoder",
    [
        (*X264, "keyint=60:bframes=0"),
        (*X264, "keyint=60:bframes=3"),
        (*X265, OPEN),
        ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "60"),
        ("-c:v", "libsvtav1", "-preset", "12", "-g", "60"),
        ("-c:v", "mpeg4", "-g", "60"),
        ("-c:v", "mpeg2video", "-g", "30"),
    ],
    ids=["h264", "h264-reordered", "hevc", "vp9", "av1", "mpeg4", "mpeg2"],
)
def test_a_wrong_sync_table_is_not_believed(encoder: tuple[str, ...], every_sample: bool, tmp_path: Path) -> None:
    """Without `stss`, or with one that lists every sample, segments still start at the encoder's key frames."""
    ffmpeg(*VIDEO, *encoder, str(tmp_path / "source.mp4"))
    data, movie = load(tmp_path / "source.mp4")
    track = movie.tracks[0]
    assert track.table.sync is not None
    wrong = replace(track.table, sync=array("Q", range(track.table.count)) if every_sample else None)
    reads: list[int] = []

    def read(offset: int, length: int) -> bytes:
        reads.append(length)
        return data[offset : offset + length]

    plan = plan_split(replace(movie, tracks=(replace(track, table=wrong),)), Fraction(2), read)
    assert plan.total_segments >= 3
    assert {cut.sample for cut in plan.cuts[0][:-1]} <= set(track.table.sync)
    assert len(reads) < 40 * plan.total_segments
    assert max(reads) <= 4096
    again = split_at(replace(movie, tracks=(replace(track, table=wrong),)), plan.starts_s, read)
    assert again.cuts == plan.cuts


def test_no_frame_is_lost_if_the_sync_table_is_missing(tmp_path: Path) -> None:
    """720 frames without B-frames and without `stss`: cut at P-frames, 660 would be left after re-encoding."""
    source = tmp_path / "source.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=192x108:rate=30:duration=24", *X264, "keyint=60:bframes=0", str(source))
    source.write_bytes(source.read_bytes().replace(b"stss", b"free", 1))
    clip = split(source, tmp_path, Fraction(5, 2))
    outputs = tuple(tmp_path / f"processed_{path.name}" for path in clip.segments)
    for path, output in zip(clip.segments, outputs, strict=True):
        ffmpeg("-i", str(path), "-c:v", "libx264", "-preset", "ultrafast", str(output))
    join(outputs, clip.plan, tmp_path / "final.mp4")
    assert clip.plan.total_segments > 5
    assert len(decode(tmp_path / "final.mp4").frames) == 720


@pytest.mark.parametrize("encoder", [("-c:v", "prores"), ("-c:v", "mjpeg"), (*X264, "keyint=1")])
def test_intra_codecs_are_cut_anywhere(encoder: tuple[str, ...], tmp_path: Path) -> None:
    """Every frame is a key frame, so segments last exactly as long as wanted."""
    source = tmp_path / "source.mov"
    ffmpeg(*VIDEO, *encoder, str(source))
    source.write_bytes(source.read_bytes().replace(b"stss", b"free", 1))
    clip = split(source, tmp_path, Fraction(42, 25))
    assert [segment.frames for segment in clip.plan.segments] == [42, 42, 42, 42, 32]
    assert clip.plan.notice is None
