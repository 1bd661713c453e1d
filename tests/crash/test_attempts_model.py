"""A state machine of one job with real media: attempts with changing sources, settings and code, and slow workers.

Two facts hold whatever happens: a completed job's final has exactly the frames of its source, in their order; and
after enough deliveries a job is completed or failed. Deliveries are real processes that are killed before or after an
AWS call. `make attempts` runs many more examples than `make test`.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from media_worker import chunking
from media_worker.completions import record_segment, require_current_plan
from media_worker.errors import OperationRefused, StaleSegment
from media_worker.jobs import JobStatus, read_job
from media_worker.keys import build_final_key, build_output_segment_key, build_plan_key, parse_segment_key
from media_worker.mp4 import Movie, SplitPlan, SplitRule, plan_split, read_movie
from media_worker.operations import NewSettings, retry_job
from media_worker.plan import Plan, PlannedSegment, PlannedSource, digest_of, parse_plan

from tests.crash import server
from tests.crash.clock import StoppedClock
from tests.crash.faults import Call, Fault, Kind
from tests.crash.world import Cloud, Message, World, remove
from tests.functional.stack import INPUT, OUTPUT
from tests.media import clips, look

# The sample of `make test`; `make attempts` sets another number.
EXAMPLES = int(os.environ.get("ATTEMPTS_EXAMPLES", "0"))

type SourceName = Literal["plain", "other", "late", "matroska"]
type Style = Literal["copy", "lossless", "video only", "short"]

_TINY = ("-f", "lavfi", "-i", "testsrc2=size=64x36:rate=4:duration={s}", "-f", "lavfi", "-i", "sine=duration={s}")
_X264 = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")
_LOSSLESS = (*_X264, "-qp", "0")
_STYLES: Mapping[Style, tuple[str, ...]] = {
    "lossless": (*_LOSSLESS, "-c:a", "copy"),
    "video only": (*_LOSSLESS, "-an"),
    "short": (*_LOSSLESS, "-c:a", "copy"),  # with one frame less
}


def _make_source(name: SourceName, folder: Path) -> bytes:
    path = folder / f"{name}.{'mkv' if name == 'matroska' else 'mp4'}"
    tiny = [word.format(s=9 if name == "other" else 12) for word in _TINY]
    options = ("-vf", "negate") if name == "other" else ()
    # Lossless like what the workers write: ffmpeg decodes H.264 wrongly where lossy segments turn into lossless ones.
    encoded = (*_LOSSLESS, "-g", "4", "-bf", "1", "-c:a", "aac", "-b:a", "32k")
    if name == "late":
        plain = folder / "plain.mp4"
        clips.ffmpeg(
            *("-itsoffset", "0.6", "-i", str(plain), "-i", str(plain)),
            *("-map", "0:v", "-map", "1:a", "-c", "copy", str(path)),
        )
    else:
        clips.ffmpeg(*tiny, *options, *encoded, str(path))
    return path.read_bytes()


@dataclass(frozen=True, eq=False)
class Studio:
    """The media of all examples: each is made, changed and decoded once."""

    folder: Path
    sources: Mapping[SourceName, bytes]

    @classmethod
    def open(cls, folder: Path) -> "Studio":
        names: tuple[SourceName, ...] = ("plain", "other", "late", "matroska")
        return cls(folder, {name: _make_source(name, folder) for name in names})

    @cache  # noqa: B019  # one studio for the session
    def change(self, body: bytes, style: Style) -> bytes:
        """What a worker makes of a segment."""
        if style == "copy":
            return body
        source, target = self.folder / "in.mp4", self.folder / "out.mp4"
        source.write_bytes(body)
        fewer = ("-frames:v", str(max(1, look.count_frames(source) - 1))) if style == "short" else ()
        clips.ffmpeg("-i", str(source), *_STYLES[style], *fewer, str(target))
        return target.read_bytes()

    @cache  # noqa: B019
    def frames(self, body: bytes) -> list[str]:
        """The hash of each decoded frame."""
        path = self.folder / "decoded"
        path.write_bytes(body)
        return [frame.content for frame in look.decoded_frames(path)]

    def source_of(self, etag: str) -> bytes:
        return next(body for body in self.sources.values() if _etag(body) == etag.strip('"'))


def _etag(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


class CarefulWorld(World):
    """Its workers look before they upload, as the kit does."""

    def _process(self, aws: Any, key: str) -> None:
        segment = read_segment(self, key)
        if segment and is_wanted(self, segment.plan):
            super()._process(aws, key)


@dataclass(frozen=True)
class InWork:
    """A segment that a worker has downloaded."""

    message: Message
    index: int
    plan: str
    body: bytes


def read_segment(world: World, key: str, message: Message | None = None) -> InWork | None:
    parts = parse_segment_key(INPUT, key)
    assert parts
    found = world.aws.s3.get_object(Bucket=INPUT, Key=key)
    return InWork(
        message or Message("worker", key, 0), parts.segment_index, found["Metadata"]["plan"], found["Body"].read()
    )


def is_wanted(world: World, plan: str) -> bool:
    try:
        require_current_plan(read_job(world.aws, world.job_id), plan)
    except StaleSegment:
        return False
    return True


def other_cut_rule(factor: int) -> Callable[[World], None]:
    """Another version of the code, which makes longer segments."""

    def install(_: World) -> None:
        def longer(movie: Movie, rule: SplitRule, *read: Any, **options: Any) -> SplitPlan:
            assert rule.segment_duration_s is not None
            rule = replace(rule, segment_duration_s=rule.segment_duration_s * factor)
            return plan_split(movie, rule, *read, **options)

        chunking.plan_split = longer  # type: ignore[assignment, attr-defined]

    return install


operations = st.sampled_from(
    [
        *("PutObject", "PutObject", "CompleteMultipartUpload", "GetObject", "HeadObject", "SendMessage"),
        *("UpdateItem Jobs", "PutItem ReassemblyTriggered", "UpdateItem ReassemblyTriggered", "GetItem Jobs"),
    ]
)
kinds: st.SearchStrategy[Kind] = st.sampled_from(["killed before", "killed after", "internal error", "hit and lost"])
faults = st.one_of(st.none(), st.builds(Fault, st.builds(Call, operations, st.integers(1, 5)), kinds))
durations = st.sampled_from([1, 2, 3, 5])
engines = st.sampled_from(["auto", "copy", "ffmpeg"])
tracks = st.sampled_from(["auto", "source", "segments"])
styles: st.SearchStrategy[Style] = st.sampled_from(["copy", "lossless", "video only"])
names: st.SearchStrategy[SourceName] = st.sampled_from(["plain", "other", "late", "matroska"])


class AttemptsMachine(RuleBasedStateMachine):
    """One job. The queue, the clock and the processes are those of the crash harness."""

    cloud: ClassVar[Cloud]
    studio: ClassVar[Studio]
    number: ClassVar[int] = 0

    @initialize(name=names, engine=engines, duration=durations, wanted=tracks, style=styles, by_hand=st.booleans())
    def begin(self, name: SourceName, engine: str, duration: int, wanted: str, style: Style, *, by_hand: bool) -> None:
        AttemptsMachine.number += 1
        self.world = self.cloud.world(self.studio.folder / f"world-{self.number}", CarefulWorld)
        self.world.clock = StoppedClock()
        self.world.engine, self.world.tracks = engine, wanted
        self.style: Style = style
        self.in_work: list[InWork] = []
        self.judged: set[str] = set()
        source = self.studio.sources[name]
        self.world.submit(source)
        self._set_row(segment_duration_sec={"N": str(duration)})
        if by_hand and name != "matroska":
            self._store_plan(self._plan_by_hand(source))

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self._end()
        finally:
            remove(self.world)

    def _end(self) -> None:
        """Nothing disturbs the job any more: it ends. If it failed, an explicit retry completes it."""
        self._drain()
        job = self.world.job()
        assert job.status in {JobStatus.COMPLETED, JobStatus.FAILED}, job
        if job.status is JobStatus.FAILED:
            assert job.error
            self._retry(NewSettings(engine="auto", segment_duration_s=Decimal(2), tracks="auto"))
            self._drain()
            assert self.world.job().status is JobStatus.COMPLETED, self.world.job()
        self.a_completed_job_has_the_frames_of_its_source()

    def _drain(self) -> None:
        self.world.fault, self.world.sabotage = None, None
        self.world.run()
        assert self.world.violations == []
        self.a_completed_job_has_the_frames_of_its_source()

    def _retry(self, new: NewSettings | None = None) -> None:
        with self.world.clock.patches():
            self.world.clock.ahead_s += 2  # a plan in the same second is indistinguishable from the one before
            try:
                retry_job(self.world.aws, self.world.job_id, settings=new or NewSettings())
            except OperationRefused:
                assert new is None or self.world.job().status is not JobStatus.FAILED
        self.world.collect()

    def _set_row(self, **attributes: Any) -> None:
        self.world.aws.dynamodb.update_item(
            TableName="Jobs",
            Key={"job_id": {"S": self.world.job_id}},
            UpdateExpression="SET " + ", ".join(f"#{name} = :{name}" for name in attributes),
            ExpressionAttributeNames={f"#{name}": name for name in attributes},
            ExpressionAttributeValues={f":{name}": value for name, value in attributes.items()},
        )

    def _plan_by_hand(self, source: bytes) -> Plan:
        """Two segments: the first second, and the rest."""

        def read(offset: int, length: int) -> bytes:
            return source[offset : offset + length]

        movie = read_movie(read, len(source))
        split = plan_split(movie, Fraction(1), read, lambda ranges: [read(*each) for each in ranges])
        first, *rest = split.segments
        rest_s = sum((each.duration_s for each in rest), Fraction(0))
        longest_s = max(each.longest_frame_s for each in rest)
        frames = sum(each.frames for each in rest)
        return Plan(
            source=PlannedSource(f"input/{self.world.job_id}/source.mp4", _etag(source), len(source)),
            engine="copy",
            segment_duration_s=Fraction(1),
            timescale=movie.tracks[split.main_track].timescale,
            segments=(
                PlannedSegment(0, 0, first.frames, first.start_s, first.duration_s, first.longest_frame_s),
                PlannedSegment(1, first.frames, frames, first.start_s + first.duration_s, rest_s, longest_s),
            ),
        )

    def _store_plan(self, plan: Plan) -> None:
        key = build_plan_key(self.world.job_id)
        self.world.aws.s3.put_object(Bucket=INPUT, Key=key, Body=plan.to_json())
        self._set_row(status={"S": "chunking_in_progress"}, plan={"S": plan.digest})

    def _messages(self, *actors: str) -> list[Message]:
        return [message for message in self.world.queue if message.actor in actors]

    # The owner

    @rule(name=names)
    def replace_the_source(self, name: SourceName) -> None:
        self.world.clock.ahead_s += 2
        self.world.upload(self.studio.sources[name])

    @rule(engine=engines, duration=durations, wanted=tracks)
    def change_the_settings(self, engine: str, duration: int, wanted: str) -> None:
        """Between two attempts, and without an explicit retry."""
        self._set_row(engine={"S": engine}, segment_duration_sec={"N": str(duration)}, tracks={"S": wanted})

    @rule()
    def retry(self) -> None:
        self._retry()

    @rule(engine=st.sampled_from(["copy", "ffmpeg"]), duration=durations)
    def retry_with_a_new_plan(self, engine: Any, duration: int) -> None:
        self._retry(NewSettings(engine=engine, segment_duration_s=Decimal(duration)))

    @precondition(lambda self: self.world.dead_letters)
    @rule()
    def redrive(self) -> None:
        letter = self.world.dead_letters.pop()
        self.world.queue.append(replace(letter, receives=0, visible_at=self.world.clock.time()))

    # SQS and the functions

    @precondition(lambda self: self._messages("chunking", "reassembly"))
    @rule(fault=faults, factor=st.sampled_from([1, 1, 2, 3]), newest=st.booleans())
    def deliver(self, fault: Fault | None, factor: int, *, newest: bool) -> None:
        """To a function of some version of the code, which may be killed."""
        world, messages = self.world, self._messages("chunking", "reassembly")
        message = messages[-1] if newest else min(messages, key=lambda each: each.visible_at)
        world.clock.ahead_s += max(0.0, message.visible_at - world.clock.time())
        world.fault, world.fault_actor, world.fired = fault, message.actor, 0
        world.sabotage = other_cut_rule(factor) if factor > 1 else None
        world.receive(message)

    @precondition(lambda self: 0 < len(self.world.queue) < 30)
    @rule(choice=st.integers(0, 29))
    def duplicate(self, choice: int) -> None:
        message = self.world.queue[choice % len(self.world.queue)]
        self.world.queue.append(replace(message, receives=0, visible_at=self.world.clock.time()))

    @rule(seconds=st.sampled_from([1, 130, 1000]))
    def wait(self, seconds: int) -> None:
        self.world.clock.ahead_s += seconds

    # The segment workers

    @precondition(lambda self: self._messages("worker"))
    @rule()
    def work(self) -> None:
        """Fast workers process every segment that is announced."""
        for message in self._messages("worker"):
            if segment := self._download(message):
                self._finish(segment, self.style, looks_first=True)

    @precondition(lambda self: self._messages("worker"))
    @rule(choice=st.integers(0, 29))
    def download(self, choice: int) -> None:
        """A slow worker begins with a segment."""
        messages = self._messages("worker")
        if segment := self._download(messages[choice % len(messages)]):
            self.in_work.append(segment)

    @precondition(lambda self: self.in_work)
    @rule(
        style=st.one_of(st.none(), st.just("short"), styles),
        looks_first=st.booleans(),
        choice=st.integers(0, 29),
        dies=st.booleans(),
    )
    def upload(self, style: Style | None, choice: int, *, looks_first: bool, dies: bool) -> None:
        """A slow worker ends, perhaps long after its plan was replaced, perhaps between upload and completion."""
        segment = self.in_work.pop(choice % len(self.in_work))
        self._finish(segment, style or self.style, looks_first=looks_first, dies=dies)

    def _download(self, message: Message) -> InWork | None:
        return read_segment(self.world, message.body, message)

    def _finish(self, segment: InWork, style: Style, *, looks_first: bool, dies: bool = False) -> None:
        world = self.world
        if looks_first and not is_wanted(world, segment.plan):
            self._acknowledge(segment)
            return
        key = build_output_segment_key(world.job_id, segment.index)
        body = self.studio.change(segment.body, style)
        world.aws.s3.put_object(Bucket=OUTPUT, Key=key, Body=body, Metadata={"plan": segment.plan})
        if dies:
            return
        uri = f"s3://{OUTPUT}/{key}"
        with world.clock.patches(), suppress(StaleSegment):
            record_segment(
                world.aws, job_id=world.job_id, segment_index=segment.index, output_s3_uri=uri, plan=segment.plan
            )
        self._acknowledge(segment)

    def _acknowledge(self, segment: InWork) -> None:
        self.world.queue[:] = [message for message in self.world.queue if message is not segment.message]
        self.world.collect()

    # The facts

    @invariant()
    def a_completed_job_has_the_frames_of_its_source(self) -> None:
        if not hasattr(self, "world") or self.world.job().status is not JobStatus.COMPLETED:
            return
        final = self.world.aws.s3.get_object(Bucket=OUTPUT, Key=build_final_key(self.world.job_id))
        if final["VersionId"] in self.judged:
            return
        self.judged.add(final["VersionId"])
        stored = self.world.aws.s3.get_object(Bucket=INPUT, Key=build_plan_key(self.world.job_id))["Body"].read()
        assert final["Metadata"]["plan"] == digest_of(stored) == self.world.job().plan, json.loads(stored)
        source = self.studio.source_of(parse_plan(stored).source.etag)
        assert self.studio.frames(final["Body"].read()) == self.studio.frames(source)


@pytest.fixture(scope="module", autouse=True)
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with server.running() as endpoint:
        AttemptsMachine.cloud = Cloud.at(endpoint)
        AttemptsMachine.studio = Studio.open(tmp_path_factory.mktemp("attempts"))
        yield


AttemptsMachine.TestCase.settings = settings(
    max_examples=EXAMPLES or 5,
    phases=(Phase.generate,),  # an example takes seconds: shrinking one takes many minutes
    stateful_step_count=25,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestAttempts = AttemptsMachine.TestCase
