"""Joining segments into one movie: their indexes in, one header and the byte ranges of the segments out.

Unchanged segments are restored to the source's own tracks, by their provenance. Other segments, such as
re-encoded ones, are matched track by track and concatenated by their own times (`concat`).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

from .boxes import with_track_id
from .chapters import with_chapter_reference, with_chapter_times, with_joined_chapters, with_source_chapters
from .concat import JoinedMovie, JoinedTrack, Row, concatenate
from .context import own_part
from .errors import TracksDiffer, overflow_is_unsupported
from .provenance import Provenance, TrackProvenance, digest_of, find_provenance, without_provenance
from .samples import Runs, concat_tables
from .writer import MAX_GAP_BYTES, MAX_U32, Layout, MediaRanges, layout_of, media_ranges

if TYPE_CHECKING:
    from collections.abc import Sequence
    from fractions import Fraction

    from .boxes import Box
    from .movie import Movie, Track
    from .samples import SampleTable

# Writers drop tracks without samples. Subtitles, timecodes and other sparse tracks often have none in a segment.
_NEVER_MISSING = frozenset({b"vide", b"soun"})
_TKHD_MATRIX = slice(-44, -8)  # transformation matrix; width and height follow it


@overflow_is_unsupported()
def plan_join(
    movies: Sequence[Movie], starts_s: Sequence[Fraction] | None = None, max_gap_bytes: int = MAX_GAP_BYTES
) -> Layout:
    """The layout of the movie that all segments make up, in this order. The sources of its ranges are the segments.

    `starts_s`: when each segment starts, by the plan, in seconds. Segments that are not restored to the source's own
    tracks are placed there, and any of them may lack audio. Without it they follow each other, each lasts as long as
    its video, and audio may start late or end early, but not be missing in between.

    Raises:
        TracksDiffer: a segment cannot be joined with the others; names it.
        Unsupported: an edit list of a segment cannot be joined.
    """
    if not movies:
        raise ValueError("there are no segments to join")
    restored = restore(movies)
    joined = restored or _concatenated(movies, starts_s)
    media = [
        media_ranges((track.tables[index] for track in joined.tracks), max_gap_bytes, source=index)
        for index in range(len(movies))
    ]
    bases = list(accumulate((each.total_bytes for each in media), initial=0))
    tracks = _with_unique_ids([_finished(track, media, bases) for track in joined.tracks])
    box = _with_next_track_id(without_provenance(joined.box), tracks)
    final = replace(movies[0], box=box, timescale=joined.timescale, tracks=tracks)
    ranges = [each for segment in media for each in segment.ranges]
    return layout_of(final, ranges, is_restored=restored is not None)


def _concatenated(movies: Sequence[Movie], starts_s: Sequence[Fraction] | None) -> JoinedMovie:
    movies = [with_chapter_times(own_part(movie)) for movie in movies]
    rows = match_tracks(movies, may_lack_audio=starts_s is not None)
    joined = concatenate(movies, rows, starts_s)
    tracks = with_chapter_reference([joined_track.track for joined_track in joined.tracks], rows, joined.main)
    return replace(
        joined,
        box=with_joined_chapters([movie.box for movie in movies], joined.starts_s),
        tracks=tuple(replace(each, track=track) for each, track in zip(joined.tracks, tracks, strict=True)),
    )


def _finished(joined: JoinedTrack, media: Sequence[MediaRanges], bases: Sequence[int]) -> Track:
    """The track with all samples at their offsets in the final."""
    moved = [
        replace(table, chunks=ranges.moved(table.chunks, base))
        for table, ranges, base in zip(joined.tables, media, bases, strict=False)
    ]
    return replace(joined.track, table=concat_tables(moved))


def _with_unique_ids(tracks: Sequence[Track]) -> tuple[Track, ...]:
    """The tracks, which may come from several segments, with a number of its own for each."""
    used: set[int] = set()
    unique = []
    for track in tracks:
        if track.track_id in used:
            number = max(used | {each.track_id for each in tracks}) + 1
            unique.append(replace(track, box=with_track_id(track.box, number)))
        else:
            unique.append(track)
        used.add(unique[-1].track_id)
    return tuple(unique)


def _with_next_track_id(moov: Box, tracks: Sequence[Track]) -> Box:
    """The `moov` box with a `next_track_ID` (the last field of `mvhd`) that no track has."""
    mvhd = moov.need(b"mvhd")
    number = max(int.from_bytes(mvhd.payload[-4:], "big"), *(track.track_id + 1 for track in tracks))
    # The largest number says that there is no free one.
    changed = replace(mvhd, payload=bytes(mvhd.payload[:-4]) + min(number, MAX_U32).to_bytes(4, "big"))
    return moov.with_children(tuple(changed if child is mvhd else child for child in moov.children or ()))


# Restoring unchanged segments


def restore(movies: Sequence[Movie]) -> JoinedMovie | None:
    """The source's tracks, or None unless all of its segments are there, in order and unchanged."""
    provenances = [find_provenance(movie.box) for movie in movies]
    known = [provenance for provenance in provenances if provenance is not None]
    if len(known) < len(movies) or not _is_whole_source(movies, known):
        return None
    tracks = [_restored_track(movies, known, number) for number in range(len(movies[0].tracks))]
    return JoinedMovie(with_source_chapters(movies[0].box), known[0].movie_timescale, tuple(tracks))


