"""The crash matrix: for every shape of job, every AWS call is killed, fails or loses its answer, one at a time.

`python -m tests.crash.matrix` runs all of it and prints the table; the tests run a sample.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from media_worker import telemetry
from media_worker.jobs import JobStatus

import tests.conftest  # noqa: F401  # no run may reach AWS
from tests.crash import server
from tests.crash.faults import KILLS, Call, Fault, kinds_for
from tests.crash.process import processes_in
from tests.crash.world import Actor, Cloud, World, remove
from tests.media import clips

# A segment whose worker was killed is processed by another one, and the job is completed, within two minutes.
_RECOVERS_IN_S = 120

ACTORS: tuple[Actor, ...] = ("chunking", "worker", "reassembly")


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of job: its clip, and the size of its multipart parts."""

    name: str
    clip: str
    segments: int
    has_small_parts: bool = False
    fast_workers: bool = False
    engine: str = "ffmpeg"
    # Where the final's audio comes from, if the job's row says so.
    tracks: str | None = None
    # The segments are processed by the worker kit.
    uses_kit: bool = False
    # The job has failed before, with another source.
    is_second_run: bool = False
    # Faults are injected into these only: the other actors make the same calls as in another shape.
    actors: tuple[Actor, ...] = ACTORS


SHAPES = (
    Shape("one segment", "crash_one", 1),
    Shape("five segments", "crash_five", 5),
    Shape("in parts", "crash_parts", 2, has_small_parts=True),
    Shape("fast workers", "crash_parts", 2, fast_workers=True, actors=("chunking",)),
    Shape("copied by S3", "crash_long", 2, has_small_parts=True, engine="copy"),
    Shape("audio of the source", "crash_parts", 2, has_small_parts=True, tracks="source", actors=("reassembly",)),
    Shape("worker kit", "crash_parts", 2, uses_kit=True, actors=("worker",)),
    Shape("second run", "crash_parts", 2, is_second_run=True, actors=("chunking",)),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One fault in one job: once, or on every attempt."""

    shape: Shape
    actor: Actor
    fault: Fault
    every_attempt: bool = False

    def __str__(self) -> str:
        return f"{self.shape.name}, {self.actor}: {self.fault}{', on every attempt' if self.every_attempt else ''}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one case."""

    case: Case | None
    reached: bool
    status: str
    dead_letters: int
    complaints: tuple[str, ...]

    @property
    def lost(self) -> bool:
        return any(not complaint.startswith("doubled") for complaint in self.complaints)

    @property
    def doubled(self) -> bool:
        return any(complaint.startswith("doubled") for complaint in self.complaints)


@dataclass
class Lab:
    """A stack, and the undisturbed run of each shape, with which every other run is compared."""

    cloud: Cloud
    folder: Path
    _undisturbed: dict[str, tuple[dict[str, bytes], dict[Actor, list[Call]]]] = field(default_factory=dict)

    def prepare(self) -> None:
        """Run every shape undisturbed first, because a new world resets the server."""
        for shape in SHAPES:
            self.undisturbed(shape)

    def world(self, shape: Shape) -> World:
        world = self.cloud.world(self.folder / uuid.uuid4().hex, World, has_small_parts=shape.has_small_parts)
        world.fast_workers, world.engine, world.tracks = shape.fast_workers, shape.engine, shape.tracks
        world.uses_kit, world.is_second_run = shape.uses_kit, shape.is_second_run
        return world

    def source(self, shape: Shape) -> bytes:
        path = self.folder / f"{shape.clip}.mp4"
        if not path.exists():
            clips.make(shape.clip, path)
        return path.read_bytes()

    def undisturbed(self, shape: Shape) -> tuple[dict[str, bytes], dict[Actor, list[Call]]]:
        """The objects that an undisturbed run leaves, and its AWS calls."""
        if shape.name not in self._undisturbed:
            world = self.world(shape)
            world.fault_actor = "worker"  # only then are its calls counted
            world.submit(self.source(shape))
            world.run()
            complaints = [*world.violations, *world.doubled(), *world.leftovers()]
            assert world.job().status is JobStatus.COMPLETED, (world.job(), world.deliveries)
            assert not complaints, complaints
            calls: dict[Actor, list[Call]] = {
                actor: sorted({call for name, each in world.deliveries if name == actor for call in each.calls})
                for actor in ACTORS
            }
            assert world.job().total_segments == shape.segments
            self._undisturbed[shape.name] = world.content(), calls
            remove(world)
        return self._undisturbed[shape.name]

    def cases(self) -> Iterator[Case]:
        """Every fault once, and every crash on every attempt."""
        for shape in SHAPES:
            for actor, calls in self.undisturbed(shape)[1].items():
                if actor not in shape.actors:
                    continue
                for call in calls:
                    for kind in kinds_for(call):
                        yield Case(shape, actor, Fault(call, kind))
                    if actor != "worker":
                        yield Case(shape, actor, Fault(call, KILLS[0]), every_attempt=True)
                        yield Case(shape, actor, Fault(call, "internal error"), every_attempt=True)

    def attempt(self, case: Case) -> Outcome:
        """Run the job with the fault and judge the result."""
        world = self.world(case.shape)
        world.fault, world.fault_actor, world.every_attempt = case.fault, case.actor, case.every_attempt
        world.submit(self.source(case.shape))
        world.run()
        complaints = tuple(self.judge(world, case))
        outcome = Outcome(case, world.fired > 0, world.job().status, len(world.dead_letters), complaints)
        for pid, _ in processes_in(world.temporary):
            os.kill(pid, 9)
        remove(world)
        return outcome

    def judge(self, world: World, case: Case) -> Iterator[str]:
        """Everything that violates a promise."""
        yield from world.violations
        yield from (f"doubled: {text}" for text in world.doubled())
        # If the release fails on every attempt, the lease can only expire.
        yield from (text for text in world.leftovers() if not (case.every_attempt and text.startswith("a lease")))
        yield from self._judge_end(world, case)
        if case.shape.uses_kit and world.fired_at and world.clock.time() - world.fired_at > _RECOVERS_IN_S:
            yield f"recovered after {world.clock.time() - world.fired_at:.0f} s"
        if not case.every_attempt and world.reassemblies_sent > _most_reassemblies(case):
            yield f"doubled: {world.reassemblies_sent} reassembly messages"
        for name, delivery in world.deliveries:
            if delivery.error and name != "worker":
                yield f"the handler raised: {delivery.error}"

    def _judge_end(self, world: World, case: Case) -> Iterator[str]:
        job = world.job()
        expected, _ = self.undisturbed(case.shape)
        there = world.content()
        if job.status is JobStatus.COMPLETED:
            if job.total_segments != case.shape.segments:
                yield f"total_segments is {job.total_segments}"
            if there != expected:
                yield f"other objects: {sorted(there)} instead of {sorted(expected)}, or other bytes"
        elif job.status is JobStatus.FAILED and case.every_attempt:
            if not job.error:
                yield "failed without an error"
            if not world.dead_letters:
                yield "failed, and no message in the dead-letter queue"
            if any(expected.get(key) != body for key, body in there.items()):
                yield "an object with other bytes"
        else:
            yield f"the job ended as {job.status} ({job.error})"


def _most_reassemblies(case: Case) -> int:
    """One, unless a message or its answer may have been lost: the sender cannot tell which."""
    fault = case.fault
    if fault.call.operation == "SendMessage" and fault.kind == "timeout after":
        # One for each attempt of the SDK, or one of the next delivery. The kit repeats the save, and sends one more.
        return 7 if case.shape.uses_kit else 6
    return 2 if fault.call.operation == "SendMessage" or "Triggered" in fault.call.operation else 1


def table(outcomes: Sequence[Outcome]) -> str:
    """The table that `make crash` prints."""
    lines = ["| shape | in | fault | points | recovered | failed, with a dead letter | lost | doubled |"]
    lines.append("|---|---|---|--:|--:|--:|--:|--:|")
    groups: dict[tuple[str, ...], list[Outcome]] = {}
    for outcome in outcomes:
        assert outcome.case
        if outcome.reached:
            case = outcome.case
            kind = case.fault.kind if case.fault.kind in KILLS else "the call fails"
            groups.setdefault(
                (case.shape.name, case.actor, kind + (", every attempt" if case.every_attempt else "")), []
            ).append(outcome)
    groups["all", "", ""] = [outcome for outcome in outcomes if outcome.reached]
    for names, group in groups.items():
        counts = Counter(
            "lost" if each.lost else "doubled" if each.doubled else "failed" if each.status == "failed" else "recovered"
            for each in group
        )
        numbers = [len(group), *(counts[name] for name in ("recovered", "failed", "lost", "doubled"))]
        lines.append("| " + " | ".join([*names, *map(str, numbers)]) + " |")
    return "\n".join(lines)


def _share(number: int, of: int, only: str) -> list[Outcome]:
    """The outcomes of one process's share of the cases, on a server of its own."""
    with server.running() as endpoint, tempfile.TemporaryDirectory() as folder:
        lab = Lab(Cloud.at(endpoint), Path(folder))
        lab.prepare()
        outcomes = []
        for position, case in enumerate(lab.cases()):
            if position % of != number or only not in str(case):
                continue
            outcomes.append(lab.attempt(case))
            for complaint in outcomes[-1].complaints:
                print(f"{case}: {complaint}", file=sys.stderr, flush=True)
        return outcomes


def main() -> int:
    parser = argparse.ArgumentParser(description="Run every crash point and print the table.")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--every", type=int, default=1, help="only each n-th case")
    arguments = parser.parse_args()
    telemetry.logger.setLevel(logging.CRITICAL)
    began = time.monotonic()
    of = arguments.processes * arguments.every
    with ProcessPoolExecutor(arguments.processes) as pool:
        shares = [
            pool.submit(_share, number * arguments.every, of, arguments.only) for number in range(arguments.processes)
        ]
        outcomes = [outcome for share in shares for outcome in share.result()]
    print(table(outcomes))
    missed = [replace(outcome) for outcome in outcomes if not outcome.reached]
    print(f"\n{len(outcomes)} cases, {len(missed)} whose call was not made this time, {time.monotonic() - began:.0f} s")
    return 1 if any(outcome.complaints for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
