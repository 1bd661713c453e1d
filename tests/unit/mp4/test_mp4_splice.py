"""Joining segments that were made anew: in sync at every join, and nothing adds up."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from media_worker.mp4 import Track, TracksDiffer, plan_join
from media_worker.mp4.edits import EMPTY, Edit, film_time

from tests.unit.mp4.films import (
    Sample,
    TrackSpec,
    join_bytes,
    load,
    make_film,
    samples_of,
    sound_entry,
    video_entry,
)

if TYPE_CHECKING:
    from media_worker.mp4.movie import Movie

RATE, PACKET = 44100, 1024
PICTURES = 51  # a segment of 2.04 seconds at 25 pictures a second
SEGMENT_MS = PICTURES * 40


def video(pictures: int = PICTURES, delay: int = 40) -> TrackSpec:
    """25 pictures a second with B-pictures, shown from the first one on (`delay`: how long the encoder holds back)."""
    offsets = [delay, delay + 40, delay - 40] * (pictures // 3)
    return TrackSpec([40] * pictures, offsets=offsets, sync=[0], edits=(Edit(pictures * 40, delay),))


def sound(packets: int, *, hidden: int = PACKET, late_ms: int = 0, length_ms: int | None = None) -> TrackSpec:
    """AAC as an encoder writes it: `hidden` samples of delay in front, padding behind."""
    shown_ms = (packets * PACKET - hidden) * 1000 // RATE if length_ms is None else length_ms
    edits = (Edit(late_ms, EMPTY),) if late_ms else ()
    return TrackSpec([PACKET] * packets, b"soun", RATE, edits=(*edits, Edit(shown_ms, hidden)))


def shown_at(movie: Movie, track: Track, sample: Sample) -> Fraction:
    """When a sample is shown, in seconds; before 0 for what the edit list hides."""
    spans = track.spans(movie.timescale)
    assert spans is not None
    hidden = min(Fraction(0), sample.composition_time - spans[0].media_start)
    return (film_time(spans, sample.composition_time) + hidden) / track.timescale


def test_200_joins_keep_sound_with_picture() -> None:
    """Each segment's sound is 2.04 s long but comes in packets of 23 ms, with delay and padding: no error adds up."""
    segments = [make_film([video(), sound(90, length_ms=SEGMENT_MS)]) for _ in range(200)]
    joined = join_bytes(segments)
    movie = load(joined)
    pictures, packets = (samples_of(joined, track) for track in movie.tracks)
    assert len(pictures) == 200 * PICTURES
    times = sorted(shown_at(movie, movie.tracks[0], picture) for picture in pictures)
    assert times == [Fraction(number, 25) for number in range(200 * PICTURES)]
    # Packet 1 of each segment is the first with sound in it; it has to be shown where its segment's video begins.
    second = [packet for packet in packets if packet.data == packets[1].data]
    assert len(second) == 200
    for index, packet in enumerate(second):
        assert abs(shown_at(movie, movie.tracks[1], packet) - Fraction(SEGMENT_MS * index, 1000)) < Fraction(
            PACKET, RATE
        )
    # And a player that counts packets instead is no further off at the end than one packet.
    assert abs(len(packets) * PACKET - SEGMENT_MS * RATE // 5 - PACKET) <= 2 * PACKET


def test_delay_and_padding_are_left_out_inside_the_film() -> None:
    """What the encoder hid at the edges of a segment is only kept at the edges of the film."""
    one = make_film([video(), sound(89, hidden=PACKET, length_ms=SEGMENT_MS)])
    joined = join_bytes([one, one, one])
    track = load(joined).tracks[1]
    starts = [sample.data for sample in samples_of(joined, track)].count(samples_of(one, load(one).tracks[1])[0].data)
    assert starts == 1
    assert track.edits[0].media_time == PACKET


def test_encoders_that_hold_pictures_back_differently_fit_together() -> None:
    """A segment without B-pictures between two with them: every picture at its time."""
    segments = [make_film([video(delay=delay)]) for delay in (40, 80, 40)]
    segments.insert(1, make_film([TrackSpec([40] * PICTURES, sync=[0])]))
    joined = join_bytes(segments)
    movie = load(joined)
    times = sorted(shown_at(movie, movie.tracks[0], picture) for picture in samples_of(joined, movie.tracks[0]))
    assert times == [Fraction(number, 25) for number in range(4 * PICTURES)]


def test_different_clocks_get_a_common_one() -> None:
    """25 pictures a second, counted in 1/1000 and in 1/12800."""
    fine = TrackSpec([512] * PICTURES, timescale=12800, sync=[0])
    joined = join_bytes([make_film([TrackSpec([40] * PICTURES, sync=[0])]), make_film([fine])])
    track = load(joined).tracks[0]
    assert track.timescale == 64000
    assert set(track.table.durations.values) == {2560}


def test_several_codec_configurations_become_several_descriptions() -> None:
    """H.264 with another SPS in one segment: both are kept, and each sample knows its own."""
    entries = [video_entry(config=config) for config in (b"one", b"two", b"one")]
    joined = join_bytes([make_film([replace(video(), entry=entry)]) for entry in entries])
    track = load(joined).tracks[0]
    assert track.descriptions == tuple(entries[:2])
    assert set(track.table.chunks.descriptions) == {1, 2}
    chunk_of_second = list(track.table.chunks.descriptions).index(2)
    assert track.table.chunks.starts[chunk_of_second] == PICTURES


def test_bit_rates_do_not_make_two_configurations() -> None:
    """Each run of an encoder writes its own average into `btrt`."""
    entries = [video_entry(config=b"x") for _ in range(2)]
    rated = [
        replace(entry, payload=bytes(entry.payload) + b"\0\0\0\x14btrt" + bytes([n] * 12))
        for n, entry in enumerate(entries)
    ]
    joined = join_bytes([make_film([replace(video(), entry=entry)]) for entry in rated])
    assert len(load(joined).tracks[0].descriptions) == 1


ODD = {
    "codec": (replace(video(), entry=video_entry(b"hvc1")), sound(89), "hvc1, theirs avc1"),
    "size": (replace(video(), entry=video_entry(width=128)), sound(89), "128x48, theirs 64x48"),
    "rate": (video(), replace(sound(89), entry=sound_entry(rate=32000)), "32000 Hz"),
    "kind": (video(), replace(sound(89), handler=b"text"), "stands where"),
}


@pytest.mark.parametrize("name", sorted(ODD))
def test_an_odd_segment_is_named(name: str) -> None:
    """The error says which segment does not fit, and why."""
    *specs, said = ODD[name]
    good, bad = make_film([video(), sound(89)]), make_film(specs)
    with pytest.raises(TracksDiffer, match=said) as caught:
        plan_join([load(good), load(good), load(bad), load(good)])
    assert caught.value.segment_index == 2


def test_a_segment_that_lost_its_sound_is_named() -> None:
    """Sound that is missing in the middle is a mistake of the worker."""
    good, mute = make_film([video(), sound(89)]), make_film([video()])
    with pytest.raises(TracksDiffer) as caught:
        plan_join([load(good), load(mute), load(good)])
    assert caught.value.segment_index == 1


def test_sound_may_end_before_the_film() -> None:
    """Writers leave out tracks without samples, so the last segments of a film may have none."""
    good, mute = make_film([video(), sound(89)]), make_film([video()])
    joined = join_bytes([good, good, mute, mute])
    movie = load(joined)
    assert [track.table.count for track in movie.tracks] == [4 * PICTURES, 2 * 89 - 1]


def test_sound_may_begin_after_the_film() -> None:
    """Then the whole track starts with an empty edit."""
    good, mute = make_film([video(), sound(89)]), make_film([video()])
    joined = join_bytes([mute, good])
    movie = load(joined)
    assert movie.tracks[1].edits[0] == Edit(SEGMENT_MS * movie.timescale // 1000, EMPTY)


def test_uncompressed_sound_keeps_one_tick_for_each_sample() -> None:
    """Players treat PCM as such only while all durations are 1: gaps are filled, overlaps cut."""
    for samples in (16310, 16320, 16330):
        pcm = TrackSpec([1] * samples, b"soun", 8000, sizes=[4] * samples, per_chunk=500)
        joined = join_bytes([make_film([video(), pcm])] * 10)
        table = load(joined).tracks[1].table
        assert set(table.durations.values) == {1}
        assert table.count == 9 * 16320 + samples


def test_leading_pictures_that_a_segment_hides_come_back() -> None:
    """A segment cut at an open GOP cannot show them alone; in the film they fill the gap in front of it."""
    opening = make_film([video()])
    leading = TrackSpec([40] * 4, offsets=[120, 0, 0, 40], sync=[0], edits=(Edit(80, 120),))
    joined = join_bytes([opening, make_film([leading])])
    movie = load(joined)
    times = sorted(shown_at(movie, movie.tracks[0], picture) for picture in samples_of(joined, movie.tracks[0]))
    assert times == [Fraction(number, 25) for number in range(PICTURES + 4)]
