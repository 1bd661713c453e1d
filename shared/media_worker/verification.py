"""Every frame back: processed segments are compared with the plan, and the final with both. Pure."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from media_worker.errors import BadFinal, BadSegment
from media_worker.mp4 import Movie, Presented, Unsupported, presented_video
from media_worker.plan import Plan, PlannedSegment

_VERSION = 1
_LISTED = 10
# Edit lists and track headers are often written in milliseconds.
_ROUNDING_S = Fraction(2, 1000)
# S3 allows 2 KB of metadata for an object.
_MAX_METADATA_BYTES = 1_500


def check_segments(plan: Plan, found: Sequence[Presented]) -> int:
    """Compare what processed segments present with the plan. Returns the frame multiple: 2 if the rate was doubled.

    Each segment must present its planned frames, or the same whole multiple of them in all segments, and its duration
    must agree within one frame.

    Raises:
        BadSegment: lists the segments that differ, with what was found and what was expected.
    """
    multiple = _common_multiple(plan, found)
    pairs = zip(plan.segments, found, strict=True)
    _raise_all([problem for planned, each in pairs if (problem := _difference(planned, each, multiple))])
    return multiple


def check_durations(plan: Plan, found: Sequence[Presented]) -> None:
    """Compare only the durations of processed segments with the plan: audio that comes from the source would drift.

    Raises:
        BadSegment: lists the segments that differ.
    """
    pairs = zip(plan.segments, found, strict=True)
    _raise_all([problem for planned, each in pairs if (problem := _other_duration(planned, each))])


def _raise_all(problems: Sequence[str]) -> None:
    if problems:
        more = f" (and {len(problems) - _LISTED} more segments)" if len(problems) > _LISTED else ""
        raise BadSegment("; ".join(problems[:_LISTED]) + more)


def _common_multiple(plan: Plan, found: Sequence[Presented]) -> int:
    """The whole multiple of planned frames that most segments have; 1 if there is none."""
    ratios = (divmod(each.frames, planned.frames) for planned, each in zip(plan.segments, found, strict=True))
    whole = Counter(quotient for quotient, rest in ratios if quotient and not rest)
    return min(whole, key=lambda multiple: (-whole[multiple], multiple), default=1)


def _difference(planned: PlannedSegment, found: Presented, multiple: int) -> str | None:
    expected = planned.frames * multiple
    is_longer = found.duration_s > planned.duration_s + planned.longest_frame_s + _ROUNDING_S
    if context := describe_context(found.frames, planned.frames, planned.context, is_longer=is_longer):
        return f"segment {planned.index} has {context}"
    if found.frames != expected:
        return f"segment {planned.index} has {found.frames:,} frames, {expected:,} expected"
    return _other_duration(planned, found)


def describe_context(found: int, frames: int, context: int, *, is_longer: bool) -> str | None:
    """What to say of `found` frames if they are a segment's own `frames` and its `context` frames, else None.

    `is_longer`: they last longer than the segment's own. If not, they may be own frames at a higher rate.
    """
    multiple, rest = divmod(found, frames + context)
    if not context or not multiple or rest or not (is_longer or found % frames):
        return None
    return f"{found:,} frames, {frames * multiple:,} expected, {context * multiple:,} of them context: drop them"


def _other_duration(planned: PlannedSegment, found: Presented) -> str | None:
    if abs(found.duration_s - planned.duration_s) > planned.longest_frame_s + _ROUNDING_S:
        return (
            f"segment {planned.index} lasts {float(found.duration_s):.3f} s, {float(planned.duration_s):.3f} s expected"
        )
    return None


@dataclass(frozen=True, slots=True)
class Expected:
    """What a final must hold. It travels in the final's metadata, so that any later attempt can verify the object."""

    frames: int
    duration_s: Fraction
    tolerance_s: Fraction
    # Media type and codec of each track, such as `vide/avc1`.
    tracks: tuple[str, ...]

    @classmethod
    def of(
        cls,
        plan: Plan | None,
        segments: Sequence[Movie],
        presented: Sequence[Presented],
        multiple: int | None,
        *,
        source: Movie | None = None,
    ) -> "Expected":
        """What the final must present.

        Without a plan, that is what the segments present. `multiple` is None if their frames are not compared with the
        plan: then these count, too. `source` is the movie from which all tracks but the video come, if they do.
        """
        longest = max(segments, key=lambda segment: len(segment.tracks))
        tracks = describe_tracks(longest) if source is None else _describe_joined(source, segments[0])
        if plan is None:
            duration_s = sum((each.duration_s for each in presented), Fraction(0))
            return cls(
                frames=sum(each.frames for each in presented),
                duration_s=duration_s,
                tolerance_s=max(duration_s, _ROUNDING_S),  # segments of any duration may be placed where a plan says
                tracks=tracks,
            )
        return cls(
            frames=sum(each.frames for each in presented) if multiple is None else plan.frames * multiple,
            duration_s=plan.duration_s,
            tolerance_s=_tolerance(each.longest_frame_s for each in plan.segments),
            tracks=tracks,
        )

    def to_json(self) -> str:
        """The versioned form that is stored."""
        document = {
            "version": _VERSION,
            "frames": self.frames,
            "duration_s": str(self.duration_s),
            "tolerance_s": str(self.tolerance_s),
            "tracks": list(self.tracks),
        }
        text = json.dumps(document, separators=(",", ":"))
        return text if len(text) <= _MAX_METADATA_BYTES else json.dumps({**document, "tracks": None})

    @classmethod
    def parse(cls, text: str | None) -> "Expected":
        """Read the stored form.

        Raises:
            BadFinal: it is missing, or of a version that this code does not know.
        """
        try:
            document: dict[str, Any] = json.loads(text or "")
            if document["version"] != _VERSION:
                raise BadFinal(f"the final's metadata has version {document['version']!r}, expected {_VERSION}")
            return cls(
                frames=int(document["frames"]),
                duration_s=Fraction(document["duration_s"]),
                tolerance_s=Fraction(document["tolerance_s"]),
                tracks=tuple(document["tracks"] or ()),
            )
        except (ValueError, KeyError, TypeError, ArithmeticError) as error:
            raise BadFinal(f"the final's metadata does not say what it must hold: {error}") from error


