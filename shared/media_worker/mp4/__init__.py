"""MP4 files by their index alone: read it, cut a film in pieces, join pieces to a film. Pure: no network, no programs.

    movie = read_movie(read, size_bytes)             `read(offset, length)` is the only way to the file
    plan = plan_split(movie, Fraction(300))          where to cut; `plan.total_segments`
    layout = lay_out(movie, plan, segment_index)     one segment: header bytes, then byte ranges of the source
    final = plan_join(movies)                        the film: header bytes, then byte ranges of the segments
    differences(final.summary, summary_of(read_back, size_bytes))    nothing, or what went wrong

`Unsupported` means that another engine should try, `BrokenFile` that the file contradicts itself, `TracksDiffer`
that a segment does not fit the others.
"""

from .errors import BrokenFile, Mp4Error, TracksDiffer, Unsupported
from .join import FinalLayout, SegmentRange, plan_join
from .movie import Movie, Track, read_movie
from .ranges import ByteRange
from .split import SegmentLayout, SplitPlan, lay_out, plan_split
from .summary import MovieSummary, TrackSummary, differences, summary_of

__all__ = [
    "BrokenFile",
    "ByteRange",
    "FinalLayout",
    "Movie",
    "MovieSummary",
    "Mp4Error",
    "SegmentLayout",
    "SegmentRange",
    "SplitPlan",
    "Track",
    "TrackSummary",
    "TracksDiffer",
    "Unsupported",
    "differences",
    "lay_out",
    "plan_join",
    "plan_split",
    "read_movie",
    "summary_of",
]
