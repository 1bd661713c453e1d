"""Chapters appear once in the final, at their times, whatever workers do with them."""

from __future__ import annotations

import struct
from dataclasses import replace
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st
from media_worker.mp4 import Movie, lay_out, plan_join, plan_split
from media_worker.mp4.boxes import Box, references
from media_worker.mp4.chapters import SOURCE_CHPL_UUID, Chapter, build_chpl, chapters_of, parse_chpl, with_chapter_times
from media_worker.mp4.edit_list import EMPTY, Edit

from tests.unit.mp4.movies import TrackSpec, assemble, join_bytes, load, make_movie, without_provenance

VIDEO = TrackSpec([40] * 500, sync=range(0, 500, 25))  # 20 s, a sync sample each second
CHAPTERS = (
    Chapter(0, b"One"),
    Chapter(30_000_000, b"Two"),
    Chapter(95_000_000, b"Three"),
    Chapter(133_333_333, b"Four"),
)
TEXT = Box(b"text", bytes(6) + struct.pack(">H", 1) + bytes(40))
OTHER = Box(b"name", b"vendor").to_bytes()
OLD_UDTA = Box(b"udta", b"keep me").to_bytes()


def with_udta(data: bytes, payload: bytes) -> bytes:
    """The movie with other user data, which is the last box of `moov`."""
    new, at = Box(b"udta", payload).to_bytes(), data.index(b"moov") - 4
    size = int.from_bytes(data[at : at + 4], "big") + len(new) - len(OLD_UDTA)
    return data[:at] + struct.pack(">I", size) + data[at + 4 :].replace(OLD_UDTA, new)


def with_chpl(data: bytes, chapters: tuple[Chapter, ...]) -> bytes:
    return with_udta(data, OTHER + build_chpl(chapters).to_bytes() + OTHER)


def split(source: bytes, duration_s: int) -> list[bytes]:
    movie = load(source)
    plan = plan_split(movie, Fraction(duration_s))
    return [assemble(lay_out(movie, plan, index), source) for index in range(plan.total_segments)]


SOURCE = with_chpl(make_movie([VIDEO]), CHAPTERS)


@given(st.lists(st.builds(Chapter, st.integers(0, (1 << 64) - 1), st.binary(max_size=255)), max_size=255))
def test_chpl_has_what_was_written(chapters: list[Chapter]) -> None:
    """Parsing is the inverse of building."""
    assert parse_chpl(bytes(build_chpl(chapters).payload)) == tuple(chapters)


@given(st.binary(max_size=60))
def test_any_chpl_can_be_parsed(payload: bytes) -> None:
    """A truncated list ends early."""
    assert len(parse_chpl(payload)) <= 255


def test_chpl_of_version_0_has_no_reserved_bytes() -> None:
    """Its number of chapters follows version and flags."""
    assert parse_chpl(bytes(4) + b"\1" + struct.pack(">QB", 7, 3) + b"One") == (Chapter(7, b"One"),)


def test_a_segment_has_the_chapters_that_start_in_it() -> None:
    """At their times in the segment."""
    found = [chapters_of(load(segment).box) for segment in split(SOURCE, 5)]
    assert found == [
        (Chapter(0, b"One"), Chapter(30_000_000, b"Two")),
        (Chapter(45_000_000, b"Three"),),
        (Chapter(33_333_333, b"Four"),),
        (),
    ]


def test_unchanged_segments_restore_the_chapters_of_the_source() -> None:
    """The user data is that of the source, byte for byte, and nothing else is left behind."""
    joined = join_bytes(split(SOURCE, 5))
    source, final = load(SOURCE).box, load(joined).box
    assert bytes(final.need(b"udta").payload) == bytes(source.need(b"udta").payload)
    assert SOURCE_CHPL_UUID not in joined


def test_changed_segments_have_each_chapter_once() -> None:
    """The lists of the segments are put together at the times of the final."""
    joined = join_bytes([without_provenance(segment) for segment in split(SOURCE, 5)])
    assert chapters_of(load(joined).box) == CHAPTERS
    assert SOURCE_CHPL_UUID not in joined


def test_chapters_that_a_worker_adds_behind_its_segment_do_not_count() -> None:
    """Some workers copy the chapters of the whole source to each segment."""
    segments = [with_chpl(make_movie([TrackSpec([40] * 125)]), CHAPTERS[:2]) for _ in range(2)]
    late = [with_chpl(make_movie([TrackSpec([40] * 50)]), CHAPTERS[:2]) for _ in range(2)]
    assert [chapter.start for chapter in chapters_of(load(join_bytes(segments)).box)] == [
        0, 30_000_000, 50_000_000, 80_000_000,
    ]  # fmt: skip
    assert [chapter.start for chapter in chapters_of(load(join_bytes(late)).box)] == [0, 20_000_000, 50_000_000]


