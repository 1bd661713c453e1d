"""Workers return video only, and the final has the source's own audio and other tracks, sample for sample."""

from pathlib import Path
from typing import Any

import pytest
from media_worker.jobs import JobStatus
from media_worker.keys import build_source_key
from media_worker.mp4 import Movie, presented_video, read_movie
from media_worker.mp4.boxes import references
from moto.s3 import models as moto_s3

from tests.functional.conftest import ClipMaker
from tests.functional.logs import Logs
from tests.functional.stack import INPUT, Stack
from tests.functional.test_every_frame import Change
from tests.media import clips, look
from tests.small_parts import use_small_parts


def without_audio(folder: Path, *options: str) -> Change:
    """A worker that returns video only; re-encoded, unless `options` say otherwise."""

    def change(index: int, body: bytes) -> bytes:
        source, target = folder / f"in-{index}.mp4", folder / f"out-{index}.mp4"
        source.write_bytes(body)
        clips.ffmpeg("-i", str(source), "-map", "0:V:0", *(options or ENCODED), str(target))
        return target.read_bytes()

    return change


COPIED = ("-c", "copy")
ENCODED = ("-c:v", "libx264", "-preset", "ultrafast")


def join(stack: Stack, source: Path, change: Change | None, path: Path, **attributes: Any) -> Path:
    """The final of a job whose segments a worker changed."""
    stack.add_job(**attributes)
    stack.upload(source)
    assert stack.chunk() == []
    stack.process_segments(change=change)
    stack.reassemble()
    assert stack.job().error is None
    assert stack.job().status is JobStatus.COMPLETED
    return stack.save_final(path)


def decoded_audio(path: Path, number: int = 0) -> str:
    return clips.ffmpeg("-i", str(path), "-map", f"0:a:{number}", "-f", "md5", "-")


def assert_same_audio(final: Path, source: Path, tracks: int = 1) -> None:
    """Packets with their times, and decoded audio, are the source's."""
    for number in range(tracks):
        assert look.packets(final, f"a:{number}") == look.packets(source, f"a:{number}")
        assert decoded_audio(final, number) == decoded_audio(source, number)


def audible(path: Path) -> list[float]:
    """When the audio begins and ends to be louder than silence, in seconds."""
    said = clips.ffmpeg(
        *(
            "-i",
            str(path),
            "-af",
            "aresample=async=1:first_pts=0,apad=pad_dur=1,silencedetect=d=0.2,ametadata=print:file=-",
        ),
        *("-f", "null", "-"),
    )
    return [
        float(line.partition("=")[2]) for line in said.splitlines() if "silence_start" in line or "silence_end" in line
    ]


def movie_of(path: Path) -> Movie:
    body = path.read_bytes()
    return read_movie(lambda offset, length: body[offset : offset + length], len(body))


def frame_times_ms(path: Path) -> list[float]:
    return [float(frame.presented_at_s) * 1000 for frame in look.decoded_frames(path)]


WORKERS = {
    "copied": COPIED,
    "re-encoded": ENCODED,
    "hevc": ("-c:v", "libx265", "-preset", "ultrafast", "-x265-params", "log-level=none", "-tag:v", "hvc1"),
    "90 kHz": (*ENCODED, "-video_track_timescale", "90000"),
    "1 kHz": (*ENCODED, "-video_track_timescale", "1000"),
    "smaller": (*ENCODED, "-vf", "scale=96:54"),
}


@pytest.mark.parametrize("options", WORKERS.values(), ids=WORKERS)
@pytest.mark.parametrize("name", ["plain", "late_video", "long_audio", "ntsc", "hevc"])
def test_video_only_workers(
    stack: Stack, clip: ClipMaker, tmp_path: Path, logs: Logs, name: str, options: tuple[str, ...]
) -> None:
    """Every frame is presented at its time in the source, within 1 ms, with the source's audio."""
    source = clip(name)
    final = join(stack, source, without_audio(tmp_path, *options), tmp_path / "final.mp4")
    assert_same_audio(final, source)
    found, expected = frame_times_ms(final), frame_times_ms(source)
    assert len(found) == len(expected)
    assert max(abs(one - other) for one, other in zip(found, expected, strict=True)) <= 1
    assert logs.one("tracks_chosen")["tracks"] == "source"
    assert stack.row("Jobs")["tracks_used"] == {"S": "source"}
    assert look.is_fast_start(final)


