"""What ffmpeg may open, and how its output is parsed. The behaviour of the commands is tested with a real ffmpeg."""

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_worker.engines.commands import (
    CONTAINERS,
    PacketTimes,
    Track,
    parse_packets,
    parse_tracks,
    probe_command,
    remux_command,
    trial_command,
)

VIDEO, AUDIO = Track(0, "video", "h264", "192x108"), Track(1, "audio", "aac", "48000 Hz mono")
_NO_TIME = -(1 << 63)


def commands(name: str) -> list[list[str]]:
    return [
        probe_command("ffmpeg", name),
        trial_command("ffmpeg", name, "mp4", "trial.mp4"),
        remux_command("ffmpeg", name, [VIDEO, AUDIO], "out.mp4"),
    ]


def option(command: Sequence[str], name: str) -> str:
    """The value of an option of the input."""
    before_input = command[: command.index("-i")]
    return before_input[before_input.index(name) + 1]


@pytest.mark.parametrize("demuxer", ["hls", "concat", "dash", "image2", "sdp", "rtsp", "tee", "lavfi", "applehttp"])
def test_an_input_is_never_a_list_of_other_files(demuxer: str) -> None:
    """No demuxer that opens the files that a file names is allowed."""
    assert demuxer not in CONTAINERS.split(",")
    assert {option(command, "-format_whitelist") for command in commands("source")} == {CONTAINERS}


@pytest.mark.parametrize(("name", "protocol"), [("source", "file"), ("pipe:0", "pipe")])
def test_an_input_has_one_protocol(name: str, protocol: str) -> None:
    """A file cannot make ffmpeg fetch a URL, and fed media cannot make it open a file."""
    assert {option(command, "-protocol_whitelist") for command in commands(name)} == {protocol}


def test_a_damaged_file_fails_the_remux() -> None:
    """Otherwise ffmpeg would leave out what it cannot read."""
    assert "-xerror" in remux_command("ffmpeg", "source", [VIDEO], "out.mp4")


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


def test_tracks_are_parsed() -> None:
    """Kind, codec and shape; what ffmpeg does not print is unknown."""
    assert parse_tracks(PROBED) == (VIDEO, AUDIO, Track(2, "data", "bin_data"), Track(3))


def test_a_track_in_words() -> None:
    """Logs and errors show it like this."""
    assert [str(track) for track in parse_tracks(PROBED)] == [
        "track 0 (video, h264, 192x108)",
        "track 1 (audio, aac, 48000 Hz mono)",
        "track 2 (data, bin_data)",
        "track 3 (unknown, unknown)",
    ]


def test_audio_without_a_channel_layout_shows_its_rate() -> None:
    """Ffmpeg prints no layout for some PCM tracks."""
    lines = "#tb 0: 1/8000\n#media_type 0: audio\n#codec_id 0: pcm_s16le\n#sample_rate 0: 8000\n"
    assert str(parse_tracks(lines)[0]) == "track 0 (audio, pcm_s16le, 8000 Hz)"


@pytest.mark.parametrize("text", ["", "hello\n#extradata 0: 40, 0xb1\n"])
def test_other_output_has_no_tracks(text: str) -> None:
    """Only a line with a time base describes a track."""
    assert parse_tracks(text) == ()


packets = st.lists(
    st.tuples(st.integers(-(2**40), 2**40), st.integers(0, 2**31), st.sampled_from([0x0, 0x1, 0x4, 0x5])), min_size=1
)


@given(packets)
def test_the_presented_times_of_packets(found: list[tuple[int, int, int]]) -> None:
    """Packets that are decoded but not presented (flag 4) count, but have no part in what is presented."""
    lines = ["#tb 0: 1001/30000"]
    lines += [f"0, {pts:10}, {pts:10}, {duration:8}, 100, 0x0, F={flags:#x}" for pts, duration, flags in found]
    (times,) = parse_packets(lines)
    presented = [(pts, pts + duration) for pts, duration, flags in found if not flags & 4]
    assert (times.time_base, times.count, times.are_known) == (Fraction(1001, 30000), len(found), True)
    assert times.first == min(pts for pts, _, _ in found)
    assert len(times.discarded) == len(found) - len(presented)
    assert times.presented_start == min((start for start, _ in presented), default=None)
    assert times.presented_end == max((end for _, end in presented), default=None)
    hidden = [pts for pts, _, flags in found if flags & 4]
    bounds = presented and (min(presented)[0], max(end for _, end in presented))
    assert times.hides_inside == any(bounds[0] <= pts < bounds[1] for pts in hidden if bounds)


def test_packets_of_several_tracks() -> None:
    """Each has its own time base; a packet without flags is a sync sample."""
    first, second = parse_packets(["#tb 0: 1/25", "#tb 1: 1/48000", "0, 0, 0, 1, 9, 0x0", "1, 0, -1024, 1024, 9, 0x0"])
    assert (first.time_base, first.count) == (Fraction(1, 25), 1)
    assert (second.time_base, second.first) == (Fraction(1, 48000), -1024)


def test_a_packet_without_a_presentation_time_is_noticed() -> None:
    """An AVI with B-frames has none, and a guess would present frames at wrong times."""
    (times,) = parse_packets(["#tb 0: 1/25", f"0, 1, {_NO_TIME}, 1, 1553, 0x8f95c3c8, F=0x0"])
    assert not times.are_known
    assert times == PacketTimes(Fraction(1, 25), count=1, are_known=False)
