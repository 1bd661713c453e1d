"""Sources and processed segments in other containers: remuxed by ffmpeg, then split and joined by the same code."""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from media_worker import workdir
from media_worker.engines import remux
from media_worker.jobs import JobStatus

from tests.functional.conftest import ClipMaker
from tests.functional.logs import Logs
from tests.functional.stack import INPUT, Stack
from tests.functional.test_media import run_through
from tests.media import look
from tests.media.clips import ffmpeg

_H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "30", "-pix_fmt", "yuv420p")
_PYRAMID = (
    *("-c:v", "libx264", "-preset", "fast", "-pix_fmt", "yuv420p"),
    *("-x264-params", "bframes=3:b-pyramid=normal:keyint=30:min-keyint=30:scenecut=0"),
)
_HEVC = (
    *("-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p"),
    *("-x265-params", "log-level=none:open-gop=0:keyint=30:min-keyint=30"),
)
_HEVC_OPEN = (
    *("-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p"),
    *("-x265-params", "log-level=none:keyint=30:min-keyint=30:bframes=4:b-adapt=0"),
)
_VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "30")
_VP8 = ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-g", "30")
_MPEG2 = ("-c:v", "mpeg2video", "-g", "15", "-bf", "2", "-flags", "+cgop", "-sc_threshold", "1000000000")
_MPEG4 = ("-c:v", "mpeg4", "-bf", "2", "-g", "30")
_SIMPLE = ("-c:v", "mpeg4", "-g", "30")
_DNXHR = ("-c:v", "dnxhd", "-profile:v", "dnxhr_lb", "-vf", "scale=256:144", "-pix_fmt", "yuv422p")
_DV = ("-c:v", "dvvideo", "-vf", "scale=720:576", "-pix_fmt", "yuv420p")

# Frame rate, video, audio.
SOURCES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "h264-aac.mkv": ("30", _H264, ("-c:a", "aac")),
    "pyramid-23976.mkv": ("24000/1001", _PYRAMID, ("-c:a", "aac")),
    "pyramid-24-ac3.mkv": ("24", _PYRAMID, ("-c:a", "ac3")),
    "opus.mkv": ("25", _H264, ("-c:a", "libopus")),
    "flac.mkv": ("30", _H264, ("-c:a", "flac")),
    "pcm.mkv": ("30", _H264, ("-c:a", "pcm_s16le")),
    "vp9-opus.webm": ("30", _VP9, ("-c:a", "libopus")),
    "h264-aac.ts": ("30", _H264, ("-c:a", "aac")),
    "hevc-eac3.ts": ("50", _HEVC, ("-c:a", "eac3")),
    "mpeg2-mp2.mpg": ("25", _MPEG2, ("-c:a", "mp2")),
    "mpeg4-mp3.avi": ("30", _SIMPLE, ("-c:a", "libmp3lame")),
    "mpeg4-b-frames.avi": ("30", _MPEG4, ("-c:a", "libmp3lame")),
    "h264-aac.flv": ("30", _H264, ("-c:a", "aac")),
    "open-gop.mkv": ("30", _HEVC_OPEN, ("-c:a", "aac")),
    "mpeg2-pcm.mxf": ("25", _MPEG2, ("-c:a", "pcm_s16le")),
    "dnxhr-pcm.mxf": ("25", _DNXHR, ("-c:a", "pcm_s16le")),
    "dv-pcm.avi": ("25", _DV, ("-c:a", "pcm_s16le")),
    "camcorder-pcm.dv": ("25", _DV, ("-c:a", "pcm_s16le", "-ac", "2")),
    "prores-pcm.mkv": ("24000/1001", ("-c:v", "prores_ks", "-profile:v", "0"), ("-c:a", "pcm_s24le")),
    "cineform-pcm.avi": (
        "30",
        ("-c:v", "cfhd", "-vf", "scale=256:144", "-pix_fmt", "yuv422p10le"),
        ("-c:a", "pcm_s16le"),
    ),
    "v210-pcm.avi": ("25", ("-c:v", "v210", "-pix_fmt", "yuv422p10le"), ("-c:a", "pcm_s16le")),
    "truehd.mkv": ("24", _H264, ("-c:a", "truehd", "-strict", "experimental")),
    "h264-no-b-frames.avi": ("25", (*_H264, "-bf", "0"), ("-c:a", "libmp3lame")),
    "h264-no-b-frames.asf": ("25", (*_H264, "-bf", "0"), ("-c:a", "libmp3lame")),
    "huffyuv-pcm.avi": ("25", ("-c:v", "huffyuv", "-pix_fmt", "yuv422p"), ("-c:a", "pcm_s16le")),
}
REFUSED: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "vp8-vorbis.webm": ("30", _VP8, ("-c:a", "vorbis", "-strict", "-2", "-ac", "2")),
    "wma.asf": ("30", _H264, ("-c:a", "wmav2")),
    "vorbis.mkv": ("30", _H264, ("-c:a", "vorbis", "-strict", "-2", "-ac", "2")),
    "h264-b-frames.avi": ("30", _H264, ("-c:a", "libmp3lame")),
    "prores-flac.mkv": ("24", ("-c:v", "prores_ks", "-profile:v", "0"), ("-c:a", "flac")),
}