def test_a_coarse_timescale(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """A track that counts in frames (25 Hz) is placed as exactly as any other."""
    source = clip("late_video")
    options = (*ENCODED, "-video_track_timescale", "25", "-bf", "0")
    final = join(stack, source, without_audio(tmp_path, *options), tmp_path / "final.mp4")
    assert_same_audio(final, source)
    pairs = zip(frame_times_ms(final), frame_times_ms(source), strict=True)
    assert max(abs(one - other) for one, other in pairs) <= 1


def test_frame_doubling(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """Twice the frames: those of the source are at their times, and the audio is untouched."""
    source = clip("plain")
    final = join(stack, source, without_audio(tmp_path, *ENCODED, "-vf", "fps=50"), tmp_path / "final.mp4")
    assert_same_audio(final, source)
    found, expected = frame_times_ms(final), frame_times_ms(source)
    assert len(found) == 2 * len(expected)
    assert max(abs(one - other) for one, other in zip(found[::2], expected, strict=True)) <= 1


def test_thirty_joins(stack: Stack, tmp_path: Path) -> None:
    """No hole and no drift over 31 segments, each encoded by itself."""
    source = tmp_path / "long.mp4"
    clips.ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=size=96x54:rate=30000/1001:duration=32"),
        *("-f", "lavfi", "-i", "sine=sample_rate=44100:duration=32", "-c:v", "libx264", "-preset", "ultrafast"),
        *("-g", "30", "-c:a", "aac", str(source)),
    )
    final = join(stack, source, without_audio(tmp_path), tmp_path / "final.mp4", segment_duration_sec={"N": "1"})
    assert stack.job().total_segments == 32
    assert_same_audio(final, source)
    pairs = zip(frame_times_ms(final), frame_times_ms(source), strict=True)
    assert max(abs(one - other) for one, other in pairs) <= 1


@pytest.fixture(scope="session")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two audio tracks, subtitles, chapters (track and list), and a timecode track."""
    folder = tmp_path_factory.mktemp("rich")
    (folder / "chapters.txt").write_text(CHAPTERS)
    (folder / "subtitles.srt").write_text(clips.SUBTITLES)
    clips.ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=size=192x108:rate=25:duration=10"),
        *("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration=10"),
        *("-f", "lavfi", "-i", "sine=frequency=880:sample_rate=44100:duration=9.5"),
        *("-i", "subtitles.srt", "-f", "ffmetadata", "-i", "chapters.txt", "-map_metadata", "4"),
        *("-map", "0", "-map", "1", "-map", "2", "-map", "3", "-c:v", "libx264", "-preset", "ultrafast", "-g", "25"),
        *("-c:a:0", "aac", "-c:a:1", "ac3", "-c:s", "mov_text", "-timecode", "01:00:00:00", "-write_tmcd", "1"),
        *("-metadata:s:a:0", "language=eng", "-metadata:s:a:1", "language=deu", "-metadata:s:s:0", "language=fra"),
        *("-disposition:a:1", "0", "rich.mp4"),
        cwd=folder,
    )
    return folder / "rich.mp4"


CHAPTERS = """;FFMETADATA1
title=A title
[CHAPTER]
TIMEBASE=1/1000
START=0
END=4000
title=First
[CHAPTER]
TIMEBASE=1/1000
START=4000
END=10000
title=Second
"""


def described(path: Path) -> list[dict[str, Any]]:
    """What does not depend on the video: codecs, languages, flags, times and tags of the other tracks."""
    kept = ("codec_name", "codec_tag_string", "start_time", "duration", "nb_frames", "disposition", "tags")
    return [{key: each.get(key) for key in kept} for each in look.streams(path) if each["codec_type"] != "video"]


@pytest.mark.parametrize("options", [COPIED, ENCODED])
@pytest.mark.parametrize("segment_tracks", ["all", "video"])
def test_every_other_track(
    stack: Stack, rich: Path, tmp_path: Path, options: tuple[str, ...], segment_tracks: str
) -> None:
    """Audio, subtitles, chapters and timecode, with their languages, flags, edit lists and references."""
    attributes = {"segment_tracks": {"S": segment_tracks}}
    final = join(stack, rich, without_audio(tmp_path, *options), tmp_path / "final.mp4", **attributes)
    assert_same_audio(final, rich, tracks=2)
    assert described(final) == described(rich)
    assert look.packets(final, "s:0") == look.packets(rich, "s:0")
    assert clips.ffmpeg("-i", str(final), "-f", "ffmetadata", "-") == clips.ffmpeg(
        "-i", str(rich), "-f", "ffmetadata", "-"
    )
    found, expected = movie_of(final), movie_of(rich)
    assert [track.track_id for track in found.tracks] == [track.track_id for track in expected.tracks]
    for one, other in zip(found.tracks, expected.tracks, strict=True):
        for kind in (b"chap", b"tmcd"):
            assert references(one.box, kind) == references(other.box, kind)
    assert any(references(track.box, b"chap") for track in found.tracks)
    assert references(found.tracks[0].box, b"tmcd")


def test_segments_with_video_only(stack: Stack, rich: Path, tmp_path: Path) -> None:
    """`segment_tracks: video`: a worker that changes nothing returns them, and the final is the source again."""
    final = join(stack, rich, None, tmp_path / "final.mp4", segment_tracks={"S": "video"})
    for segment in stack.save_segments(tmp_path):
        assert [each["codec_type"] for each in look.streams(segment)] == ["video"]
    assert look.packets(final, "v:0") == look.packets(rich, "v:0")
    assert_same_audio(final, rich, tracks=2)
    assert [track.edits for track in movie_of(final).tracks if track.is_video]
    assert presented_video(movie_of(final)) == presented_video(movie_of(rich))


def _display(path: Path) -> tuple[int, int, int]:
    """Width, height and rotation in degrees of the video."""
    (video,) = (each for each in look.streams(path) if each["codec_type"] == "video")
    rotations = [each["rotation"] for each in video.get("side_data_list", ()) if "rotation" in each]
    return video["width"], video["height"], rotations[0] if rotations else 0


def test_a_worker_may_turn_frames_upright(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """When ffmpeg re-encodes a rotated source, it turns the frames: the final must not turn them again."""
    source = clip("rotated")
    width, height, rotation = _display(source)
    final = join(stack, source, without_audio(tmp_path), tmp_path / "final.mp4")
    assert rotation
    assert _display(final) == (height, width, 0)
    assert_same_audio(final, source)


def test_a_worker_may_rotate(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """Rotation comes from the processed video, also if only that has one."""

    def change(index: int, body: bytes) -> bytes:
        before, after = tmp_path / f"in-{index}.mp4", tmp_path / f"out-{index}.mp4"
        before.write_bytes(body)
        clips.ffmpeg("-display_rotation", "90", "-i", str(before), "-map", "0:V", "-c", "copy", str(after))
        return after.read_bytes()

    source = clip("plain")
    final = join(stack, source, change, tmp_path / "final.mp4")
    assert _display(final) == (*_display(source)[:2], 90)
    assert_same_audio(final, source)


def test_audio_of_the_segments_is_ignored(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """`tracks: source`: other audio in the processed segments does not reach the final."""
    source = clip("plain")

    def change(index: int, body: bytes) -> bytes:
        before, after = tmp_path / f"in-{index}.mp4", tmp_path / f"out-{index}.mp4"
        before.write_bytes(body)
        clips.ffmpeg("-i", str(before), "-c:v", "copy", "-af", "volume=0", str(after))
        return after.read_bytes()

    final = join(stack, source, change, tmp_path / "final.mp4", tracks={"S": "source"})
    assert_same_audio(final, source)


def test_audio_of_the_segments_is_used_if_there_is_some(
    stack: Stack, clip: ClipMaker, logs: Logs, tmp_path: Path
) -> None:
    """`auto` with a worker that returns audio."""
    join(stack, clip("plain"), None, tmp_path / "final.mp4")
    assert logs.one("tracks_chosen")["tracks"] == "segments"
    assert stack.row("Jobs")["tracks_used"] == {"S": "segments"}


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_audio_that_one_segment_lacks(stack: Stack, clip: ClipMaker, tmp_path: Path, silent: int) -> None:
    """The audio of a source may start late and end early, but not in a segment that a worker got with audio."""
    mute = without_audio(tmp_path, *COPIED)
    stack.add_job()
    stack.upload(clip("plain"))
    stack.chunk()
    total = stack.job().total_segments
    stack.process_segments(change=lambda index, body: mute(index, body) if index == silent else body)
    stack.reassemble()
    assert total == 3
    assert stack.job().status is JobStatus.FAILED
    assert f"segment {silent} has no audio track, but had 1 audio track when it was split" in (stack.job().error or "")


LOSSES = {
    "a track": (("-map", "-0:a:1"), "has 1 audio track, but had 2"),
    "the end": (("-filter:a:1", "atrim=end=1"), "has an audio track of 1.0 s"),
    "the start": (("-filter:a:0", "atrim=start=1"), "has an audio track of "),
}


@pytest.mark.parametrize("affected", [0, 1, 2])
@pytest.mark.parametrize("lost", LOSSES)
def test_audio_that_a_worker_lost_in_part(
    stack: Stack, clip: ClipMaker, tmp_path: Path, lost: str, affected: int
) -> None:
    """The job fails and names the segment, wherever it is."""
    options, reason = LOSSES[lost]
    stack.add_job()
    stack.upload(clip("two_audio"))
    stack.chunk()

    def lose(index: int, body: bytes) -> bytes:
        before, after = tmp_path / f"in-{index}.mp4", tmp_path / f"out-{index}.mp4"
        before.write_bytes(body)
        lossy = options if index == affected else ()
        clips.ffmpeg("-i", str(before), "-map", "0", *lossy, "-c:v", "copy", "-c:a", "aac", str(after))
        return after.read_bytes()

    stack.process_segments(change=lose)
    stack.reassemble()
    assert stack.job().status is JobStatus.FAILED
    assert f"segment {affected} {reason}" in (stack.job().error or "")


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_a_segment_without_audio_that_cannot_be_compared(
    stack: Stack, clip: ClipMaker, tmp_path: Path, silent: int
) -> None:
    """The segment as it was split is gone: nobody knows whether it had audio. The job fails, unless the user knows."""
    mute = without_audio(tmp_path, *COPIED)
    stack.add_job()
    stack.upload(clip("plain"))
    stack.chunk()
    stack.process_segments(change=lambda index, body: mute(index, body) if index == silent else body)
    stack.aws.s3.delete_object(Bucket=INPUT, Key=stack.segment_keys()[silent])
    stack.reassemble()
    error = stack.job().error or ""
    assert stack.job().status is JobStatus.FAILED
    assert f"segment {silent} has no audio track, others have 1, and it cannot be compared" in error
    assert "was removed: s3://" in error


def test_an_audio_track_that_one_segment_has_more(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """The job fails and names the segment."""
    stack.add_job()
    stack.upload(clip("plain"))
    stack.chunk()

    def add(index: int, body: bytes) -> bytes:
        before, after = tmp_path / "in.mp4", tmp_path / "out.mp4"
        before.write_bytes(body)
        clips.ffmpeg("-i", str(before), "-map", "0", "-map", "0:a", "-c", "copy", str(after))
        return after.read_bytes() if index == 1 else body

    stack.process_segments(change=add)
    stack.reassemble()
    assert "segment 1 has 2 audio tracks, but had 1 audio track when it was split" in (stack.job().error or "")


SILENCES = {
    "a late start": "gte(t,5)",
    "an early end": "lte(t,3)",
    "both": "between(t,5,7)",
    "a pause at the cut": "not(between(t,3,5))",
    "a pause for a segment": "not(between(t,3,8))",
    "a last packet until the end": "not(between(t,9,12))",
}


@pytest.mark.parametrize("silence", SILENCES)
def test_silence_in_the_source(stack: Stack, tmp_path: Path, silence: str) -> None:
    """Segments that a worker re-encoded may lack the audio that the source lacks."""
    whole, source = tmp_path / "whole.mp4", tmp_path / "source.mp4"
    clips.ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=size=128x72:rate=25:duration=13", "-f", "lavfi", "-i", "sine=duration=13"),
        *("-af", f"aselect='{SILENCES[silence]}'", "-c:v", "libx264", "-g", "25", "-c:a", "aac", str(whole)),
    )
    clips.ffmpeg("-i", str(whole), "-t", "11", "-c", "copy", str(source))

    def change(index: int, body: bytes) -> bytes:
        before, after = tmp_path / f"in-{index}.mp4", tmp_path / f"out-{index}.mp4"
        before.write_bytes(body)
        clips.ffmpeg("-i", str(before), *ENCODED, "-c:a", "aac", str(after))
        return after.read_bytes()

    final = join(stack, source, change, tmp_path / "final.mp4", segment_duration_sec={"N": "4"})
    assert stack.job().total_segments == 3
    assert audible(final) == pytest.approx(audible(source), abs=0.03)


def test_audio_of_another_speed(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """With `frame_check: any`, segments may be shorter, and their audio with them."""

    def change(index: int, body: bytes) -> bytes:
        before, after = tmp_path / f"in-{index}.mp4", tmp_path / f"out-{index}.mp4"
        before.write_bytes(body)
        clips.ffmpeg("-i", str(before), *ENCODED, "-vf", "setpts=PTS/2", "-af", "atempo=2", "-c:a", "aac", str(after))
        return after.read_bytes()

    join(stack, clip("plain"), change, tmp_path / "final.mp4", frame_check={"S": "any"})


def test_audio_that_ends_before_the_last_segment(stack: Stack, tmp_path: Path) -> None:
    """Workers return no audio track then."""
    source = tmp_path / "source.mp4"
    clips.ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=size=128x72:rate=25:duration=10"),
        *("-f", "lavfi", "-i", "sine=duration=3", "-c:v", "libx264", "-g", "25", "-c:a", "aac", str(source)),
    )
    mute = without_audio(tmp_path, *COPIED)
    final = join(stack, source, lambda index, body: mute(index, body) if index else body, tmp_path / "final.mp4")
    assert [each["codec_type"] for each in look.streams(final)] == ["video", "audio"]


def test_silence_on_request(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """`tracks: segments` with a worker that returns video only."""
    final = join(stack, clip("plain"), without_audio(tmp_path), tmp_path / "final.mp4", tracks={"S": "segments"})
    assert [each["codec_type"] for each in look.streams(final)] == ["video"]


def test_a_silent_source_need_not_stay(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """`auto` does not look for audio in a source that has none."""
    stack.add_job()
    stack.upload(clip("no_audio"))
    stack.chunk()
    stack.aws.s3.delete_object(Bucket=INPUT, Key=build_source_key("job-1"))
    stack.process_segments(change=without_audio(tmp_path))
    stack.reassemble()
    assert stack.job().status is JobStatus.COMPLETED


@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_the_source_must_be_the_planned_one(stack: Stack, clip: ClipMaker, tmp_path: Path, what: str) -> None:
    """Audio of another file is never joined with the video."""
    stack.add_job()
    stack.upload(clip("plain"))
    stack.chunk()
    stack.process_segments(change=without_audio(tmp_path))
    if what == "removed":
        stack.aws.s3.delete_object(Bucket=INPUT, Key=build_source_key("job-1"))
    else:
        stack.upload(clip("long_audio"))
    stack.reassemble()
    assert stack.job().status is JobStatus.FAILED
    assert f"{build_source_key('job-1')} was {what} after it was split" in (stack.job().error or "")


def test_a_source_that_was_remuxed(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """Its audio comes from the segments as they were split, which have it packet by packet."""
    source = clip("matroska")
    final = join(stack, source, without_audio(tmp_path), tmp_path / "final.mp4")
    found, expected = look.packets(final, "a:0"), look.packets(source, "a:0")
    assert [packet.content for packet in found] == [packet.content for packet in expected]
    assert look.largest_shift_ms(found, expected) <= 1
    pairs = zip(frame_times_ms(final), frame_times_ms(source), strict=True)
    assert max(abs(one - other) for one, other in pairs) <= 1


def test_a_segment_of_another_duration(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """Audio would drift: with audio from the source, `frame_check: any` does not allow it either."""
    stack.add_job(frame_check={"S": "any"})
    stack.upload(clip("plain"))
    stack.chunk()
    stack.process_segments(change=without_audio(tmp_path, *ENCODED, "-vf", "setpts=1.2*PTS"))
    stack.reassemble()
    assert stack.job().status is JobStatus.FAILED
    assert "segment 0 lasts 4.8" in (stack.job().error or "")


def test_another_frame_rate(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """`frame_check: any`: 30 frames a second in place of 25."""
    source = clip("plain")
    worker = without_audio(tmp_path, *ENCODED, "-vf", "fps=30")
    final = join(stack, source, worker, tmp_path / "final.mp4", frame_check={"S": "any"})
    assert look.count_frames(final) == 300
    assert_same_audio(final, source)


def test_requests(stack: Stack, rich: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 copies the video. Chunks of audio are read many at a time, and those that are far apart in parallel."""
    monkeypatch.setattr(moto_s3, "S3_UPLOAD_PART_MIN_SIZE", 1024)
    use_small_parts(monkeypatch, 20_000, upload_bytes=60_000, copy_bytes=1024 * 1024)
    stack.add_job()
    stack.upload(rich)
    stack.chunk()
    stack.process_segments(change=without_audio(tmp_path))
    calls: list[str] = []
    for name in ("GetObject", "UploadPartCopy"):
        stack.aws.s3.meta.events.register(f"before-call.s3.{name}", lambda *, n=name, **_: calls.append(n))
    stack.reassemble()
    assert stack.job().error is None
    assert_same_audio(stack.save_final(tmp_path / "final.mp4"), rich, tracks=2)
    chunks = sum(len(track.table.chunks.offsets) for track in movie_of(rich).tracks if not track.is_video)
    assert chunks > 40
    assert calls.count("GetObject") < chunks / 2
    assert calls.count("UploadPartCopy") >= (stack.job().total_segments or 0) > 0
