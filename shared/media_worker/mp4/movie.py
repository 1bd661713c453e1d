"""A movie as its index describes it: its tracks, and the boxes that a new index is built from."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from .boxes import Box, is_enabled, references, track_id_of
from .edit_list import Edit, PresentedRange, presented_ranges
from .errors import Unsupported
from .presented import ROUNDING_S, Presented, PresentedFrames, has_copy_at_end

if TYPE_CHECKING:
    from .samples import SampleTable


@dataclass(frozen=True, slots=True)
class Track:
    """A track that was read, or that is to be written.

    `box` is the `trak` box without sample tables and edit list. The other fields replace what it lacks.
    """

    box: Box
    timescale: int
    descriptions: tuple[Box, ...]  # the sample entries of stsd, byte for byte
    edits: tuple[Edit, ...]
    table: SampleTable

    @property
    def track_id(self) -> int:
        """The number of the track, unique in its movie."""
        return track_id_of(self.box.need(b"tkhd"))

    @property
    def handler(self) -> bytes:
        """The media type: `vide`, `soun`, `text`, ..."""
        return bytes(self.box.need(b"mdia", b"hdlr").payload[8:12])

    @property
    def name(self) -> str:
        """The track in error messages."""
        return f"track {self.track_id} ({self.handler.decode('latin-1')})"

    @property
    def is_video(self) -> bool:
        """Whether it is a video track."""
        return self.handler == b"vide"

    @property
    def codecs(self) -> tuple[bytes, ...]:
        """The codes of its sample descriptions, such as `avc1`."""
        return tuple(entry.kind for entry in self.descriptions)

    def presented_ranges(self, movie_timescale: int) -> tuple[PresentedRange, ...] | None:
        """The media that its edit list presents. None if that is not forward, at normal speed and at most once."""
        return presented_ranges(self.edits, self.timescale, movie_timescale)


@dataclass(frozen=True, slots=True)
class Movie:
    """The index of a file that was read, or that is to be written.

    `box` is the `moov` box. Its tracks have no sample tables and edit lists. `fingerprint` is a digest of the index as
    it was read: files with the same fingerprint have the same samples at the same offsets. `notices` are sentences for
    the user about what was read, such as an incomplete fragment that was dropped.
    """

    ftyp: bytes | None
    box: Box
    timescale: int
    tracks: tuple[Track, ...]
    fingerprint: bytes = b""
    notices: tuple[str, ...] = ()

    @property
    def main_track_number(self) -> int:
        """The track that decides where segments start: the video, or the longest track if there is no video."""
        thumbnails = {track_id for track in self.tracks for track_id in references(track.box, b"chap")}
        numbers = [number for number, track in enumerate(self.tracks) if track.table.count]
        videos = [n for n in numbers if self.tracks[n].is_video and self.tracks[n].track_id not in thumbnails]

        def rank(number: int) -> tuple[bool, bool, Fraction]:
            track = self.tracks[number]
            is_cover_image = track.table.count == 1
            length = Fraction(track.table.media_duration, track.timescale)
            # Videos have no rank by length: of several equal ones, `max` returns the first.
            return is_enabled(track.box.need(b"tkhd")), not is_cover_image, Fraction(0) if track.is_video else length

        return max(videos or numbers, key=rank)


def presented_video(movie: Movie, until_s: Fraction | None = None) -> Presented:
    """What the main track of a movie presents. A repeated frame counts each time that the edit list presents it.

    `until_s`: how long a segment should be, if another one follows. A last frame that starts then, to the millisecond,
    does not count. Segments that end at an open GOP have such a frame: the first one of the next segment. Their edit
    lists hide it, but workers that copy samples write other edit lists. The join leaves it out.

    Raises:
        Unsupported: the movie has no video.
    """
    track = movie.tracks[movie.main_track_number]
    if not track.is_video or not track.table.count:
        raise Unsupported("there is no video track")
    frames = PresentedFrames(track, movie.timescale)
    count = frames.count
    if until_s is not None and count:
        is_longer = has_copy_at_end(
            track.table,
            frames.media_time_of(0),
            frames.media_time_of(count - 1),
            until_s * track.timescale,
            ROUNDING_S * track.timescale,
        )
        count -= is_longer
    return frames.between(0, count)
