"""Re-encoded segments are in sync at every join, and errors do not add up."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from media_worker.mp4 import Track, TracksDiffer, plan_join, with_late_starts
from media_worker.mp4.edit_list import EMPTY, Edit, is_presented, presentation_time

from tests.unit.mp4.movies import (
    Sample,
    TrackSpec,
    assemble,
    audio_entry,
    join_bytes,
    load,
    make_movie,
    samples_of,
    video_entry,
)

if TYPE_CHECKING:
    from media_worker.mp4 import Movie

RATE, PACKET = 44100, 1024
FRAMES = 51  # a segment of 2.04 seconds at 25 fps
SEGMENT_MS = FRAMES * 40


def video(frames: int = FRAMES, delay: int = 40) -> TrackSpec:
    """25 fps with B-frames, presented from the first frame on. `delay`: of the encoder, in ms."""
    offsets = [delay, delay + 40, delay - 40] * (frames // 3)
    return TrackSpec([40] * frames, offsets=offsets, sync=[0], edits=(Edit(frames * 40, delay),))


def audio(packets: int, *, hidden: int = PACKET, late_ms: int = 0, length_ms: int | None = None) -> TrackSpec:
    """AAC as an encoder writes it: `hidden` samples of delay at the start, padding at the end."""
    presented_ms = (packets * PACKET - hidden) * 1000 // RATE if length_ms is None else length_ms
    edits = (Edit(late_ms, EMPTY),) if late_ms else ()
    return TrackSpec([PACKET] * packets, b"soun", RATE, edits=(*edits, Edit(presented_ms, hidden)))


def presented_at(movie: Movie, track: Track, sample: Sample) -> Fraction:
    """The presentation time of a sample in seconds. Negative if the edit list hides it."""
    ranges = track.presented_ranges(movie.timescale)
    assert ranges is not None
    hidden = min(Fraction(0), sample.composition_time - ranges[0].media_start)
    return (presentation_time(ranges, sample.composition_time) + hidden) / track.timescale


def test_200_joins_keep_audio_and_video_in_sync() -> None:
    """Each segment has 2.04 s of audio in packets of 23 ms, with delay and padding. No error adds up."""
    segments = [make_movie([video(), audio(90, length_ms=SEGMENT_MS)]) for _ in range(200)]
    joined = join_bytes(segments)
    movie = load(joined)
    frames, packets = (samples_of(joined, track) for track in movie.tracks)
    assert len(frames) == 200 * FRAMES
    times = sorted(presented_at(movie, movie.tracks[0], frame) for frame in frames)
    assert times == [Fraction(number, 25) for number in range(200 * FRAMES)]
    # Packet 1 of each segment is the first that is not delay. It must be presented when the segment's video starts.
    second = [packet for packet in packets if packet.data == packets[1].data]
    assert len(second) == 200
    for index, packet in enumerate(second):
        assert abs(presented_at(movie, movie.tracks[1], packet) - Fraction(SEGMENT_MS * index, 1000)) < Fraction(
            PACKET, RATE
        )
    # A player that counts packets instead of reading times is at most one packet off at the end.
    assert abs(len(packets) * PACKET - SEGMENT_MS * RATE // 5 - PACKET) <= 2 * PACKET


@pytest.mark.parametrize("segments", range(2, 12))
def test_audio_that_segments_present_after_the_join_fills_it(segments: int) -> None:
    """The packets at a join are full: delay and padding are left out, and no packet is missing at the end."""
    inner = make_movie([video(), audio(95, length_ms=SEGMENT_MS + 120)])
    last = make_movie([video(), audio(89, length_ms=SEGMENT_MS)])
    joined = join_bytes([*[inner] * (segments - 1), last])
    final = load(joined)
    track = final.tracks[1]
    packets = samples_of(joined, track)
    assert set(track.table.durations.slice(0, len(packets) - 1).values) == {PACKET}
    padded = samples_of(inner, load(inner).tracks[1])[-1].data
    assert padded not in [packet.data for packet in packets]
    assert len(packets) == -(-segments * SEGMENT_MS * RATE // (1000 * PACKET)) + 1
    (presented,) = track.presented_ranges(final.timescale) or ()
    assert abs(Fraction(presented.end or 0, RATE) - Fraction(segments * SEGMENT_MS, 1000)) < Fraction(PACKET, 2 * RATE)


def test_delay_and_padding_are_dropped_between_segments() -> None:
    """They are only kept at the start and end of the final."""
    one = make_movie([video(), audio(89, hidden=PACKET, length_ms=SEGMENT_MS)])
    joined = join_bytes([one, one, one])
    track = load(joined).tracks[1]
    starts = [sample.data for sample in samples_of(joined, track)].count(samples_of(one, load(one).tracks[1])[0].data)
    assert starts == 1
    assert track.edits[0].media_time == PACKET


@pytest.mark.parametrize("delay_ms", [40, 80])
def test_segments_without_edit_lists_are_in_sync(delay_ms: int) -> None:
    """Into a pipe, ffmpeg writes such files. The audio is as late as the video, by a longer first packet, which is the
    encoder's delay. At the joins, audio of the segment before replaces that packet.
    """
    frames = TrackSpec([40] * FRAMES, offsets=[delay_ms] * FRAMES, sync=[0])
    packets = TrackSpec([delay_ms] + [20] * 107, b"soun")  # 2.04 s, and 0.1 s of the next segment
    one = make_movie([frames, packets])
    starts_s = [Fraction(SEGMENT_MS * number, 1000) for number in range(3)]
    segments = [with_late_starts(load(one), Fraction(SEGMENT_MS, 1000), None)] * 3
    joined = assemble(plan_join(segments, starts_s), *[one] * 3)
    movie = load(joined)
    found = [samples_of(joined, track) for track in movie.tracks]
    assert presented_at(movie, movie.tracks[0], found[0][0]) == 0
    first, second = [packet.data for packet in samples_of(one, load(one).tracks[1])[:2]]
    assert [packet.data for packet in found[1]].count(first) == 1
    times = [presented_at(movie, movie.tracks[1], packet) for packet in found[1] if packet.data == second]
    assert times == starts_s
    assert set(movie.tracks[1].table.durations.slice(1, len(found[1])).values) == {20}


def test_segments_with_different_encoder_delays_join() -> None:
    """A segment without B-frames between segments with them: every frame has its time."""
    segments = [make_movie([video(delay=delay)]) for delay in (40, 80, 40)]
    segments.insert(1, make_movie([TrackSpec([40] * FRAMES, sync=[0])]))
    joined = join_bytes(segments)
    movie = load(joined)
    times = sorted(presented_at(movie, movie.tracks[0], frame) for frame in samples_of(joined, movie.tracks[0]))
    assert times == [Fraction(number, 25) for number in range(4 * FRAMES)]


def test_different_timescales_get_a_common_one() -> None:
    """25 fps in ticks of 1/1000 and of 1/12800 s."""
    fine = TrackSpec([512] * FRAMES, timescale=12800, sync=[0])
    joined = join_bytes([make_movie([TrackSpec([40] * FRAMES, sync=[0])]), make_movie([fine])])
    track = load(joined).tracks[0]
    assert track.timescale == 64000
    assert set(track.table.durations.values) == {2560}


def test_several_codec_configurations_become_several_descriptions() -> None:
    """H.264 with another SPS in one segment: both are kept, and each sample refers to its own."""
    entries = [video_entry(config=config) for config in (b"one", b"two", b"one")]
    joined = join_bytes([make_movie([replace(video(), entry=entry)]) for entry in entries])
    track = load(joined).tracks[0]
    assert track.descriptions == tuple(entries[:2])
    assert set(track.table.chunks.descriptions) == {1, 2}
    chunk_of_second = list(track.table.chunks.descriptions).index(2)
    assert track.table.chunks.starts[chunk_of_second] == FRAMES


def test_other_bit_rates_are_not_another_configuration() -> None:
    """Each run of an encoder writes its own average bit rate into `btrt`."""
    entries = [video_entry(config=b"x") for _ in range(2)]
    rated = [
        replace(entry, payload=bytes(entry.payload) + b"\0\0\0\x14btrt" + bytes([n] * 12))
        for n, entry in enumerate(entries)
    ]
    joined = join_bytes([make_movie([replace(video(), entry=entry)]) for entry in rated])
    assert len(load(joined).tracks[0].descriptions) == 1


ODD = {
    "codec": (replace(video(), entry=video_entry(b"hvc1")), audio(89), "codec hvc1, expected avc1"),
    "size": (replace(video(), entry=video_entry(width=128)), audio(89), "128x48, expected 64x48"),
    "rate": (video(), replace(audio(89), entry=audio_entry(rate=32000)), "32000 Hz, expected 2 channels at 48000 Hz"),
    "kind": (video(), replace(audio(89), handler=b"text"), r"it lacks track 2 \(soun\)"),
}


@pytest.mark.parametrize("name", sorted(ODD))
def test_a_segment_that_differs_is_named(name: str) -> None:
    """The error names the segment and the difference."""
    *specs, reason = ODD[name]
    good, bad = make_movie([video(), audio(89)]), make_movie(specs)
    with pytest.raises(TracksDiffer, match=reason) as caught:
        plan_join([load(good), load(good), load(bad), load(good)])
    assert caught.value.segment_index == 2


def test_a_segment_without_audio_is_named() -> None:
    """Audio that is missing in between was lost by the worker."""
    good, mute = make_movie([video(), audio(89)]), make_movie([video()])
    with pytest.raises(TracksDiffer) as caught:
        plan_join([load(good), load(mute), load(good)])
    assert caught.value.segment_index == 1


def test_audio_may_end_before_the_video() -> None:
    """Writers drop tracks without samples, so the last segments may have no audio."""
    good, mute = make_movie([video(), audio(89)]), make_movie([video()])
    joined = join_bytes([good, good, mute, mute])
    movie = load(joined)
    assert [track.table.count for track in movie.tracks] == [4 * FRAMES, 2 * 89 - 1]


def test_audio_may_start_after_the_video() -> None:
    """The track starts with an empty edit."""
    good, mute = make_movie([video(), audio(89)]), make_movie([video()])
    joined = join_bytes([mute, good])
    movie = load(joined)
    assert movie.tracks[1].edits[0] == Edit(SEGMENT_MS * movie.timescale // 1000, EMPTY)


def test_a_rounded_edit_list_does_not_keep_a_packet_at_the_end() -> None:
    """Opus in 20 ms, written by ffmpeg: the last edit ends half a millisecond after the audio, which is one packet."""
    first = TrackSpec([960] * 97, b"soun", 48000, edits=(Edit(1934, 312),))
    last = TrackSpec([960] * 96 + [312], b"soun", 48000, edits=(Edit(7, EMPTY), Edit(1927, 0)))
    joined = join_bytes([make_movie([video(48), first]), make_movie([video(48), last])])
    movie = load(joined)
    audio_track = movie.tracks[1]
    encoded_in_one_go = 312 + 2 * 48 * 1920 + 648
    assert audio_track.table.count * 960 == encoded_in_one_go
    (presented_range,) = audio_track.presented_ranges(movie.timescale) or ()
    assert presented_range.media_end is not None
    assert presented_range.media_end <= audio_track.table.media_duration


def test_pcm_keeps_one_tick_for_each_sample() -> None:
    """Players expect that all durations are 1: gaps are filled, overlaps are trimmed."""
    for samples in (16310, 16320, 16330):
        pcm = TrackSpec([1] * samples, b"soun", 8000, sizes=[4] * samples, per_chunk=500)
        joined = join_bytes([make_movie([video(), pcm])] * 10)
        table = load(joined).tracks[1].table
        assert set(table.durations.values) == {1}
        assert table.count == 9 * 16320 + samples


def presented(joined: bytes) -> list[tuple[Fraction, bytes]]:
    """The frames that the video presents, with their times in seconds."""
    movie = load(joined)
    track = movie.tracks[0]
    ranges = track.presented_ranges(movie.timescale)
    assert ranges is not None
    samples = [sample for sample in samples_of(joined, track) if is_presented(ranges, sample.composition_time)]
    return sorted((presented_at(movie, track, sample), sample.data) for sample in samples)


def times(frames: int) -> list[Fraction]:
    return [Fraction(number, 25) for number in range(frames)]


def test_frames_that_a_segment_hides_at_its_end_are_left_out() -> None:
    """Nothing depends on them: they are last in decode order."""
    hiding = make_movie([replace(video(), edits=(Edit((FRAMES - 3) * 40, 40),))])
    joined = join_bytes([hiding, make_movie([video()])])
    assert load(joined).tracks[0].table.count == 2 * FRAMES - 3
    assert [time for time, _ in presented(joined)] == times(2 * FRAMES - 3)


def test_frames_that_a_segment_hides_at_its_start_stay_hidden() -> None:
    """Others depend on them, so the final has them, and hides them by its edit list."""
    hiding = make_movie([replace(video(), edits=(Edit((FRAMES - 3) * 40, 160),))])
    joined = join_bytes([make_movie([video()]), hiding])
    movie = load(joined)
    assert movie.tracks[0].table.count == 2 * FRAMES
    assert len(movie.tracks[0].edits) == 2
    assert [time for time, _ in presented(joined)] == times(2 * FRAMES - 3)


def open_gop(size: int, *, is_hidden: bool = True) -> TrackSpec:
    """Ten frames, then a copy of the next segment's first frame with two leading samples."""
    offsets = [80] * 8 + [160, 40, 40]
    sizes = [*range(20, 28), size, 9, 10]
    edits = (Edit(400 if is_hidden else 440, 80),)
    return TrackSpec([40] * 11, offsets=offsets, sync=[0, 8], sizes=sizes, edits=edits)


