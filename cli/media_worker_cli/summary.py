"""The summary of a finished run: seconds and bytes of each step, and the frame counts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from boto3.dynamodb.types import TypeDeserializer
from media_worker.aws import Aws

_deserialize = TypeDeserializer().deserialize

# The steps of each function, in the order in which they run. DynamoDB's maps are not ordered.
_STEPS = {
    "chunking": ("plan", "remux", "layout", "split"),
    "reassembly": ("check", "join", "verify"),
}


@dataclass(frozen=True, slots=True)
class StepCost:
    """The time that one step took and the bytes that it moved."""

    step: str
    seconds: float
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """One run, from the source to the final."""

    job_id: str
    final: Path
    final_size_bytes: int
    segments: int
    frames_in: int | None
    frames_out: int | None
    steps: tuple[StepCost, ...]
    seconds: float
    # What the user should know about the plan, such as why there is a single segment.
    notice: str | None = None
    # `source` or `segments`: where the final's audio and other tracks come from.
    tracks_used: str | None = None

    @property
    def frames_are_missing(self) -> bool:
        """Whether the final has neither the source's frames nor a whole multiple of them, as after interpolation."""
        if self.frames_in is None:
            return False
        return not self.frames_out or bool(self.frames_out % self.frames_in)

    def as_json(self) -> dict[str, Any]:
        """The summary for a program."""
        return asdict(self) | {"final": str(self.final), "status": "completed"}

    def as_lines(self) -> list[str]:
        """The summary for a person."""
        width = max((len(cost.step) for cost in self.steps), default=0)
        return [
            f"{'step':<{width}}  {'seconds':>8}  {'MB':>9}",
            *(_cost_line(cost, width) for cost in self.steps),
            f"{self.segments} segment{'s' * (self.segments != 1)}, {self.seconds:.1f} s in total",
            *([f"notice: {self.notice}"] if self.notice else []),
            describe_frames(self.frames_in, self.frames_out),
            *([f"audio and other tracks: from the {self.tracks_used}"] if self.tracks_used else []),
            f"the final is {self.final} ({self.final_size_bytes / 1e6:.1f} MB)",
        ]


def describe_frames(frames_in: int | None, frames_out: int | None) -> str:
    """The frame counts of source and final, and whether they are equal."""
    if frames_in is None or frames_out is None:
        return "frames: could not be counted"
    if frames_in == frames_out:
        return f"frames in = frames out: {frames_in}"
    return f"frames in: {frames_in}, frames out: {frames_out} (different)"


def read_outcome(aws: Aws, job_id: str) -> tuple[tuple[StepCost, ...], str | None]:
    """What the functions recorded in the job's row: the steps, and where the audio came from."""
    item = aws.dynamodb.get_item(
        TableName=aws.settings.jobs_table_name, Key={"job_id": {"S": job_id}}, ConsistentRead=True
    ).get("Item", {})
    row = {name: _deserialize(value) for name, value in item.items()}
    return costs_of(row), row.get("tracks_used")


def costs_of(row: Mapping[str, Any]) -> tuple[StepCost, ...]:
    """The steps in a job's row, in the order in which they ran. Steps not in `_STEPS` come last."""
    costs = []
    for function, order in _STEPS.items():
        steps: Mapping[str, Any] = row.get(f"{function}_steps") or {}
        known = [name for name in order if name in steps]
        for name in [*known, *sorted(set(steps) - set(known))]:
            seconds, size = float(steps[name].get("seconds", 0)), steps[name].get("bytes")
            costs.append(StepCost(f"{function}: {name}", seconds, None if size is None else int(size)))
    return tuple(costs)


def _cost_line(cost: StepCost, width: int) -> str:
    size = "" if cost.size_bytes is None else f"{cost.size_bytes / 1e6:9.1f}"
    return f"{cost.step:<{width}}  {cost.seconds:8.2f}  {size:>9}"
