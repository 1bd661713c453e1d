"""Where ffmpeg cuts a source. Pure arithmetic on exact times."""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from media_worker.errors import BadSource
from media_worker.keys import MAX_SEGMENTS


@dataclass(frozen=True, slots=True)
class Frame:
    """One coded picture, in decoding order."""

    decoded_at_s: Fraction
    presented_at_s: Fraction
    duration_s: Fraction
    is_keyframe: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """The cuts of one source: segment i holds the frames from `starts[i]` up to the next start.

    A start is a number in decoding order, counted from 0, of the frame that opens the segment.
    """

    starts: tuple[int, ...]
    frame_count: int
    segment_duration_s: Fraction

    @property
    def total_segments(self) -> int:
        """How many segments there will be."""
        return len(self.starts)

    @property
    def cuts(self) -> tuple[int, ...]:
        """The starts of all segments but the first."""
        return self.starts[1:]


def plan_cuts(frames: Iterable[Frame], segment_duration_s: Fraction) -> Plan:
    """Cut at the first clean keyframe at or after each multiple of the duration, counted from the first picture.

    A keyframe is clean when no later frame is presented before it. The pictures that lead an open group of
    pictures (HEVC RASL, H.264 open GOP) need the group before, which another segment would have: there is no cut.

    Raises:
        BadSource: there is no frame, or there would be more segments than the keys have digits for.
    """
    starts = [0]
    origin_s: Fraction | None = None
    candidate: tuple[int, Fraction] | None = None
    boundary_s = Fraction(0)
    number = -1
    for number, frame in enumerate(frames):
        if origin_s is None:
            origin_s = frame.presented_at_s
            boundary_s = origin_s + segment_duration_s
        # The frames up to the next keyframe decide whether the keyframe before is clean.
        if candidate and frame.presented_at_s < candidate[1]:
            candidate = None
        if frame.is_keyframe and number > 0:
            if candidate:
                starts.append(candidate[0])
                boundary_s = _next_boundary(origin_s, candidate[1], segment_duration_s)
            candidate = (number, frame.presented_at_s) if frame.presented_at_s >= boundary_s else None
    if candidate:
        starts.append(candidate[0])
    if number < 0:
        raise BadSource("the source holds no video frame")
    if len(starts) > MAX_SEGMENTS:
        raise BadSource(f"the source would be {len(starts)} segments, of {MAX_SEGMENTS} at most: cut longer ones")
    return Plan(tuple(starts), number + 1, segment_duration_s)


def _next_boundary(origin_s: Fraction, cut_s: Fraction, segment_duration_s: Fraction) -> Fraction:
    """The first multiple of the duration after a cut."""
    return origin_s + ((cut_s - origin_s) // segment_duration_s + 1) * segment_duration_s


@dataclass(frozen=True, slots=True)
class Span:
    """When the pictures of one file begin and end, in the order of decoding and of presentation."""

    frame_count: int
    decoding_starts_s: Fraction
    decoding_ends_s: Fraction
    presentation_starts_s: Fraction
    presentation_ends_s: Fraction
    has_constant_rate: bool


def measure_span(frames: Iterable[Frame]) -> Span | None:
    """The span of the frames of one file; None when there are none."""
    first = last = None
    durations_s: set[Fraction] = set()
    starts_s = ends_s = Fraction(0)
    number = 0
    for number, frame in enumerate(frames, start=1):
        first, last = first or frame, frame
        frame_ends_s = frame.presented_at_s + frame.duration_s
        starts_s = frame.presented_at_s if number == 1 else min(starts_s, frame.presented_at_s)
        ends_s = frame_ends_s if number == 1 else max(ends_s, frame_ends_s)
        durations_s.add(frame.duration_s)
    if not first or not last:
        return None
    return Span(
        frame_count=number,
        decoding_starts_s=first.decoded_at_s,
        decoding_ends_s=last.decoded_at_s + last.duration_s,
        presentation_starts_s=starts_s,
        presentation_ends_s=ends_s,
        has_constant_rate=len(durations_s) == 1,
    )


def offset_of_next(span: Span, following: Span) -> Fraction:
    """How long after one file's zero the next file's zero is, when their pictures follow each other without a gap.

    At a constant rate the presentation tells exactly, whichever B-frames the encoder of either file used. At a
    variable rate a file does not say how long its last picture is presented; its decoding times follow those of the
    next file exactly when the segments are cut from one stream.
    """
    if span.has_constant_rate:
        return span.presentation_ends_s - following.presentation_starts_s
    return span.decoding_ends_s - following.decoding_starts_s
