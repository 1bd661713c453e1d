"""A sample of the crash matrix, and proof that the harness detects what it must. `make crash` runs the whole matrix."""

import random
from collections.abc import Callable

import media_worker.completions
import media_worker.reassembly
import pytest
from media_worker import s3
from media_worker.jobs import JobStatus
from media_worker.lease import Hold, LeaseStore

from tests.crash.faults import Call, Fault
from tests.crash.matrix import SHAPES, Case, Lab
from tests.crash.world import World

ONE, FIVE, PARTS, FAST, COPIED, AUDIO, KIT, SECOND = SHAPES
SAMPLE = 5

# Each of these lost or doubled something in an earlier version.
KNOWN = (
    Case(ONE, "chunking", Fault(Call("UpdateItem Jobs", 4), "killed after")),
    Case(FAST, "chunking", Fault(Call("UpdateItem Jobs", 4), "hit and lost")),
    Case(ONE, "chunking", Fault(Call("UpdateItem Jobs", 1), "hit and lost")),
    Case(FAST, "chunking", Fault(Call("PutItem ReassemblyTriggered", 1), "hit and lost")),
    Case(ONE, "worker", Fault(Call("PutItem ReassemblyTriggered", 1), "hit and lost")),
    Case(FIVE, "chunking", Fault(Call("PutObject", 3), "killed after")),
    Case(PARTS, "chunking", Fault(Call("CreateMultipartUpload", 1), "hit and lost")),
    Case(PARTS, "reassembly", Fault(Call("CompleteMultipartUpload", 1), "error in a 200")),
    Case(PARTS, "reassembly", Fault(Call("UploadPart", 2), "killed before")),
    Case(ONE, "worker", Fault(Call("SendMessage", 1), "killed before")),
    Case(COPIED, "chunking", Fault(Call("UploadPartCopy", 1), "killed after")),
    Case(COPIED, "reassembly", Fault(Call("CompleteMultipartUpload", 1), "hit and lost")),
    Case(AUDIO, "reassembly", Fault(Call("UploadPart", 2), "killed after")),
    Case(KIT, "worker", Fault(Call("PutObject", 1), "killed after")),
    Case(KIT, "worker", Fault(Call("TransactWriteItems Jobs SegmentCompletions", 1), "killed after")),
    Case(SECOND, "chunking", Fault(Call("DeleteItem SegmentCompletions", 2), "killed before")),
    Case(SECOND, "chunking", Fault(Call("DeleteItem ReassemblyTriggered", 1), "hit and lost")),
    Case(ONE, "chunking", Fault(Call("GetObject", 1), "killed before"), every_attempt=True),
    Case(ONE, "reassembly", Fault(Call("GetObject", 1), "killed before"), every_attempt=True),
)


@pytest.mark.parametrize("case", KNOWN, ids=str)
def test_known_cases(lab: Lab, case: Case) -> None:
    """The job completes, or fails with its error and a dead letter; nothing is written twice, nothing is left."""
    outcome = lab.attempt(case)
    assert outcome.reached
    assert outcome.complaints == ()


@pytest.mark.parametrize("number", range(SAMPLE))
def test_a_sample_of_the_matrix(lab: Lab, number: int) -> None:
    """The same for random cases; they are the same on every run."""
    cases = list(lab.cases())
    case = random.Random(number).choice(cases)
    assert lab.attempt(case).complaints == (), str(case)


def run(lab: Lab, sabotage: Callable[[World], None], case: Case) -> tuple[str, ...]:
    """The complaints about a job without a protection."""
    world = lab.world(case.shape)
    world.sabotage = sabotage
    world.fault, world.fault_actor, world.every_attempt = case.fault, case.actor, case.every_attempt
    world.newest_first = True
    world.submit(lab.source(case.shape))
    world.run()
    return tuple(lab.judge(world, case))


def without_lease(world: World) -> None:
    def read_row(store: LeaseStore, *_: object, **__: object) -> None:
        key = {"job_id": {"S": store.lease.job_id}}
        store.hold.row = store.aws.dynamodb.get_item(TableName=store.aws.settings.jobs_table_name, Key=key)["Item"]

    LeaseStore._put_record = read_row  # type: ignore[assignment,method-assign]
    LeaseStore._write_as_holder = lambda *_, **__: None  # type: ignore[method-assign]
    Hold.fence = Hold.is_lost = None  # type: ignore[assignment,method-assign]


def without_conditional_write(world: World) -> None:
    write = s3._write
    s3._write = lambda aws, target, parts, sources, _, *rest: write(aws, target, parts, sources, {}, *rest)


def without_completeness_check(world: World) -> None:
    media_worker.completions.is_complete = lambda *_: True
    media_worker.reassembly.describe_gaps = lambda *_: None  # type: ignore[attr-defined]


def test_without_the_conditional_write_the_harness_complains(lab: Lab) -> None:
    """A segment whose first answer was lost is written twice and triggers two workers."""
    case = Case(ONE, "chunking", Fault(Call("PutObject", 2), "hit and lost"))  # the first is the plan
    assert any(text.startswith("doubled") for text in run(lab, without_conditional_write, case))


def test_without_the_completeness_check_the_harness_complains(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of five segments is joined as if it were all."""
    monkeypatch.setattr(media_worker.completions, "is_complete", lambda *_: True)
    world = lab.world(FIVE)
    world.sabotage = without_completeness_check
    world.submit(lab.source(FIVE), frame_check="any")  # the frame check is a second protection
    world.receive(world.queue[0])
    world.queue[:] = [message for message in world.queue if message.actor == "worker"][:1]
    world.run()
    world.send("reassembly", {"job_id": world.job_id})
    world.run()
    nothing = Case(FIVE, "chunking", Fault(Call("nothing", 1), "killed before"))
    assert any("other bytes" in text for text in lab.judge(world, nothing))


def test_without_the_lease_the_harness_complains(lab: Lab) -> None:
    """Twenty deliveries do the work more than once."""
    assert deliver_twenty(lab, without_lease)[0] > 1


def test_one_of_twenty_deliveries_does_the_work(lab: Lab) -> None:
    """The others delete no message; the holder is killed, and the job still completes."""
    at_work, world = deliver_twenty(lab, None)
    assert at_work == 1
    assert world.queue
    world.run()
    assert world.job().status is JobStatus.COMPLETED
    assert world.doubled() == []
    assert world.leftovers() == []
    assert world.content() == lab.undisturbed(FIVE)[0]
    assert world.dead_letters == []


def deliver_twenty(lab: Lab, sabotage: Callable[[World], None] | None) -> tuple[int, World]:
    """Deliver a message five times and copies of it fifteen times while the first delivery works, then kill that.

    Returns how many deliveries read the source, and the world.
    """
    world = lab.world(FIVE)
    world.sabotage = sabotage
    world.submit(lab.source(FIVE))
    (original,) = world.queue
    copies = [world.send("chunking", original.body) for _ in range(5)]
    for each in (original, *copies):
        each.receives += 1
        each.visible_at += 960
    holder = world.start(original, fault=Fault(Call("PutObject", 2), "held"))
    holder.wait_until_held()
    others = [original] * 4 + copies * 3
    for each in others:
        each.receives += 1
    children = [(each, world.start(each)) for each in others]
    deliveries = [(each, child.finish()) for each, child in children]
    for each, delivery in deliveries:
        world.settle(each, delivery)
    world.settle(original, holder.kill())
    at_work = sum(Call("GetObject", 1) in delivery.calls for _, delivery in deliveries)
    return 1 + at_work, world