TOLERANCE_S = 0.0015  # times are rounded to a millisecond at most
REFUSED_TRACKS = {
    "vp8-vorbis.webm": ("track 0 (video, vp8, 192x108)", "track 1 (audio, vorbis, 48000 Hz stereo)"),
    "wma.asf": ("track 1 (audio, wmav2, 48000 Hz mono)",),
    "vorbis.mkv": ("track 1 (audio, vorbis, 48000 Hz stereo)",),
    "h264-b-frames.avi": ("track 0 (video, h264, 192x108)",),
    "prores-flac.mkv": ("track 1 (audio, flac, 48000 Hz mono)",),
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("containers")


def clip_of(folder: Path, name: str) -> Path:
    """Ten seconds, each clip made once."""
    path = folder / name
    if not path.exists():
        rate, video, audio = (SOURCES | REFUSED)[name]
        ffmpeg(
            *("-f", "lavfi", "-i", f"testsrc2=size=192x108:rate={rate}:duration=10"),
            *("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration=10"),
            *(*video, *audio, str(path)),
        )
    return path


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_frame_and_every_packet_is_in_the_final(stack: Stack, folder: Path, tmp_path: Path, name: str) -> None:
    """In the source's order, within one tick of the container's times, and in more than one segment."""
    source = clip_of(folder, name)
    final = run_through(stack, source, tmp_path)
    assert len(stack.segment_keys()) == 3
    assert contents(source, final)
    (old_video, old_audio), (new_video, new_audio) = times_s(source), times_s(final)
    assert len(new_video) == len(old_video)
    for old, new in zip(sorted(old_video), sorted(new_video), strict=True):
        assert abs(new - old) <= TOLERANCE_S
    if "pcm" not in name:  # MP4 has other packets of it
        assert len(new_audio) == len(old_audio)
        assert abs(new_audio[0] - old_audio[0]) <= TOLERANCE_S
        assert abs(new_audio[-1] - old_audio[-1]) <= TOLERANCE_S


def contents(source: Path, final: Path) -> bool:
    """Whether both have the same frames in the same order."""
    before, after = look.decoded_frames(source), look.decoded_frames(final)
    return [frame.content for frame in before] == [frame.content for frame in after]


def times_s(path: Path) -> tuple[list[float], list[float]]:
    """When each frame and each audio packet is presented, counted from the start of the file."""
    flags = ("-fflags", "+genpts") if path.suffix in {".avi", ".mpg"} and "h264" not in path.name else ()
    printed = ffmpeg(*flags, "-i", str(path), "-map", "0:V:0", "-map", "0:a:0", "-c", "copy", "-f", "framecrc", "-")
    video, audio = parse_times(printed)
    return video, audio


def parse_times(printed: str) -> tuple[list[float], list[float]]:
    bases: dict[str, Fraction] = {}
    found: dict[str, list[float]] = {"0": [], "1": []}
    for line in printed.splitlines():
        if line.startswith("#tb "):
            bases[line[4]] = Fraction(line.partition(":")[2].strip())
        elif not line.startswith("#"):
            track, _, pts, *_ = line.split(",")
            found[track].append(float(int(pts) * bases[track]))
    return found["0"], found["1"]


@pytest.mark.parametrize("name", ["h264-aac.mkv", "pyramid-23976.mkv", "h264-aac.flv"])
def test_frames_last_equally_long_again(stack: Stack, folder: Path, tmp_path: Path, name: str) -> None:
    """The container has rounded them to 33 or 34 ms."""
    final = run_through(stack, clip_of(folder, name), tmp_path)
    times = [frame.presented_at_s for frame in look.decoded_frames(final)]
    video = next(stream for stream in look.streams(final) if stream["codec_type"] == "video")
    assert video["avg_frame_rate"] == video["r_frame_rate"] == {"pyramid-23976.mkv": "24000/1001"}.get(name, "30/1")
    assert len(set(times)) == len(times)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("vp8-vorbis.webm", "convert the audio to AAC and convert the video to H.264, HEVC, VP9 or AV1"),
        ("wma.asf", "convert the audio to AAC, then upload it again"),
        ("vorbis.mkv", "an MP4 cannot hold track 1"),
        ("h264-b-frames.avi", "the container does not say when each frame"),
        ("prores-flac.mkv", "a QuickTime file, which this video needs, cannot hold"),
    ],
)
def test_what_an_mp4_cannot_hold_is_named(stack: Stack, folder: Path, name: str, error: str) -> None:
    """Which track, which codec, and what to do."""
    stack.add_job()
    stack.upload(clip_of(folder, name))
    assert stack.chunk() == []
    assert stack.job().status is JobStatus.FAILED
    for track in REFUSED_TRACKS[name]:
        assert track in (stack.job().error or "")
    assert error in (stack.job().error or "")
    assert stack.segment_keys() == []
    assert stack.leftovers() == []