def _is_whole_source(movies: Sequence[Movie], provenances: Sequence[Provenance]) -> bool:
    source = provenances[0].source
    for index, (movie, provenance) in enumerate(zip(movies, provenances, strict=True)):
        expected = (source, len(movies), index)
        if (provenance.source, provenance.total_segments, provenance.segment_index) != expected:
            return False
        if provenance.digest != digest_of(movie.tracks, provenance.version) or len(movie.tracks) != len(
            provenances[0].tracks
        ):
            return False
    return all(_is_whole_track(movies, provenances, number) for number in range(len(provenances[0].tracks)))


def _is_whole_track(movies: Sequence[Movie], provenances: Sequence[Provenance], number: int) -> bool:
    """Whether the parts of a track are alike, and each starts with the sample at which the one before it ends."""
    sample = 0
    first = movies[0].tracks[number]
    for movie, provenance in zip(movies, provenances, strict=True):
        track = movie.tracks[number]
        is_alike = (track.track_id, track.descriptions) == (first.track_id, first.descriptions)
        if not is_alike or len(provenance.tracks) != len(movie.tracks):
            return False
        known = provenance.tracks[number]
        own_samples = track.table.count - known.repeated_samples - known.trailing_samples
        if known.first_sample != sample or own_samples < 0:
            return False
        if known.key_bytes and known.key_bytes >= track.table.slice(0, 1).sizes.between(0, 1):
            return False
        sample += own_samples
    return True


def _restored_track(movies: Sequence[Movie], provenances: Sequence[Provenance], number: int) -> JoinedTrack:
    tables = tuple(
        _restored_table(movie.tracks[number].table, provenance.tracks[number])
        for movie, provenance in zip(movies, provenances, strict=True)
    )
    return JoinedTrack(replace(movies[0].tracks[number], edits=provenances[0].tracks[number].edits), tables)


def _restored_table(table: SampleTable, known: TrackProvenance) -> SampleTable:
    """The samples as they were in the source, without those that belong to the segments before and after."""
    if known.is_marked and table.sync is not None:
        table = replace(table, sync=table.sync[1:])
    if known.key_bytes:
        table = table.with_first_longer(-known.key_bytes)
    if known.repeated_samples or known.trailing_samples:
        table = table.slice(known.repeated_samples, table.count - known.trailing_samples)
    if known.offset_shift and table.offsets is not None:
        table = replace(table, offsets=table.offsets.shifted(-known.offset_shift))
    return table


# Matching the tracks of changed segments


