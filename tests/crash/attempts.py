"""A state machine of one job with real media: attempts with changing sources, settings and code, and slow workers.

Whatever happens: a completed job's final has exactly the frames of its source, in their order; an attempt keeps the
plan that its source has; and after enough deliveries a job is completed or failed. Deliveries are real processes that
are killed before or after an AWS call.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, ClassVar, Literal, get_args

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from media_worker import chunking, reassembly
from media_worker.completions import is_complete, record_segment, require_current_plan
from media_worker.errors import OperationRefused, StaleSegment
from media_worker.jobs import Job, JobStatus, fail_job, read_job
from media_worker.keys import (
    build_final_key,
    build_output_segment_key,
    build_plan_key,
    build_segment_key,
    build_source_key,
    parse_segment_key,
)
from media_worker.mp4 import (
    Layout,
    Movie,
    SplitPlan,
    SplitRule,
    plan_join,
    plan_split,
    read_movie,
)
from media_worker.operations import NewSettings, retry_job
from media_worker.plan import Plan, PlannedSegment, PlannedSource, digest_of, parse_plan
from media_worker.s3 import describe, read_object

from tests.crash.clock import StoppedClock
from tests.crash.faults import Call, Fault, Kind
from tests.crash.process import Delivery
from tests.crash.studio import SOURCES, SourceName, Studio, Style, etag_of
from tests.crash.world import Cloud, Message, World, remove
from tests.functional.stack import INPUT, OUTPUT


@dataclass(frozen=True)
class Version:
    """Another version of the code: it makes longer segments, and its joins may lose the last one."""

    factor: int = 1
    is_lossy: bool = False

    def install(self, _: World) -> None:
        """In the process of a delivery."""

        def longer(movie: Movie, rule: SplitRule, *read: Any, **options: Any) -> SplitPlan:
            assert rule.segment_duration_s is not None
            rule = replace(rule, segment_duration_s=rule.segment_duration_s * self.factor)
            return plan_split(movie, rule, *read, **options)

        def shorter_join(movies: Sequence[Movie], starts_s: Sequence[Fraction] | None) -> Layout:
            kept = max(1, len(movies) - 1)
            return plan_join(movies[:kept], starts_s[:kept] if starts_s else None)

        def shorter_source_join(movies: Sequence[Movie], _: Any, starts_s: Sequence[Fraction]) -> Layout:
            return shorter_join(movies, starts_s)

        chunking.plan_split = longer  # type: ignore[assignment, attr-defined]
        if self.is_lossy:
            reassembly.plan_join = shorter_join  # type: ignore[assignment, attr-defined]
            reassembly.plan_source_join = shorter_source_join  # type: ignore[assignment, attr-defined]


PRESENT = Version()


class AttemptsWorld(World):
    """Its workers look before they upload, as the kit does. Each delivery is judged by what it left of the job."""

    version: Version = PRESENT

    def use(self, version: Version) -> None:
        """Deliver to this version of the code from now on."""
        self.version, self.sabotage = version, version.install

    def receive(self, message: Message) -> Delivery | None:
        kept, before = self._plan_to_keep(), self.job()
        delivery = super().receive(message)
        job = self.job()
        if kept and job.plan != kept:
            self.violations.append(f"the source of plan {kept} was planned again: {job.plan}")
        if not self.version.is_lossy and job.error != before.error and _blames_final(job):
            self.violations.append(f"a bad final was not replaced: {job.error}")
        return delivery

    def _plan_to_keep(self) -> str | None:
        """The job's plan, if it is stored and belongs to the present source."""
        job = self.job()
        stored = read_object(self.aws, INPUT, build_plan_key(self.job_id))
        source = describe(self.aws, INPUT, build_source_key(self.job_id))
        if job.plan is None or stored is None or source is None or digest_of(stored[0]) != job.plan:
            return None
        return job.plan if parse_plan(stored[0]).source.etag == source.etag else None

    def _process(self, aws: Any, key: str) -> None:
        segment = read_segment(self, key)
        if is_wanted(self, segment.plan):
            super()._process(aws, key)


@dataclass(frozen=True)
class InWork:
    """A segment that a worker has downloaded."""

    message: Message
    index: int
    plan: str
    body: bytes


def read_segment(world: World, key: str, message: Message | None = None) -> InWork:
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


type Disturbance = Literal["a short segment", "stale segments", "a short join"]
DISTURBANCES: Sequence[Disturbance] = get_args(Disturbance.__value__)


def _is_processed(world: World) -> bool:
    job = world.job()
    return job.status is JobStatus.CHUNKING_COMPLETE and is_complete(world.aws, job)


def _blames_final(job: Job) -> bool:
    return job.status is JobStatus.FAILED and (job.error or "").startswith("the final")


