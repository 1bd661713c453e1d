"""What ffmpeg may open, and what its output says."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_worker.engines.commands import (
    CONTAINERS,
    Track,
    parse_packets,
    parse_tracks,
    probe_command,
    remux_command,
    trial_command,
)

VIDEO, AUDIO = Track(0, "video", "h264", "192x108"), Track(2, "audio", "aac", "48000 Hz mono")
NO_TIME = -(1 << 63)


@pytest.mark.parametrize(("name", "protocol"), [("source", "file"), ("pipe:0", "pipe")])
def test_ffmpeg_may_open_its_input_only(name: str, protocol: str) -> None:
    """One protocol and real containers: what a playlist or a concat script names is not opened."""
    commands = [
        probe_command("ffmpeg", name),
        trial_command("ffmpeg", name, "trial.mp4"),
        remux_command("ffmpeg", name, [VIDEO, AUDIO], "out.mp4"),
    ]
    for command in commands:
        assert command[command.index("-protocol_whitelist") + 1] == protocol
        assert command[command.index("-format_whitelist") + 1] == CONTAINERS
        assert command.index("-format_whitelist") < command.index("-i")
        assert command[command.index("-i") + 1] == name
    assert not {"hls", "concat", "dash", "image2", "sdp", "lavfi"} & set(CONTAINERS.split(","))


def test_the_packets_that_are_listed_are_those_of_the_mp4() -> None:
    """Both outputs of the remux have the same tracks and filters."""
    command = remux_command("ffmpeg", "source", [VIDEO, Track(1, "video", "mpeg4"), AUDIO], "out.mp4")
    outputs = command[command.index("source") + 1 :]
    middle = outputs.index("out.mp4")
    assert outputs[: middle - 2] == outputs[middle + 1 : -3]
    assert [outputs[i + 1] for i, word in enumerate(outputs[:middle]) if word == "-map"] == ["0:0", "0:1", "0:2"]


@pytest.mark.parametrize(("codec", "generated"), [("mpeg2video", True), ("mpeg4", True), ("h264", False)])
def test_presentation_times_are_worked_out_where_ffmpeg_can(codec: str, generated: bool) -> None:
    """With H.264 it would get them wrong."""
    assert ("+genpts" in remux_command("ffmpeg", "pipe:0", [Track(0, "video", codec)], "out.mp4")) is generated


PRINTED = """#software: Lavf62.12.102
#tb 0: 1/1000
#media_type 0: video
#codec_id 0: h264
#dimensions 0: 192x108
#sar 0: 1/1
#tb 1: 1/48000
#media_type 1: audio
#codec_id 1: aac
#sample_rate 1: 48000
#channel_layout_name 1: stereo
#tb 2: 1/90000
#codec_id 2: none
0,        -67,          0,       33,     2508, 0x3ef1b6aa
1,      -1024,      -1024,     1024,       23, 0x01ae02f6, F=0x5, S=1, Skip Samples,       10, 0x033a008a
0,        -34,        100,       33,      500, 0x3ef1b6aa, F=0x0
1,          0,          0,     1024,      209, 0x01ae02f6
0,          0,         33,       33,      500, 0x3ef1b6aa, F=0x0
"""


def test_tracks_are_read_from_the_header() -> None:
    """Kind, codec and shape, as far as ffmpeg knows them."""
    assert [str(track) for track in parse_tracks(PRINTED)] == [
        "track 0 (video, h264, 192x108)",
        "track 1 (audio, aac, 48000 Hz stereo)",
        "track 2 (unknown, none)",
    ]


def test_packets_are_counted_with_their_times() -> None:
    """In presentation order; packets that are only decoded are not presented."""
    video, audio, other = parse_packets(PRINTED.splitlines())
    assert (video.count, video.first, video.presented_start, video.presented_end) == (3, 0, 0, 133)
    assert video.time_base == Fraction(1, 1000)
    assert video.head == [0, 100, 33]
    assert (audio.count, audio.discarded, audio.first, audio.presented_start, audio.presented_end) == (
        *(2, 1, -1024),
        *(0, 1024),
    )
    assert (other.count, other.first) == (0, None)


def test_a_packet_without_a_presentation_time_is_noticed() -> None:
    """As in an AVI with B-frames."""
    (video,) = parse_packets(["#tb 0: 1/25", "0, 0, 0, 1, 9, 0x1", f"0, 1, {NO_TIME}, 1, 9, 0x1, F=0x0"])
    assert video.count == 2
    assert not video.are_known


@given(st.lists(st.tuples(st.integers(-(10**6), 10**9), st.integers(0, 10**6)), min_size=1, max_size=20))
def test_the_presented_time_covers_every_packet(packets: list[tuple[int, int]]) -> None:
    """From the earliest start to the latest end."""
    lines = [f"0, 0, {pts}, {duration}, 9, 0x1, F=0x0" for pts, duration in packets]
    (times,) = parse_packets(["#tb 0: 1/90000", *lines])
    assert times.presented_start == min(pts for pts, _ in packets)
    assert times.presented_end == max(pts + duration for pts, duration in packets)