def match_tracks(movies: Sequence[Movie], *, may_lack_audio: bool) -> tuple[Row, ...]:
    """For each track of the final, its part in each segment. All parts get the same list of sample descriptions.

    The segment with most tracks determines the tracks of the final. Sparse tracks that it lacks, such as subtitles or
    late chapters, follow. `may_lack_audio`: any segment may lack an audio track, not only the first or the last ones.

    Raises:
        TracksDiffer: a segment's tracks do not match those of the others.
    """
    pattern = _pattern(movies)
    try:
        columns = [_match_segment(pattern, movie, index) for index, movie in enumerate(movies)]
        rows = tuple(zip(*columns, strict=True))
        for row in rows:
            _check_missing(row, may_lack_audio=may_lack_audio)
            _check_alike(row)
    except TracksDiffer as error:
        odd = _difference_from_most(movies)
        if odd is None or odd.segment_index == error.segment_index:
            raise
        raise odd from error
    return tuple(_with_common_descriptions(row) for row in rows)


def _difference_from_most(movies: Sequence[Movie]) -> TracksDiffer | None:
    """Names the first segment whose tracks differ from those of most segments, which need not be the one compared."""
    described = ["; ".join(map(_describe, movie.tracks)) for movie in movies]
    usual, count = Counter(described).most_common(1)[0]
    odd = [index for index, tracks in enumerate(described) if tracks != usual]
    if not odd or count < len(odd):
        return None
    others = f" (and {len(odd) - 1} more segments)" if len(odd) > 1 else ""
    return TracksDiffer(odd[0], f"it has {described[odd[0]]}{others}, most have {usual}")


def _describe(track: Track) -> str:
    """A track for error messages: `track 1 (vide, avc1, 1920x1080)`."""
    parts = [track.handler.decode("latin-1")]
    if track.descriptions:
        entry = track.descriptions[0]
        parts.append(entry.kind.decode("latin-1"))
        detail = {b"vide": _frame_size, b"soun": _audio_format}.get(track.handler)
        parts += [detail(entry)] if detail else []
    return f"track {track.track_id} ({', '.join(parts)})"


def _pattern(movies: Sequence[Movie]) -> list[Track]:
    pattern = list(max(movies, key=lambda movie: len(movie.tracks)).tracks)
    for movie in movies:
        remaining = _match_kinds(pattern, movie)[1]
        pattern += [track for track in remaining if track.handler not in _NEVER_MISSING]
    return pattern


def _match_segment(pattern: Sequence[Track], movie: Movie, segment_index: int) -> list[Track | None]:
    """The tracks of a segment in the order of `pattern`, with None for those that it lacks."""
    if [track.handler for track in movie.tracks] == [track.handler for track in pattern]:
        return list(movie.tracks)
    column, remaining = _match_kinds(pattern, movie)
    if remaining:
        raise TracksDiffer(segment_index, f"no other segment has a track like its {remaining[0].name}")
    return column


def _match_kinds(pattern: Sequence[Track], movie: Movie) -> tuple[list[Track | None], list[Track]]:
    """The first track of each kind in the order of `pattern`, and the tracks that are left over."""
    remaining = list(movie.tracks)
    column: list[Track | None] = []
    for wanted in pattern:
        found = next((track for track in remaining if _is_same_kind(wanted, track)), None)
        if found is not None:
            remaining.remove(found)
        column.append(found)
    return column, remaining


def _is_same_kind(one: Track, other: Track) -> bool:
    return (one.handler, one.codecs[:1]) == (other.handler, other.codecs[:1])


def _check_missing(row: Row, *, may_lack_audio: bool) -> None:
    """Every segment needs video. Audio may start late or end early, because writers drop empty tracks."""
    present = [index for index, track in enumerate(row) if track is not None]
    for index, track in enumerate(row):
        example = row[present[0]]
        if track is not None or example is None or example.handler not in _NEVER_MISSING:
            continue
        is_in_between = present[0] < index < present[-1]
        is_late_and_ends_early = present[0] > 0 and present[-1] < len(row) - 1
        if example.is_video or (not may_lack_audio and (is_in_between or is_late_and_ends_early)):
            raise TracksDiffer(index, f"it lacks {example.name}")


