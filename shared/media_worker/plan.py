"""The durable plan of a job: how its source is split, decided once and carried out by every attempt.

`segments/{job_id}/plan.json` is written before the first segment, and its digest goes to the job row and to
everything made by it: segments, processed segments, completions, the final. A retry of the same source carries out
the plan that exists, whatever the settings and the code version are by then. docs/plan.md describes the format.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from media_worker.deadline import Hold
from media_worker.errors import BadPlan
from media_worker.keys import build_plan_key
from media_worker.s3 import StoredObject, put_document, read_object

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from media_worker.jobs import Job

# A reader refuses other versions; a change of meaning needs a new one. Version 2 has context frames; plans without them
# are still written as version 1, so that their digests do not change. Version 3 has cut times or a number of segments
# in place of the duration of a segment.
VERSION = 1
CONTEXT_VERSION = 2
CUT_VERSION = 3

# How the source's bytes become an MP4 that can be split: as they are, or after a remux by ffmpeg.
PlanEngine: TypeAlias = Literal["copy", "remux"]


@dataclass(frozen=True, slots=True)
class PlannedSource:
    """The source that a plan is for. Another ETag or size is another source."""

    key: str
    etag: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PlannedSegment:
    """One segment: its presented frames, and the exact time that they cover, in seconds from the video's start."""

    index: int
    first_frame: int
    frames: int
    start_s: Fraction
    duration_s: Fraction
    # The longest of its frames: how far the duration of a re-encoded segment may be off.
    longest_frame_s: Fraction
    # Frames of the neighbouring segments that it also presents. They are not among `frames`.
    context_before: int = 0
    context_after: int = 0
    # How long its first frame lasts. None: as long as all others, or made by code that did not record it.
    first_frame_s: Fraction | None = None

    @property
    def context(self) -> int:
        """Presented frames that are not the segment's own."""
        return self.context_before + self.context_after

    @property
    def frame_rate(self) -> Fraction | None:
        """Frames per second when all frames last equally long, else None."""
        is_constant = self.longest_frame_s * self.frames == self.duration_s > 0
        return Fraction(self.frames) / self.duration_s if is_constant else None

    def metadata(self, *, has_context: bool = False) -> dict[str, str]:
        """What a worker needs to know, as S3 metadata of the segment. `has_context`: the plan has context frames."""
        described = {
            "frames": str(self.frames),
            "first-frame": str(self.first_frame),
            "start-seconds": str(self.start_s),
            "duration-seconds": str(self.duration_s),
        }
        if has_context:
            described |= {"context-before": str(self.context_before), "context-after": str(self.context_after)}
        return described | ({"frame-rate": str(self.frame_rate)} if self.frame_rate else {})

    def to_document(self, *, has_context: bool) -> dict[str, Any]:
        """The segment in a stored plan."""
        document = {
            "index": self.index,
            "first_frame": self.first_frame,
            "frames": self.frames,
            "start_s": str(self.start_s),
            "duration_s": str(self.duration_s),
            "longest_frame_s": str(self.longest_frame_s),
        }
        context = {"context_before": self.context_before, "context_after": self.context_after}
        first_frame = {} if self.first_frame_s is None else {"first_frame_s": str(self.first_frame_s)}
        return document | (context if has_context else {}) | first_frame


@dataclass(frozen=True, slots=True)
class PlannedCut:
    """A wanted cut time, and the segment start that it got. None: no sync sample was near enough."""

    wanted_s: Fraction
    got_s: Fraction | None

    def to_document(self) -> dict[str, Any]:
        """The cut in a stored plan."""
        return {"wanted_s": str(self.wanted_s), "got_s": None if self.got_s is None else str(self.got_s)}