def test_no_chapter_is_before_the_start_of_the_final() -> None:
    """A worker's video begins 20 ms later than its chapters and its audio."""
    one = with_chpl(make_movie([TrackSpec([40] * 50, offsets=[20] * 50)]), (Chapter(0, b"One"),))
    joined = assemble(plan_join([load(one)] * 2, [Fraction(0), Fraction(2)]), one, one)
    assert [chapter.start for chapter in chapters_of(load(joined).box)] == [0, 19_800_000]


def test_chapters_that_only_a_later_segment_has_are_added() -> None:
    """The first segment has no list, and its user data ends with a 32-bit zero."""
    first = with_udta(make_movie([TrackSpec([40] * 50)]), OTHER + bytes(4))
    second = with_chpl(make_movie([TrackSpec([40] * 50)]), (Chapter(5_000_000, b"Late"),))
    final = load(join_bytes([first, second])).box
    assert chapters_of(final) == (Chapter(25_000_000, b"Late"),)
    assert bytes(final.need(b"udta").payload).endswith(b"Late" + bytes(4))


def test_a_movie_in_one_segment_keeps_its_chapters() -> None:
    """There is nothing to divide."""
    (segment,) = split(SOURCE, 300)
    assert chapters_of(load(segment).box) == CHAPTERS


# Chapter tracks


def chapter_movie(durations: list[int], chapters: tuple[Chapter, ...], *, with_audio: bool = True) -> Movie:
    """A segment as ffmpeg writes it: a chapter track that starts at 0, whatever its first chapter's time is."""
    audio = [TrackSpec([1024] * 94, b"soun", 48000)] if with_audio else []
    text = TrackSpec(durations, b"text", entry=TEXT, per_chunk=1)
    data = make_movie([TrackSpec([40] * 50), *audio, *([text] if durations else [])])
    movie = load(with_chpl(data, chapters) if chapters else data)
    if not durations:
        return movie
    tref = Box(b"tref", Box(b"chap", struct.pack(">I", len(audio) + 2)).to_bytes())
    video = movie.tracks[0]
    box = video.box.with_children((*(video.box.children or ()), tref))
    return replace(movie, tracks=(replace(video, box=box), *movie.tracks[1:]))


def final_of(movies: list[Movie]) -> Movie:
    layout = plan_join(movies)
    return load(layout.header + bytes(layout.media_bytes))


def test_a_chapter_track_gets_the_times_of_its_list() -> None:
    """Its first chapter starts at 0.5 s, but the track says 0."""
    movie = with_chapter_times(chapter_movie([1500, 500], (Chapter(5_000_000, b"A"), Chapter(15_000_000, b"B"))))
    track = movie.tracks[-1]
    assert track.edits == (Edit(500, EMPTY), Edit(1500, 0))
    assert list(track.table.durations) == [1000, 500]


def test_a_track_that_is_not_about_its_list_is_kept() -> None:
    """Without a list, or with another number of chapters."""
    for chapters in ((), (Chapter(5_000_000, b"A"),)):
        movie = chapter_movie([1500, 500], chapters)
        assert with_chapter_times(movie) == movie


def test_chapter_tracks_are_joined_at_the_times_of_their_lists() -> None:
    """The gap before a segment's first chapter belongs to the last chapter before it."""
    movies = [chapter_movie([2000], (Chapter(0, b"A"),)), chapter_movie([2000], (Chapter(5_000_000, b"B"),))]
    assert list(final_of(movies).tracks[2].table.durations) == [2500, 1500]


def test_the_final_refers_to_chapters_that_start_late() -> None:
    """The first segment has no chapter track. Without a reference, players take it for subtitles."""
    final = final_of([chapter_movie([], ()), chapter_movie([2000], (Chapter(0, b"B"),))])
    assert references(final.tracks[0].box, b"chap") == (final.tracks[2].track_id,)


def test_tracks_of_the_final_have_different_ids() -> None:
    """The chapter track of one segment may have the id that the audio of another one has."""
    first = chapter_movie([2000], (Chapter(0, b"A"),), with_audio=False)
    final = final_of([first, chapter_movie([2000], (Chapter(0, b"B"),))])
    ids = [track.track_id for track in final.tracks]
    assert len(set(ids)) == 3
    assert references(final.tracks[0].box, b"chap") == (ids[2],)