def _check_alike(row: Row) -> None:
    """All parts with samples must be of the same kind."""
    filled = [(index, track) for index, track in enumerate(row) if track is not None and track.table.count]
    if not filled:
        return
    _, first = filled[0]
    for index, track in filled[1:]:
        if track.handler != first.handler:
            raise TracksDiffer(index, f"it has {track.name} where the others have {first.name}")
        if _matrix(track) != _matrix(first):
            raise TracksDiffer(index, f"{track.name} has another rotation")
        for entry in track.descriptions:
            if reason := _why_incompatible(first.handler, first.descriptions[0], entry):
                raise TracksDiffer(index, f"{track.name} has {reason}")


def _matrix(track: Track) -> bytes:
    return bytes(track.box.need(b"tkhd").payload[_TKHD_MATRIX])


def _why_incompatible(handler: bytes, first: Box, other: Box) -> str | None:
    """Why two sample descriptions cannot be in the same track, or None if they can."""
    if first.kind != other.kind:
        return f"codec {other.kind.decode('latin-1')}, expected {first.kind.decode('latin-1')}"
    if handler == b"vide" and first.payload[24:28] != other.payload[24:28]:
        return f"frames of {_frame_size(other)}, expected {_frame_size(first)}"
    if handler == b"soun" and _audio_format(first) != _audio_format(other):
        return f"{_audio_format(other)}, expected {_audio_format(first)}"
    return None


def _frame_size(entry: Box) -> str:
    width, height = (int.from_bytes(entry.payload[at : at + 2], "big") for at in (24, 26))
    return f"{width}x{height}"


def _audio_format(entry: Box) -> str:
    channels, rate_hz = (int.from_bytes(entry.payload[at : at + 2], "big") for at in (16, 24))
    return f"{channels} channels at {rate_hz} Hz"


# Sample descriptions


def _with_common_descriptions(row: Row) -> Row:
    """The parts of a track with one list of sample descriptions. Descriptions that differ in bit rates only are equal.

    An encoder that runs once for each segment writes the same codec configuration each time, but its own bit rates.
    """
    numbers: dict[bytes, int] = {}
    merged: list[Box] = []
    for entry in (entry for track in row if track is not None for entry in track.descriptions):
        key = _without_bit_rates(entry)
        if key not in numbers:
            merged.append(entry)
            numbers[key] = len(merged)

    def renumbered(track: Track) -> Track:
        new = [numbers[_without_bit_rates(entry)] for entry in track.descriptions]
        chunks = track.table.chunks
        used = Runs.of(chunks.descriptions.counts, (new[number - 1] for number in chunks.descriptions.values))
        table = replace(track.table, chunks=replace(chunks, descriptions=used))
        return replace(track, descriptions=tuple(merged), table=table)

    return tuple(track and renumbered(track) for track in row)


_BTRT = re.compile(rb"\0\0\0\x14btrt.{12}", re.DOTALL)
_ES_TAG, _DECODER_CONFIG_TAG = 3, 4


def _without_bit_rates(entry: Box) -> bytes:
    """A sample entry without bit rates, to compare it with others."""
    return entry.kind + _without_esds_rates(_BTRT.sub(b"", bytes(entry.payload)))


def _without_esds_rates(payload: bytes) -> bytes:
    """An `esds` with 0 as buffer size and bit rates, 11 bytes (ISO/IEC 14496-1, 7.2.6.6)."""
    found = payload.find(b"esds\0\0\0\0")
    if found < 0:
        return payload
    changed = bytearray(payload)
    at = _skip_tag(changed, found + 8, _ES_TAG)
    at = None if at is None else _skip_tag(changed, at + 3, _DECODER_CONFIG_TAG)
    if at is None or at + 13 > len(changed):
        return payload
    changed[at + 2 : at + 13] = bytes(11)
    return bytes(changed)


def _skip_tag(payload: bytearray, at: int, tag: int) -> int | None:
    """The position behind a descriptor's tag and length (1 to 4 bytes), or None if the tag is another one."""
    if at >= len(payload) or payload[at] != tag:
        return None
    for index in range(at + 1, min(at + 5, len(payload))):
        if not payload[index] & 0x80:
            return index + 1
    return None
