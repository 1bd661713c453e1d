"""Command lines for ffmpeg, whole; and what it prints, read."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_worker.engines.commands import (
    Media,
    Track,
    concat_list,
    frames_command,
    join_command,
    parse_frames,
    parse_tracks,
    probe_command,
    split_command,
    trial_command,
)
from media_worker.engines.cuts import Frame, Plan
from media_worker.errors import BadSource

BEGIN = ["ffmpeg", "-hide_banner", "-nostdin", "-nostats", "-v", "error", "-y"]
WHITELIST = "mov,matroska,mpegts,mpeg,avi,flv,asf,mxf,ogg,ivf,wav"
FILES_ONLY = ["-protocol_whitelist", "file", "-format_whitelist", WHITELIST]
NO_COVERS = ["-map", "-0:disp:attached_pic"]

VIDEO, SOUND, DATA = Track(0, "video", "h264", "192x108"), Track(1, "audio", "aac", "48000 Hz mono"), Track(2, "data")
MEDIA = Media((VIDEO, SOUND))
WITH_DATA = Media((VIDEO, SOUND, DATA), (DATA,))


def test_the_probe_reads_no_media() -> None:
    """It maps every track and stops before the first packet."""
    assert probe_command("ffmpeg", "source") == [
        *(*BEGIN, *FILES_ONLY, "-i", "source"),
        *("-copy_unknown", "-map", "0", "-c", "copy", "-t", "0", "-f", "framecrc", "-"),
    ]


def test_the_trial_writes_a_header_only() -> None:
    """Whether an MP4 holds some tracks is asked of ffmpeg's muxer."""
    assert trial_command("ffmpeg", "source", ("-map", "0:2"), "out.mp4") == [
        *(*BEGIN, *FILES_ONLY, "-i", "source", "-map", "0:2"),
        *("-c", "copy", "-t", "0", "-f", "mp4", "out.mp4"),
    ]


def test_the_list_of_frames_reads_every_track() -> None:
    """It prints the first real video track and fails at the first damage in any track."""
    assert frames_command("ffmpeg", "source") == [
        *(*BEGIN, "-xerror", *FILES_ONLY, "-i", "source"),
        *("-map", "0:V:0", "-c", "copy", "-f", "framecrc", "-"),
        *("-map", "0", "-copy_unknown", "-c", "copy", "-f", "null", "-"),
    ]


def test_the_split_cuts_at_the_plans_frames() -> None:
    """Frame numbers, no times: nothing is rounded. Left-out tracks and covers are not mapped."""
    plan = Plan((0, 100, 225), 300, Fraction(4))
    assert split_command("ffmpeg", "source", WITH_DATA, plan) == [
        *(*BEGIN, "-xerror", *FILES_ONLY, "-i", "source"),
        *("-map", "0", *NO_COVERS, "-map", "-0:2"),
        *("-ignore_unknown", "-c", "copy", "-avoid_negative_ts", "disabled"),
        *("-f", "segment", "-segment_frames", "100,225", "-reset_timestamps", "1"),
        *("-segment_format", "mp4", "-segment_list", "pipe:1", "-segment_list_type", "flat", "%05d.mp4"),
    ]


def test_a_split_without_a_cut_is_told_one_that_never_comes() -> None:
    """The muxer would cut every two seconds otherwise."""
    command = split_command("ffmpeg", "source", MEDIA, Plan((0,), 300, Fraction(4)))
    assert command[command.index("-segment_frames") + 1] == "301"


def test_the_join_takes_only_files_that_we_named() -> None:
    """The concat script is ours and safe; what it names must be a real container."""
    assert join_command("ffmpeg", "list.txt", MEDIA, "final.mp4") == [
        *(*BEGIN, "-copyts", "-protocol_whitelist", "file", "-format_whitelist", f"concat,{WHITELIST}"),
        *("-f", "concat", "-safe", "1", "-i", "list.txt", "-map", "0", *NO_COVERS),
        *("-ignore_unknown", "-c", "copy", "-avoid_negative_ts", "disabled"),
        *("-movflags", "+faststart", "-f", "mp4", "final.mp4"),
    ]


@pytest.mark.parametrize("forbidden", ["hls", "concat", "dash", "image2", "sdp", "rtsp", "tee", "lavfi", "applehttp"])
def test_a_source_is_never_a_list_of_other_files(forbidden: str) -> None:
    """No demuxer that opens what a file names is on the list for sources."""
    assert forbidden not in WHITELIST.split(",")
    for command in (probe_command("ffmpeg", "s"), frames_command("ffmpeg", "s")):
        assert command[command.index("-format_whitelist") + 1] == WHITELIST