def test_the_copy_of_the_next_first_frame_replaces_it() -> None:
    """A worker that copies samples keeps the overlap of two segments. Its leading samples decode as in the source."""
    following = make_movie([replace(video(), sizes=[30] * FRAMES)])
    joined = join_bytes([make_movie([open_gop(30)]), following])
    assert load(joined).tracks[0].table.count == 10 + FRAMES
    assert [time for time, _ in presented(joined)] == times(10 + FRAMES)
    assert len(load(joined).tracks[0].edits) == 1


def test_a_copy_before_a_reencoded_segment_is_hidden() -> None:
    """The leading samples need it, and the next segment starts with another frame: both stay, one is hidden."""
    following = make_movie([replace(video(), sizes=[31] * FRAMES)])
    joined = join_bytes([make_movie([open_gop(30)]), following])
    assert load(joined).tracks[0].table.count == 11 + FRAMES
    assert [time for time, _ in presented(joined)] == times(10 + FRAMES)


@pytest.mark.parametrize("size", [30, 31])
def test_a_copy_that_a_worker_presents_is_hidden_by_the_plan(size: int) -> None:
    """A worker that ignores edit lists presents the next segment's first frame, too."""
    movies = [make_movie([open_gop(30, is_hidden=False)]), make_movie([replace(video(), sizes=[size] * FRAMES)])]
    layout = plan_join([load(movie) for movie in movies], [Fraction(0), Fraction(2, 5)])
    joined = assemble(layout, *movies)
    assert [time for time, _ in presented(joined)] == times(10 + FRAMES)


def test_segments_start_at_the_times_of_the_plan() -> None:
    """Segments whose own durations are a little off, as in a coarse timescale, start when the plan says."""
    movies = [make_movie([TrackSpec([40] * 49 + [50], sync=[0])])] * 3
    layout = plan_join([load(movie) for movie in movies], [Fraction(0), Fraction(2), Fraction(4)])
    joined = assemble(layout, *movies)
    assert [time for time, _ in presented(joined)][::50] == [0, 2, 4]


def test_a_segment_that_is_too_long_for_the_plan_is_named() -> None:
    """Its frames would overlap with those of the next one."""
    movies = [make_movie([TrackSpec([40] * count, sync=[0])]) for count in (50, 55, 50)]
    with pytest.raises(TracksDiffer) as caught:
        plan_join([load(movie) for movie in movies], [Fraction(0), Fraction(2), Fraction(4)])
    assert caught.value.segment_index == 1