@dataclass(frozen=True, slots=True)
class Plan:
    """How one source is split."""

    source: PlannedSource
    engine: PlanEngine
    # The wanted duration of a segment. None: cut times or a number of segments were wanted.
    segment_duration_s: Fraction | None
    # Ticks per second of the video track.
    timescale: int
    segments: tuple[PlannedSegment, ...]
    # Something that the user should know: why there is a single segment, for example.
    notice: str | None = None
    # Whether the source has audio. None: the plan was made by code that did not record it.
    has_audio: bool | None = None
    # The wanted number of context frames on each side of a segment.
    context_frames: int = 0
    # The wanted number of segments.
    wanted_segments: int | None = None
    # The wanted cut times, in order, and how far a sync sample could be from them.
    cut_times: tuple[PlannedCut, ...] = ()
    cut_tolerance_s: Fraction | None = None
    # Unix seconds at which the plan before this one was given up: two plans of a job never have the same digest, also
    # if they split at the same times. None: it is the job's first plan.
    replanned_at: int | None = None

    @property
    def wanted(self) -> str:
        """What kind of segments were wanted, in words."""
        if self.segment_duration_s is not None:
            return f"segments of {float(self.segment_duration_s):g} s or more"
        if self.wanted_segments is not None:
            return f"about {self.wanted_segments} segments of equal duration"
        got = sum(each.got_s is not None for each in self.cut_times)
        return f"{got} of {len(self.cut_times)} wanted cut times"

    @property
    def frames(self) -> int:
        """Presented frames of the whole video."""
        return sum(segment.frames for segment in self.segments)

    @property
    def duration_s(self) -> Fraction:
        """Seconds of the whole video."""
        return sum((segment.duration_s for segment in self.segments), Fraction(0))

    @property
    def starts_s(self) -> tuple[Fraction, ...]:
        """When each segment starts, in seconds."""
        return tuple(segment.start_s for segment in self.segments)

    def to_json(self) -> bytes:
        """The plan as it is stored: canonical, so that equal plans have equal digests."""
        has_context = self.context_frames > 0
        document = {
            "version": self._version,
            "source": {"key": self.source.key, "etag": self.source.etag, "size_bytes": self.source.size_bytes},
            "engine": self.engine,
            "segment_duration_s": None if self.segment_duration_s is None else str(self.segment_duration_s),
            "timescale": self.timescale,
            "notice": self.notice,
            "segments": [segment.to_document(has_context=has_context) for segment in self.segments],
        }
        if self.has_audio is not None:
            document["has_audio"] = self.has_audio
        if has_context:
            document["context_frames"] = self.context_frames
        if self.wanted_segments is not None:
            document["wanted_segments"] = self.wanted_segments
        if self.cut_tolerance_s is not None:
            document["cut_times"] = [each.to_document() for each in self.cut_times]
            document["cut_tolerance_s"] = str(self.cut_tolerance_s)
        if self.replanned_at is not None:
            document["replanned_at"] = self.replanned_at
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    @property
    def _version(self) -> int:
        if self.segment_duration_s is None:
            return CUT_VERSION
        return CONTEXT_VERSION if self.context_frames > 0 else VERSION

    @property
    def digest(self) -> str:
        """What names the plan: 32 hexadecimal digits."""
        return digest_of(self.to_json())


def digest_of(stored: bytes) -> str:
    """The digest of a plan as stored."""
    return hashlib.sha256(stored).hexdigest()[:32]


