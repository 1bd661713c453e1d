"""Splitting and joining MP4 files by their index alone. Pure: no network, no subprocess.

    movie = read_movie(read, size_bytes)             `read(offset, length)` reads the file
    movie = from_first_decodable(movie, read_many)    without frames that refer to others before the start
    plan = plan_split(movie, Fraction(300), read)    where to cut; `plan.segments`, `plan.notice`
    plan = split_at(movie, starts_s, read)           the same cuts again, from a stored plan
    layout = lay_out(movie, plan, segment_index)     a segment: header bytes, then byte ranges of the source
    final = plan_join(movies, starts_s)              the final: header bytes, then byte ranges of the segments
    final = plan_source_join(movies, SourceTracks.of_source(movie), starts_s)    with the source's own audio
    differences(final.summary, summary_of(read_back, size_bytes))    empty if the file is as planned

The modules, from the bottom up:

    boxes, errors                the box tree
    samples, stbl, edit_list     the tables of a track: model, parsers and builders
    presented                    the frames that a track presents
    movie                        a movie and its tracks
    encryption                   detecting encrypted files
    fragment_reader, fragments   the fragments of a file
    reader                       reading a file
    writer, summary              writing a file: header and byte ranges
    provenance, chapters         what a segment says about its source; chapters
    late_start                   processed segments whose first samples last too long
    context                      frames of a segment's neighbours that it also presents
    split_rule                   how a source should be split, and which starts come closest
    leading                      frames at the start that cannot be decoded
    split, segment               where to cut; one segment
    join, concat, splice         which samples of the segments go where
    source_tracks                joining video with the source's other tracks

Errors: `Unsupported` (ffmpeg may be able to do it), `Encrypted` (nobody can without the key), `BrokenFile` (the file
contradicts itself) and `TracksDiffer` (a segment cannot be joined with the others).
"""

from .context import own_part
from .errors import BrokenFile, Encrypted, Mp4Error, TracksDiffer, Unsupported
from .fragment_reader import ReadMany, Request
from .join import plan_join
from .late_start import with_late_starts
from .leading import from_first_decodable
from .movie import Movie, Track, presented_video
from .presented import Presented
from .reader import Read, one_by_one, read_movie
from .segment import lay_out
from .source_tracks import SourceTracks, has_audio, only_video, plan_source_join
from .split import SplitPlan, plan_split, split_at
from .split_rule import SplitRule
from .summary import MovieSummary, TrackSummary, differences, summary_of
from .writer import Layout

__all__ = [
    "BrokenFile",
    "Encrypted",
    "Layout",
    "Movie",
    "MovieSummary",
    "Mp4Error",
    "Presented",
    "Read",
    "ReadMany",
    "Request",
    "SourceTracks",
    "SplitPlan",
    "SplitRule",
    "Track",
    "TrackSummary",
    "TracksDiffer",
    "Unsupported",
    "differences",
    "from_first_decodable",
    "has_audio",
    "lay_out",
    "one_by_one",
    "only_video",
    "own_part",
    "plan_join",
    "plan_source_join",
    "plan_split",
    "presented_video",
    "read_movie",
    "split_at",
    "summary_of",
    "with_late_starts",
]