def check_final(expected: Expected, final: Movie) -> None:
    """Compare a final, as read back, with what it must hold.

    Raises:
        BadFinal: says what was found and what was expected.
    """
    try:
        presented = presented_video(final)
    except Unsupported as error:
        raise BadFinal(f"the final's video cannot be counted: {error}") from error
    problems = []
    if presented.frames != expected.frames:
        problems.append(f"{presented.frames:,} frames, {expected.frames:,} expected")
    if abs(presented.duration_s - expected.duration_s) > expected.tolerance_s:
        problems.append(f"{float(presented.duration_s):.3f} s, {float(expected.duration_s):.3f} s expected")
    if expected.tracks and (tracks := describe_tracks(final)) != expected.tracks:
        problems.append(f"tracks {', '.join(tracks)}, {', '.join(expected.tracks)} expected")
    if problems:
        raise BadFinal(f"the final differs from the plan: {'; '.join(problems)}")


def describe_tracks(movie: Movie) -> tuple[str, ...]:
    """Media type and codec of each track, such as `vide/avc1`."""
    return tuple(
        f"{track.handler.decode('latin-1')}/{track.codecs[0].decode('latin-1') if track.codecs else 'none'}"
        for track in movie.tracks
    )


def _describe_joined(source: Movie, segment: Movie) -> tuple[str, ...]:
    """The tracks of the source, with the video of a processed segment in place of the source's."""
    tracks = list(describe_tracks(source))
    tracks[source.main_track_number] = describe_tracks(segment)[segment.main_track_number]
    return tuple(tracks)


def _tolerance(frames_s: Iterable[Fraction]) -> Fraction:
    return max(frames_s, default=Fraction(0)) + _ROUNDING_S