def parse_plan(stored: bytes) -> Plan:
    """Read a stored plan.

    Raises:
        BadPlan: it is not a plan of a version that this code knows, or it contradicts itself.
    """
    try:
        document = json.loads(stored)
        if document["version"] not in (VERSION, CONTEXT_VERSION, CUT_VERSION):
            raise BadPlan(
                f"its version is {document['version']!r}, and this code reads versions {VERSION} to {CUT_VERSION}"
            )
        plan = _parse(document)
    except (ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
        raise BadPlan(f"it cannot be read: {type(error).__name__}: {error}") from error
    _check(plan)
    return plan


def _parse(document: Mapping[str, Any]) -> Plan:
    source = document["source"]
    segments = tuple(
        PlannedSegment(
            index=int(each["index"]),
            first_frame=int(each["first_frame"]),
            frames=int(each["frames"]),
            start_s=Fraction(each["start_s"]),
            duration_s=Fraction(each["duration_s"]),
            longest_frame_s=Fraction(each["longest_frame_s"]),
            context_before=int(each.get("context_before", 0)),
            context_after=int(each.get("context_after", 0)),
            first_frame_s=_fraction(each.get("first_frame_s")),
        )
        for each in document["segments"]
    )
    cuts = tuple(
        PlannedCut(Fraction(each["wanted_s"]), _fraction(each["got_s"])) for each in document.get("cut_times", ())
    )
    engine: PlanEngine = "remux" if document["engine"] == "remux" else "copy"
    return Plan(
        source=PlannedSource(str(source["key"]), str(source["etag"]), int(source["size_bytes"])),
        engine=engine,
        segment_duration_s=_fraction(document["segment_duration_s"]),
        timescale=int(document["timescale"]),
        segments=segments,
        notice=document.get("notice"),
        has_audio=None if document.get("has_audio") is None else document["has_audio"] is True,
        context_frames=int(document.get("context_frames", 0)),
        wanted_segments=document.get("wanted_segments"),
        cut_times=cuts,
        cut_tolerance_s=_fraction(document.get("cut_tolerance_s")),
        replanned_at=document.get("replanned_at"),
    )


def _fraction(text: str | None) -> Fraction | None:
    return None if text is None else Fraction(text)


def _check(plan: Plan) -> None:
    """Every frame once, in order, without a gap or an overlap."""
    if not plan.segments:
        raise BadPlan("it has no segments")
    frame, start_s = 0, plan.segments[0].start_s
    for index, segment in enumerate(plan.segments):
        if (segment.index, segment.first_frame, segment.start_s) != (index, frame, start_s):
            raise BadPlan(f"segment {index} does not start where the one before it ends")
        if segment.frames < 1 or segment.duration_s < 0:
            raise BadPlan(f"segment {index} has {segment.frames} frames and lasts {segment.duration_s} s")
        frame += segment.frames
        start_s += segment.duration_s


# Storing --------------------------------------------------------------------------------------------------------------


def read_plan(aws: "Aws", job: "Job") -> Plan:
    """The plan that a job's segments were made from.

    Raises:
        BadPlan: it is missing, or is not the one that the job row names.
    """
    key = build_plan_key(job.job_id)
    found = read_object(aws, aws.settings.input_bucket_name, key)
    if found is None:
        raise BadPlan(f"the plan s3://{aws.settings.input_bucket_name}/{key} does not exist: upload the source again")
    if digest_of(found[0]) != job.plan:
        raise BadPlan(f"the plan {key} is {digest_of(found[0])}, but the job was split by {job.plan}")
    return parse_plan(found[0])


def find_plan(aws: "Aws", job: "Job", source: StoredObject) -> Plan | None:
    """The plan that a retry has to carry out, or None when this source must be planned.

    A job row without `plan` has not been planned, or an explicit retry with other settings has removed it.
    """
    if job.plan is None:
        return None
    found = read_object(aws, aws.settings.input_bucket_name, build_plan_key(job.job_id))
    if found is None or digest_of(found[0]) != job.plan:
        return None
    plan = parse_plan(found[0])
    return plan if plan.source == PlannedSource(source.key, source.etag, source.size_bytes) else None


def store_plan(aws: "Aws", job_id: str, plan: Plan, hold: Hold) -> None:
    """Write a job's plan, in place of the one it may have had. Only the holder of the chunking lease calls this.

    Raises:
        LeaseLost: the plan that was found may be that of the invocation that has taken over the lease.
        TransferFailed: another process wrote it at the same time.
    """
    put_document(aws, aws.settings.input_bucket_name, build_plan_key(job_id), plan.to_json(), hold)