def without_some_packets(body: bytes) -> bytes:
    """A recording with bad reception: every 500th packet of 188 bytes is lost."""
    packets = [body[at : at + 188] for at in range(0, len(body), 188)]
    return b"".join(packet for number, packet in enumerate(packets) if number % 500 != 300)


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], tuple[str, ...]]] = {
    # The packet counters of two recordings are not continuous.
    "two recordings": (lambda body: body * 2, ()),
    "lost packets": (without_some_packets, ("-fflags", "+discardcorrupt")),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_source_is_refused_with_a_way_to_repair_it(
    stack: Stack, folder: Path, tmp_path: Path, damage: str
) -> None:
    """Otherwise frames would be missing unnoticed."""
    make, options = DAMAGED[damage]
    broken = tmp_path / "broken.ts"
    broken.write_bytes(make(clip_of(folder, "h264-aac.ts").read_bytes()))
    stack.add_job()
    stack.upload(broken)
    assert stack.chunk() == []
    error = stack.job().error or ""
    assert "the source cannot be split: ffmpeg cannot copy its packets: corrupt input packet" in error
    assert "ffmpeg -i source -map 0 -c copy repaired.mp4" in error
    repaired = tmp_path / "repaired.mp4"
    assert all(option in error for option in options)
    ffmpeg(*options, "-i", str(broken), "-map", "0", "-c", "copy", str(repaired))
    final = run_through(stack, repaired, tmp_path)
    assert contents(repaired, final)


def test_subtitles_that_an_mp4_cannot_hold_are_left_out_with_a_notice(
    stack: Stack, folder: Path, tmp_path: Path, logs: Logs
) -> None:
    """The video and the audio go on."""
    (tmp_path / "titles.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\none\n")
    source = tmp_path / "titles.mkv"
    plain = clip_of(folder, "h264-aac.mkv")
    ffmpeg("-i", str(plain), "-i", str(tmp_path / "titles.srt"), "-c", "copy", "-c:s", "srt", str(source))
    final = run_through(stack, source, tmp_path)
    assert [stream["codec_type"] for stream in look.streams(final)] == ["video", "audio"]
    assert logs.one("notice")["notice"] == "left out, because an MP4 cannot hold it: track 2 (subtitle, subrip)"


def test_a_recording_that_was_cut_off_says_so(stack: Stack, folder: Path, tmp_path: Path, logs: Logs) -> None:
    """What is there is processed."""
    source = tmp_path / "cut-off.mkv"
    content = clip_of(folder, "h264-aac.mkv").read_bytes()
    source.write_bytes(content[: len(content) * 3 // 4])
    run_through(stack, source, tmp_path)
    assert logs.one("notice")["notice"].startswith("the source was cut off")


@pytest.mark.parametrize("name", ["h264-aac.ts", "mpeg2-mp2.mpg"])
def test_a_recording_that_starts_inside_a_gop(
    stack: Stack, folder: Path, tmp_path: Path, logs: Logs, name: str
) -> None:
    """All frames that decoders present, and a notice about the others if their times are known."""
    source = tmp_path / f"capture{Path(name).suffix}"
    source.write_bytes(clip_of(folder, name).read_bytes()[188 * 512 :])  # whole packets of both containers
    final = run_through(stack, source, tmp_path)
    assert contents(source, final)
    if name == "h264-aac.ts":
        assert "not presented, because no decoder can decode them: the first" in logs.one("notice")["notice"]


# What takes space


@contextmanager
def watched_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[set[str]]]:
    """The files that are on /tmp whenever ffmpeg starts."""
    seen: list[set[str]] = []
    from media_worker.engines.ffmpeg import Process  # noqa: PLC0415

    def limit(self: Any, original: Any = Process._limit) -> None:
        seen.append({path.name for path in self.directory.iterdir()})
        original(self)

    monkeypatch.setattr(Process, "_limit", limit)
    yield seen


@pytest.mark.parametrize(
    ("name", "downloaded"),
    [
        ("h264-aac.mkv", False),
        ("h264-aac.ts", False),
        ("h264-aac.flv", False),
        ("mpeg4-mp3.avi", False),
        ("mpeg2-mp2.mpg", False),
        ("vp9-opus.webm", False),
        ("mpeg2-pcm.mxf", True),
    ],
)
def test_only_what_needs_seeking_is_downloaded(
    stack: Stack, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, downloaded: bool
) -> None:
    """The others pass through a pipe: /tmp holds the MP4 alone."""
    with watched_names(monkeypatch) as seen:
        stack.add_job()
        stack.upload(clip_of(folder, name))
        assert stack.chunk() == []
    assert stack.job().status is JobStatus.CHUNKING_COMPLETE, stack.job().error
    assert any("source" in names for names in seen) is downloaded


@pytest.mark.parametrize(("name", "times"), [("h264-aac.mkv", 1), ("mpeg2-pcm.mxf", 2)])
def test_a_source_that_does_not_fit_fails_before_it_is_read(
    stack: Stack, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, times: int
) -> None:
    """Through a pipe it needs its size once, else twice. The error says how much, and what to do."""
    source = clip_of(folder, name)
    usage = shutil.disk_usage("/")._replace(free=workdir._MARGIN_BYTES + times * source.stat().st_size - 1)
    monkeypatch.setattr("media_worker.workdir.shutil.disk_usage", lambda _: usage)
    stack.add_job()
    stack.upload(source)
    assert stack.chunk() == []
    assert stack.job().status is JobStatus.FAILED
    assert "of temporary space" in (stack.job().error or "")
    monkeypatch.setattr("media_worker.workdir.shutil.disk_usage", lambda _: usage._replace(free=usage.free + 1))
    stack.add_job("job-2")
    stack.upload(source, "job-2")
    assert stack.chunk("job-2") == []
    assert stack.job("job-2").status is JobStatus.CHUNKING_COMPLETE


def test_a_source_replaced_while_it_is_fed_is_retried(
    stack: Stack, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ffmpeg does not get one half of each."""
    monkeypatch.setattr("media_worker.s3._FORWARD_BYTES", 65536)
    stack.add_job()
    stack.upload(clip_of(folder, "h264-aac.mkv"))
    ranges: list[str] = []

    def replace_source(params: dict[str, Any], **_: Any) -> None:
        ranges.append(params["Range"])
        if params["Range"].startswith("bytes=131072-"):
            stack.aws.s3.meta.events.unregister("provide-client-params.s3.GetObject", replace_source)
            stack.upload(clip_of(folder, "opus.mkv"))

    stack.aws.s3.meta.events.register("provide-client-params.s3.GetObject", replace_source)
    assert stack.chunk() == ["message-0"]
    assert stack.segment_keys() == []
    assert stack.leftovers() == []
    assert stack.chunk(receive_count=2) == []
    assert stack.job().status is JobStatus.CHUNKING_COMPLETE


# Processed segments


def test_processed_segments_in_another_container_join(
    stack: Stack, clip: ClipMaker, tmp_path: Path, logs: Logs
) -> None:
    """One segment is Matroska under the name of an MP4; the others stay where they are."""
    source = clip("plain")
    stack.add_job(engine={"S": "auto"})
    stack.upload(source)
    assert stack.chunk() == []

    def to_matroska(index: int, body: bytes) -> bytes:
        if index != 1:
            return body
        (tmp_path / "in.mp4").write_bytes(body)
        ffmpeg("-i", str(tmp_path / "in.mp4"), "-c", "copy", str(tmp_path / "out.mkv"))
        return (tmp_path / "out.mkv").read_bytes()

    stack.process_segments(change=to_matroska)
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.COMPLETED, stack.job().error
    final = stack.save_final(tmp_path / "final.mp4")
    before, after = look.decoded_frames(source), look.decoded_frames(final)
    assert [frame.content for frame in after] == [frame.content for frame in before]
    assert look.largest_shift_ms(before, after) < 1
    assert logs.one("engine_fallback")["key"] == "jobs/job-1/segments/1.mp4"
    assert stack.leftovers() == []


@pytest.mark.parametrize(("body", "error"), [(b"no video at all" * 100, "ffmpeg cannot read it as a video")])
def test_a_processed_segment_that_is_no_video_is_named(stack: Stack, clip: ClipMaker, body: bytes, error: str) -> None:
    """The job fails with the segment's number."""
    stack.add_job(engine={"S": "auto"})
    stack.upload(clip("plain"))
    assert stack.chunk() == []
    stack.process_segments(change=lambda index, content: body if index == 1 else content)
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.FAILED
    assert f"segment 1 cannot be joined: {error}" in (stack.job().error or "")


def test_a_retry_makes_the_same_segments(stack: Stack, folder: Path) -> None:
    """The remux is repeatable, so a second attempt completes what the first has begun."""
    stack.add_job()
    stack.upload(clip_of(folder, "pyramid-23976.mkv"))
    assert stack.chunk() == []
    first = {key: stack.read(INPUT, key) for key in stack.segment_keys()}
    lost = sorted(first)[1]
    stack.aws.s3.delete_object(Bucket=INPUT, Key=lost)
    stack.aws.dynamodb.update_item(
        TableName="Jobs",
        Key={"job_id": {"S": "job-1"}},
        UpdateExpression="SET #s = :s",
        ExpressionAttributeNames={"#s": "status"},
        ExpressionAttributeValues={":s": {"S": "chunking_in_progress"}},
    )
    assert stack.chunk(receive_count=2) == []
    assert {key: stack.read(INPUT, key) for key in stack.segment_keys()} == first


def test_the_signature_decides_what_needs_seeking() -> None:
    """Boxes of MP4 and QuickTime, and the key of MXF."""
    assert remux._needs_seeking(b"\0\0\0\x20ftypisom\0\0\0\0")
    assert remux._needs_seeking(b"\0\0\0\x08wide\0\0\0\0mdat")
    assert remux._needs_seeking(bytes.fromhex("060e2b34020501010d01020101020400"))
    assert not remux._needs_seeking(bytes.fromhex("1a45dfa3"))
    assert not remux._needs_seeking(b"G@\x11\x10")
    assert not remux._needs_seeking(b"")


@pytest.mark.parametrize("engine", ["auto", "copy", "ffmpeg"])
def test_an_encrypted_source_is_never_remuxed(stack: Stack, clip: ClipMaker, tmp_path: Path, engine: str) -> None:
    """Ffmpeg would copy the encrypted samples and drop what says so."""
    source = tmp_path / "encrypted.mp4"
    key = ("-encryption_scheme", "cenc-aes-ctr", "-encryption_key", "00" * 16, "-encryption_kid", "11" * 16)
    ffmpeg("-i", str(clip("plain")), "-c", "copy", *key, str(source))
    stack.add_job(engine={"S": engine})
    stack.upload(source)
    assert stack.chunk() == []
    assert stack.job().status is JobStatus.FAILED
    assert "encrypted" in (stack.job().error or "")
    assert "decrypt it" in (stack.job().error or "")
    assert stack.segment_keys() == []


def test_a_track_without_packets_is_left_out_with_a_notice(
    stack: Stack, folder: Path, tmp_path: Path, logs: Logs
) -> None:
    """A recorder that announced a second audio track and never wrote it."""
    source = tmp_path / "announced.mkv"
    plain = str(clip_of(folder, "h264-aac.mkv"))
    ffmpeg("-i", plain, "-map", "0", "-map", "0:a", "-c", "copy", "-bsf:a:1", "noise=drop=1", str(source))
    assert len(look.streams(source)) == 3
    final = run_through(stack, source, tmp_path)
    assert [stream["codec_type"] for stream in look.streams(final)] == ["video", "audio"]
    assert contents(source, final)
    assert "it has no packets: track 2 (audio, aac, 48000 Hz mono)" in logs.one("notice")["notice"]


@pytest.mark.parametrize("dropped", ["1", "key"])
def test_a_video_without_key_frames_is_named(stack: Stack, folder: Path, tmp_path: Path, dropped: str) -> None:
    """The container compresses it in a way that this ffmpeg does not know, or there is none."""
    source = tmp_path / "compressed.mkv"
    plain = str(clip_of(folder, "h264-aac.mkv"))
    ffmpeg("-i", plain, "-map", "0", "-c", "copy", "-bsf:v", f"noise=drop={dropped}", str(source))
    stack.add_job()
    stack.upload(source)
    assert stack.chunk() == []
    error = stack.job().error or ""
    assert "ffmpeg finds no key frame of track 0 (video, h264, 192x108): convert it to MP4" in error


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("clamped.flv", ("-i", "h264-aac.flv", "-c", "copy", "-bsf:v", "setts=pts=PTS-67:dts=max(DTS-67\\,0)")),
        ("starts-late.mkv", ("-ss", "2.1", "-i", "open-gop.mkv", "-c", "copy", "-avoid_negative_ts", "make_zero")),
    ],
)
def test_decode_times_that_do_not_increase(
    stack: Stack, folder: Path, tmp_path: Path, name: str, command: tuple[str, ...]
) -> None:
    """GStreamer's FLV muxer writes no negative ones, and ffmpeg guesses wrong ones for a Matroska file that starts with
    an open GOP. The final has the presentation times of the source.
    """
    source = tmp_path / name
    ffmpeg(*(str(clip_of(folder, word)) if word in SOURCES else word for word in command), str(source))
    final = run_through(stack, source, tmp_path)
    assert len(stack.segment_keys()) > 1
    (old_video, old_audio), (new_video, new_audio) = times_s(source), times_s(final)
    assert sorted(new_video) == pytest.approx(sorted(old_video), abs=TOLERANCE_S)
    assert new_audio == pytest.approx(old_audio, abs=TOLERANCE_S)


def packed(avi: bytes) -> bytes:
    """DivX's packed B-frames: a P-frame and the B-frame behind it in one packet, and an empty packet in exchange."""
    chunks, at, end = [], avi.index(b"movi") + 4, avi.index(b"idx1")
    while at < end:
        size = int.from_bytes(avi[at + 4 : at + 8], "little")
        chunks.append((avi[at : at + 4], avi[at + 8 : at + 8 + size]))
        at += 8 + size + size % 2
    videos = [index for index, (name, _) in enumerate(chunks) if name == b"00dc"]
    types = {index: re.search(rb"\x00\x00\x01\xb6(.)", chunks[index][1], re.DOTALL)[1][0] >> 6 for index in videos}  # type: ignore[index]
    for before, index, after in zip(videos, videos[1:], videos[2:], strict=False):
        if types[index] == 2 and types[before] < 2 and types[after] == 2:  # the first of two B-frames
            chunks[before] = (b"00dc", chunks[before][1] + chunks[index][1])
            chunks[index], chunks[after] = chunks[after], (b"00dc", b"\0\0\1\xb6\x5a\x5f")
    body = b"".join(name + len(data).to_bytes(4, "little") + data + bytes(len(data) % 2) for name, data in chunks)
    return re.sub(rb"Lavc[0-9.]{9}", b"DivX503b1393p", avi[: avi.index(b"movi") + 4] + body)


def test_packed_b_frames_are_presented_at_their_times(stack: Stack, folder: Path, tmp_path: Path) -> None:
    """As in the same file without them."""
    plain = clip_of(folder, "mpeg4-b-frames.avi")
    source = tmp_path / "divx.avi"
    source.write_bytes(packed(plain.read_bytes()))
    final = run_through(stack, source, tmp_path)
    assert contents(plain, final)
    assert times_s(final)[0] == pytest.approx(times_s(plain)[0], abs=TOLERANCE_S)
    assert stack.leftovers() == []


def earlier_audio(flv: bytes, by_ms: int) -> bytes:
    """The second half of the audio of a recording, moved. Tags are: type, size (3 bytes), time (3 bytes), ..."""
    moved, at = bytearray(flv), 13
    tags = []
    while at < len(flv):
        tags.append(at)
        at += 15 + int.from_bytes(flv[at + 1 : at + 4], "big")
    for tag in tags[len(tags) // 2 :]:
        if flv[tag] == 8:  # audio
            time_ms = int.from_bytes(flv[tag + 4 : tag + 7], "big")
            moved[tag + 4 : tag + 7] = (time_ms - by_ms).to_bytes(3, "big")
    return bytes(moved)


def test_audio_that_overlaps_where_recordings_meet(stack: Stack, folder: Path, tmp_path: Path) -> None:
    """Every packet is in the final, and the others keep their times. A recording that starts again is refused."""
    source = tmp_path / "two.flv"
    source.write_bytes(earlier_audio(clip_of(folder, "h264-aac.flv").read_bytes(), by_ms=30))
    final = run_through(stack, source, tmp_path)
    (_, old), (_, new) = times_s(source), times_s(final)
    assert len(new) == len(old)
    assert [abs(after - before) < TOLERANCE_S for before, after in zip(old, new, strict=True)].count(False) <= 2
    source.write_bytes(earlier_audio(clip_of(folder, "h264-aac.flv").read_bytes(), by_ms=3000))
    stack.add_job("job-2")
    stack.upload(source, "job-2")
    assert stack.chunk("job-2") == []
    assert "Non-monotonic DTS" in (stack.job("job-2").error or "")


def test_audio_of_which_no_packet_is_a_key_frame(stack: Stack, folder: Path, tmp_path: Path) -> None:
    """GStreamer's Matroska muxer marks none."""
    source = tmp_path / "gstreamer.mkv"
    marked = re.compile(rb"(\xa3[\x40-\x7f].\x82..)\x80", re.DOTALL)  # a SimpleBlock of track 2
    plain = clip_of(folder, "h264-aac.mkv")
    source.write_bytes(marked.sub(b"\\1\0", plain.read_bytes()))
    final = run_through(stack, source, tmp_path)
    assert times_s(final)[1] == pytest.approx(times_s(plain)[1], abs=TOLERANCE_S)