operations = st.sampled_from(
    [
        *("PutObject", "PutObject", "CompleteMultipartUpload", "GetObject", "HeadObject", "SendMessage"),
        *("UpdateItem Jobs", "PutItem ReassemblyTriggered", "UpdateItem ReassemblyTriggered", "GetItem Jobs"),
    ]
)
kinds: st.SearchStrategy[Kind] = st.sampled_from(["killed before", "killed after", "internal error", "hit and lost"])
faults = st.builds(Fault, st.builds(Call, operations, st.integers(1, 5)), kinds)
versions = st.builds(Version, st.sampled_from([1, 2, 3]), st.booleans())
durations = st.sampled_from([2, 3, 5])
engines = st.sampled_from(["auto", "copy", "ffmpeg"])
tracks = st.sampled_from(["auto", "source", "segments"])
styles: st.SearchStrategy[Style] = st.sampled_from(["copy", "lossless", "video only"])
names: st.SearchStrategy[SourceName] = st.sampled_from(SOURCES)


class AttemptsMachine(RuleBasedStateMachine):
    """One job. The queue, the clock and the processes are those of the crash harness."""

    cloud: ClassVar[Cloud]
    studio: ClassVar[Studio]
    number: ClassVar[int] = 0
    # What happens just before the last join of every example. None: chance decides.
    focus: ClassVar[Disturbance | None] = None

    @initialize(
        name=names,
        earlier=st.sampled_from(["nothing", "the same source", "another source", "another source"]),
        engine=engines,
        duration=durations,
        later=st.none() | durations,
        wanted=tracks,
        style=styles,
        last=st.sampled_from(DISTURBANCES),
        by_hand=st.booleans(),
    )
    def begin(
        self,
        name: SourceName,
        earlier: str,
        engine: str,
        duration: int,
        later: int | None,
        wanted: str,
        style: Style,
        last: Disturbance,
        *,
        by_hand: bool,
    ) -> None:
        """A job that is new, or whose plan was written by hand, or that has failed before, perhaps with a source that
        has the same cuts and other frames.
        """
        AttemptsMachine.number += 1
        self.world = self.cloud.world(self.studio.folder / f"world-{self.number}", AttemptsWorld)
        self.world.clock = StoppedClock()
        self.world.engine, self.world.tracks = engine, wanted
        self.style: Style = style
        self.last = self.focus or last
        self.in_work: list[InWork] = []
        self.judged: set[str] = set()
        before = name if earlier != "another source" else "plain" if name == "negative" else "negative"
        self.world.submit(self.studio.sources[before])
        self._set_row(segment_duration_sec={"N": str(duration)})
        if earlier != "nothing":
            self._fail_after_chunking()
            self._set_row(segment_duration_sec={"N": str(later or duration)})
            self.replace_the_source(name)
        elif by_hand and name != "matroska":
            self._store_plan(self._plan_by_hand(self.studio.sources[name]))

    def _fail_after_chunking(self) -> None:
        """An earlier run of the job ends, and slow workers have all of its segments."""
        self.deliver()
        self.in_work = [read_segment(self.world, message.body, message) for message in self._messages("worker")]
        with self.world.clock.patches():
            assert fail_job(self.world.aws, self.world.job_id, "failed by the test")

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            self._end()
        finally:
            remove(self.world)

    def _end(self) -> None:
        """Nothing disturbs the job any more: it ends. If it failed, an explicit retry completes it."""
        self._disturb_the_join()
        self._drain()
        job = self.world.job()
        assert job.status in {JobStatus.COMPLETED, JobStatus.FAILED}, job
        if _blames_final(job):
            self._retry()
            self._drain()
            job = self.world.job()
        if job.status is JobStatus.FAILED:
            assert job.error
            self._retry(NewSettings(engine="auto", segment_duration_s=Decimal(2), tracks="auto"))
            self._drain()
            assert self.world.job().status is JobStatus.COMPLETED, self.world.job()
        self.a_completed_job_has_the_frames_of_its_source()

    def _disturb_the_join(self) -> None:
        """Slow workers that do not look upload over what fast workers have uploaded, or the join loses a segment."""
        self._run(until=_is_processed)
        job = self.world.job()
        if not _is_processed(self.world) or job.total_segments is None:
            return
        if self.last == "a short segment":
            key = build_segment_key(job.job_id, 0, job.total_segments, job.mode)
            self._finish(read_segment(self.world, key), "short", looks_first=False, dies=True)
        if self.last == "a short join" and (messages := self._messages("reassembly")):
            self._deliver(messages[0], version=Version(is_lossy=True))
        if self.last == "stale segments":
            for segment in self.in_work:
                if segment.plan != job.plan:
                    self._finish(segment, self.style, looks_first=False, dies=True)

    def _run(self, until: Callable[[World], bool] | None = None) -> None:
        self.world.fault = None
        self.world.use(PRESENT)
        self.world.run(until)

    def _drain(self) -> None:
        self._run()
        assert self.world.violations == [], self.world.violations
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
            source=PlannedSource(f"input/{self.world.job_id}/source.mp4", etag_of(source), len(source)),
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

    @precondition(lambda self: len(self._messages("chunking")) < 3)
    @rule(name=names)
    def replace_the_source(self, name: SourceName) -> None:
        self.world.clock.ahead_s += 2
        self.world.upload(self.studio.sources[name])

    @rule(engine=engines, duration=durations, wanted=tracks)
    def change_the_settings(self, engine: str, duration: int, wanted: str) -> None:
        """Between two attempts, and without an explicit retry."""
        self._set_row(engine={"S": engine}, segment_duration_sec={"N": str(duration)}, tracks={"S": wanted})

    @precondition(lambda self: self.world.job().status is JobStatus.FAILED)
    @rule()
    def retry(self) -> None:
        self._retry()

    @precondition(lambda self: self.world.job().status in {JobStatus.FAILED, JobStatus.COMPLETED})
    @rule(engine=st.sampled_from(["copy", "ffmpeg"]), duration=st.none() | durations, name=st.none() | names)
    def retry_with_a_new_plan(self, engine: Any, duration: int | None, name: SourceName | None) -> None:
        """Perhaps of another source."""
        if name:
            self.replace_the_source(name)
        self._retry(NewSettings(engine=engine, segment_duration_s=Decimal(duration) if duration else None))

    @precondition(lambda self: self.world.dead_letters)
    @rule()
    def redrive(self) -> None:
        letter = self.world.dead_letters.pop()
        self.world.queue.append(replace(letter, receives=0, visible_at=self.world.clock.time()))

    # SQS and the functions

    @precondition(lambda self: self.world.queue)
    @rule()
    def deliver(self) -> None:
        """To a function, or to the workers."""
        self._deliver(self._next())

    @precondition(lambda self: self.world.queue)
    @rule(fault=faults)
    def deliver_and_disturb(self, fault: Fault) -> None:
        """The function may be killed."""
        self._deliver(self._next(), fault)

    @precondition(lambda self: self.world.queue)
    @rule(version=versions)
    def deliver_to_another_version(self, version: Version) -> None:
        self._deliver(self._next(), version=version)

    @precondition(lambda self: self.world.queue)
    @rule(choice=st.integers(0, 29), again=st.booleans(), wait_s=st.sampled_from([0, 130, 1000]))
    def deliver_at_any_time(self, choice: int, wait_s: int, *, again: bool) -> None:
        """Late, out of order, and perhaps not for the last time."""
        message = self.world.queue[choice % len(self.world.queue)]
        if again:
            self.world.queue.append(replace(message, receives=0, visible_at=self.world.clock.time()))
        self.world.clock.ahead_s += wait_s
        self._deliver(message)

    def _next(self) -> Message:
        return min(self.world.queue, key=lambda each: each.visible_at)

    def _deliver(self, message: Message, fault: Fault | None = None, version: Version = PRESENT) -> None:
        if message.actor == "worker":
            self._work()
            return
        world = self.world
        world.clock.ahead_s += max(0.0, message.visible_at - world.clock.time())
        world.fault, world.fault_actor, world.fired = fault, message.actor, 0
        world.use(version)
        world.receive(message)
        assert world.violations == [], world.violations

    def _work(self) -> None:
        """Fast workers process every segment that is announced."""
        for message in self._messages("worker"):
            self._finish(read_segment(self.world, message.body, message), self.style, looks_first=True)

    # The segment workers

    @precondition(lambda self: self._messages("worker"))
    @rule(choice=st.integers(0, 29))
    def download(self, choice: int) -> None:
        """A slow worker begins with a segment."""
        messages = self._messages("worker")
        message = messages[choice % len(messages)]
        self.in_work.append(read_segment(self.world, message.body, message))

    @precondition(lambda self: self.in_work)
    @rule(
        style=st.one_of(st.none(), st.just("short"), styles),
        looks_first=st.booleans(),
        choice=st.integers(0, 29),
        dies=st.booleans(),
    )
    def upload(self, style: Style | None, choice: int, *, looks_first: bool, dies: bool) -> None:
        """A slow worker ends, perhaps long after its plan was replaced, perhaps between upload and completion.

        Another one goes on with the same segment.
        """
        segment = self.in_work[choice % len(self.in_work)]
        self._finish(segment, style or self.style, looks_first=looks_first, dies=dies)

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
        assert self.studio.frames(final["Body"].read()) == self.studio.frames(source), "other frames than the source"
