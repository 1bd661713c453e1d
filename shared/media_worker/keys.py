"""S3 keys: building and parsing them. The key layout is a contract with other software; it never changes."""

import re
from dataclasses import dataclass
from enum import Enum

# A label of the job. Workers that make 3D videos know `sbs` and `anaglyph`.
DEFAULT_MODE = "sbs"
_MODE = r"[a-z0-9-]{1,32}"

# Five digits in every segment key.
MAX_SEGMENTS = 99_999

# S3 keys have at most 1,024 bytes; the longest of ours is a segment's.
_MAX_JOB_ID_BYTES = 1024 - len("segments//00000_00000_.mp4") - 32

# One path component, without control characters and lone surrogates.
_COMPONENT = r"[^/\x00-\x1f\x7f-\x9f\ud800-\udfff]+"
_JOB_ID = rf"(?P<job_id>{_COMPONENT})"
_INPUT = re.compile(rf"input/{_JOB_ID}/source\.mp4")
_SEGMENT = re.compile(rf"segments/{_JOB_ID}/(?P<index>[0-9]{{5}})_(?P<total>[0-9]{{5}})_(?P<mode>{_MODE})\.mp4")
_OUTPUT_SEGMENT = re.compile(rf"jobs/{_JOB_ID}/segments/(?P<index>0|[1-9][0-9]{{0,4}})\.mp4")


@dataclass(frozen=True, slots=True)
class SegmentKey:
    """The parts of a segment's key."""

    bucket: str
    job_id: str
    segment_index: int
    total_segments: int
    mode: str


@dataclass(frozen=True, slots=True)
class OutputSegmentKey:
    """The parts of a processed segment's key."""

    bucket: str
    job_id: str
    segment_index: int


def build_source_key(job_id: str) -> str:
    """The key under which a job's source is uploaded."""
    return f"input/{_checked(job_id)}/source.mp4"


def parse_input_key(key: str) -> str | None:
    """The job id in a source's key; None when the key is not a source's."""
    match = _INPUT.fullmatch(key)
    return match["job_id"] if match and is_job_id(match["job_id"]) else None


def build_segment_key(job_id: str, segment_index: int, total_segments: int, mode: str) -> str:
    """The key of one segment. A `str` enum as mode gives its value.

    Raises:
        ValueError: the job id is not a single path component, the mode is no label, or the index is not
            below the total.
    """
    if not 0 <= segment_index < total_segments <= MAX_SEGMENTS:
        raise ValueError(f"segment {segment_index} of {total_segments}: expected 0 <= index < total <= {MAX_SEGMENTS}")
    return f"segments/{_checked(job_id)}/{segment_index:05d}_{total_segments:05d}_{parse_mode(mode)}.mp4"


def parse_mode(mode: object) -> str:
    """A job's mode, as a plain `str`.

    Raises:
        ValueError: it is not a label of 1 to 32 of the characters a to z, 0 to 9 and `-`.
    """
    label = mode.value if isinstance(mode, Enum) else mode
    if not isinstance(label, str) or re.fullmatch(_MODE, label) is None:
        raise ValueError(f"mode {label!r} is not 1 to 32 characters of a-z, 0-9 and -")
    return label


def build_segment_prefix(job_id: str) -> str:
    """The common prefix of the keys of a job's segments."""
    return f"segments/{_checked(job_id)}/"


def build_plan_key(job_id: str) -> str:
    """The key of a job's plan, in the input bucket."""
    return f"{build_segment_prefix(job_id)}plan.json"


def parse_segment_key(bucket: str, key: str) -> SegmentKey | None:
    """Parse a segment's key; None when the key is not a segment's."""
    match = _SEGMENT.fullmatch(key)
    if not match or not is_job_id(match["job_id"]) or int(match["index"]) >= int(match["total"]):
        return None
    return SegmentKey(bucket, match["job_id"], int(match["index"]), int(match["total"]), match["mode"])


def build_output_segment_key(job_id: str, segment_index: int) -> str:
    """The key of one processed segment."""
    if not 0 <= segment_index < MAX_SEGMENTS:
        raise ValueError(f"segment index {segment_index} is not in 0..{MAX_SEGMENTS - 1}")
    return f"jobs/{_checked(job_id)}/segments/{segment_index}.mp4"


def parse_output_segment_key(bucket: str, key: str) -> OutputSegmentKey | None:
    """Parse a processed segment's key; None when the key is not a processed segment's."""
    match = _OUTPUT_SEGMENT.fullmatch(key)
    if not match or not is_job_id(match["job_id"]) or int(match["index"]) >= MAX_SEGMENTS:
        return None
    return OutputSegmentKey(bucket, match["job_id"], int(match["index"]))


def build_final_key(job_id: str) -> str:
    """The key of a job's final."""
    return f"jobs/{_checked(job_id)}/final.mp4"


def is_job_id(text: str) -> bool:
    """Whether a text can be a job id: one path component, not `.` or `..`, short enough for every key."""
    is_component = text not in {".", ".."} and re.fullmatch(_COMPONENT, text) is not None
    return is_component and len(text.encode()) <= _MAX_JOB_ID_BYTES


def _checked(job_id: str) -> str:
    if not is_job_id(job_id):
        raise ValueError(f"job id {job_id!r} is not one non-empty path component")
    return job_id