def test_the_concat_list_says_how_long_each_file_but_the_last_is() -> None:
    """To the microsecond, as the demuxer reads it."""
    assert concat_list(["a.mp4", "b.mp4", "c.mp4"], [Fraction(4), Fraction(10, 3)]) == (
        "ffconcat version 1.0\nfile 'a.mp4'\nduration 4.000000\nfile 'b.mp4'\nduration 3.333333\nfile 'c.mp4'\n"
    )


PROBED = """\
#software: Lavf62.12.102
#tb 0: 1/12800
#media_type 0: video
#codec_id 0: h264
#dimensions 0: 192x108
#sar 0: 1/1
#tb 1: 1/48000
#media_type 1: audio
#codec_id 1: aac
#sample_rate 1: 48000
#channel_layout_name 1: mono
#tb 2: 1/90000
#media_type 2: data
#codec_id 2: bin_data
#tb 3: 1/1
"""


def test_tracks_are_read_from_what_ffmpeg_prints() -> None:
    """Kind, codec, and what else has to be the same for a join; what is not said is unknown."""
    assert parse_tracks(PROBED) == (VIDEO, SOUND, Track(2, "data", "bin_data"), Track(3))


def test_a_track_reads_well() -> None:
    """Logs and errors show it like this."""
    assert [str(track) for track in parse_tracks(PROBED)] == [
        "track 0 (video, h264, 192x108)",
        "track 1 (audio, aac, 48000 Hz mono)",
        "track 2 (data, bin_data)",
        "track 3 (unknown, unknown)",
    ]


def test_sound_without_a_layout_shows_its_rate() -> None:
    """Nothing hangs over."""
    lines = "#tb 0: 1/8000\n#media_type 0: audio\n#codec_id 0: pcm_s16le\n#sample_rate 0: 8000\n"
    assert str(parse_tracks(lines)[0]) == "track 0 (audio, pcm_s16le, 8000 Hz)"


def test_no_tracks_in_nothing() -> None:
    """Noise is no track."""
    assert parse_tracks("") == ()
    assert parse_tracks("hello\n#extradata 0: 40, 0xb1\n") == ()


def test_kept_tracks_are_those_not_left_out() -> None:
    """In their order."""
    assert WITH_DATA.kept == (VIDEO, SOUND)


def test_frames_are_read_exactly() -> None:
    """Times are fractions in the track's own time base; a flags column tells when a frame is no keyframe."""
    lines = [
        "#software: Lavf62",
        "#tb 0: 1001/30000",
        "#media_type 0: video",
        "0,         -2,          0,        1,     4935, 0xf446732e",
        "0,         -1,          3,        1,     1553, 0x8f95c3c8, F=0x0",
        "0,          0,          1,        1,      750, 0x910d6cef, F=0x5, S=1, MPEGTS Stream ID,        1, 0x00e000e0",
        "0,          1,          2,        1,      750, 0x910d6cef, S=1, F=0x0",
    ]
    tick = Fraction(1001, 30000)
    assert list(parse_frames(iter(lines))) == [
        Frame(-2 * tick, 0 * tick, tick, is_keyframe=True),
        Frame(-1 * tick, 3 * tick, tick, is_keyframe=False),
        Frame(0 * tick, 1 * tick, tick, is_keyframe=True),
        Frame(1 * tick, 2 * tick, tick, is_keyframe=False),
    ]


@given(
    st.fractions(min_value=Fraction(1, 100_000), max_value=1, max_denominator=100_000),
    st.lists(
        st.tuples(st.integers(-(2**40), 2**40), st.integers(-(2**40), 2**40), st.integers(0, 2**31), st.booleans())
    ),
)
def test_every_frame_that_is_printed_is_read(time_base: Fraction, frames: list[tuple[int, int, int, bool]]) -> None:
    """parse(print(frames)) == frames, in any time base."""
    printed = [f"#tb 0: {time_base.numerator}/{time_base.denominator}"] + [
        f"0, {dts:10}, {pts:10}, {duration:8}, {100:8}, 0x00000000" + ("" if key else ", F=0x0")
        for dts, pts, duration, key in frames
    ]
    assert list(parse_frames(iter(printed))) == [
        Frame(dts * time_base, pts * time_base, duration * time_base, key) for dts, pts, duration, key in frames
    ]


def test_a_frame_without_a_time_cannot_be_cut() -> None:
    """An AVI or MPEG with B-frames does not say when they are presented; a guess would show them at wrong times."""
    line = "0,          1, -9223372036854775808,        1,     1553, 0x8f95c3c8, F=0x0"
    with pytest.raises(BadSource, match="does not say when each picture is presented; convert it"):
        list(parse_frames(iter([line])))
