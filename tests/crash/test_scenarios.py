"""Timeouts, order, replaced sources, deletions and batches, with processes that really die."""

from typing import Any

import pytest
from media_worker.jobs import JobStatus
from media_worker.keys import build_final_key, build_source_key
from media_worker.lease import LEASE_S

from tests.crash.faults import Call, Fault
from tests.crash.matrix import SHAPES, Lab, Shape
from tests.crash.process import WORK_S
from tests.crash.world import World
from tests.functional.stack import INPUT, OUTPUT, s3_event

ONE, FIVE, PARTS, FAST, *_ = SHAPES
OTHER = Shape("other", "crash_other", 5)


def submitted(lab: Lab, shape: Shape = FIVE) -> World:
    world = lab.world(shape)
    world.submit(lab.source(shape))
    return world


def ends_well(lab: Lab, world: World, shape: Shape = FIVE) -> None:
    assert world.job().status is JobStatus.COMPLETED, world.job().error
    assert world.content() == lab.undisturbed(shape)[0]
    assert (world.violations, world.doubled(), world.leftovers(), world.dead_letters) == ([], [], [], [])


def delete(world: World, aws: Any) -> None:
    aws.dynamodb.update_item(
        TableName="Jobs",
        Key={"job_id": {"S": world.job_id}},
        UpdateExpression="SET #status = :deleted",
        ExpressionAttributeNames={"#status": "status"},
        ExpressionAttributeValues={":deleted": {"S": "deleted"}},
    )


def test_an_expired_lease_is_taken_over(lab: Lab) -> None:
    """Not earlier. Existing segments are kept, and only the others are written."""
    world = submitted(lab)
    world.fault, world.fault_actor = Fault(Call("PutObject", 4), "killed before"), "chunking"
    (message,) = world.queue
    world.receive(message)
    there = len(world.writes(INPUT, "segments/"))
    early = world.receive(message)
    assert early
    assert early.failures == (0,)
    assert LEASE_S - 10 <= message.visible_at - world.clock.time() <= LEASE_S + 2
    world.clock.ahead_s += message.visible_at - world.clock.time()
    late = world.receive(message)
    assert late
    assert late.failures == ()
    assert sum(call.operation == "PutObject" for call in late.calls) == 5 - there > 0
    world.run()
    ends_well(lab, world)


@pytest.mark.parametrize("actor", ["chunking", "reassembly"])
def test_after_a_kill_the_job_goes_on_within_150_seconds(lab: Lab, actor: str) -> None:
    """The process dies with the lease just taken, the message is delivered again, and the job completes."""
    world = submitted(lab)
    world.run(until=lambda each: any(message.actor == actor for message in each.queue))
    world.fault, world.fault_actor = Fault(Call("PutObject", 1), "killed before"), actor  # type: ignore[assignment]
    killed_at = world.clock.time()
    (message,) = (message for message in world.queue if message.actor == actor)
    assert world.receive(message).died  # type: ignore[union-attr]
    while message in world.queue:
        world.clock.ahead_s += max(0.0, message.visible_at - world.clock.time())
        world.receive(message)
    assert world.clock.time() - killed_at <= 150
    world.run()
    ends_well(lab, world)


@pytest.mark.parametrize(
    "call",
    [
        *(Call("UpdateItem Jobs", 2), Call("PutObject", 1), Call("UpdateItem Jobs", 3), Call("PutObject", 2)),
        *(Call("PutObject", 5), Call("UpdateItem Jobs", 4), Call("ListMultipartUploads", 1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("replaced", [False, True], ids=["same source", "new source"])
def test_a_stopped_chunking_does_no_harm_when_it_continues(lab: Lab, call: Call, *, replaced: bool) -> None:
    """Meanwhile another delivery has taken the lease and has done the work, of a new source perhaps. The final is that
    of the present source, and the job completes.
    """
    if replaced:
        lab.undisturbed(OTHER)
    world = submitted(lab)
    (message,) = world.queue
    stopped = world.stop_at(call, message)
    world.clock.ahead_s += LEASE_S + 1
    if replaced:
        world.upload(lab.source(OTHER))
        world.queue.pop()
    world.receive(message)
    world.resume(stopped, message)
    world.run()
    assert world.job().status is JobStatus.COMPLETED, world.job().error
    assert world.content() == lab.undisturbed(OTHER if replaced else FIVE)[0]
    assert world.leftovers() == []
    assert replaced or world.doubled() == []


@pytest.mark.parametrize(
    "call",
    [*(Call("UpdateItem Jobs", number) for number in (1, 2)), Call("PutObject", 1), Call("ListMultipartUploads", 1)],
    ids=str,
)
def test_a_stopped_reassembly_does_no_harm_when_it_continues(lab: Lab, call: Call) -> None:
    """Another delivery has joined the segments meanwhile: there is one final, and the job stays completed."""
    world = submitted(lab)
    world.run(until=lambda each: [message.actor for message in each.queue] == ["reassembly"])
    (message,) = world.queue
    stopped = world.stop_at(call, message)
    world.clock.ahead_s += LEASE_S + 1
    world.receive(message)
    assert world.job().status is JobStatus.COMPLETED
    world.resume(stopped, message)
    world.run()
    ends_well(lab, world)


def test_a_reassembly_message_before_the_chunking_does_no_harm(lab: Lab) -> None:
    """It may become a dead letter, but the job completes."""
    world = lab.world(FIVE)
    for _ in range(2):
        world.send("reassembly", {"job_id": world.job_id})
    world.submit(lab.source(FIVE))
    chunking = world.queue.pop()
    world.run(until=lambda each: not [message for message in each.queue if message.receives < 3])
    world.queue.append(chunking)
    world.run()
    assert world.job().status is JobStatus.COMPLETED
    assert world.content() == lab.undisturbed(FIVE)[0]
    assert (world.doubled(), world.leftovers()) == ([], [])


def test_workers_may_be_faster_than_chunking(lab: Lab) -> None:
    """Chunking, which ends last, requests the reassembly."""
    world = submitted(lab, FAST)
    world.run()
    ends_well(lab, world, FAST)
    assert world.reassemblies_sent == 1


def test_a_source_that_is_replaced_after_some_segments(lab: Lab) -> None:
    """Processed segments of the old source are not in the final."""
    lab.undisturbed(OTHER)
    world = submitted(lab)
    world.fault, world.fault_actor = Fault(Call("PutObject", 4), "killed before"), "chunking"
    world.receive(world.queue[0])
    world.run(until=lambda each: all(message.actor != "worker" for message in each.queue))
    world.clock.ahead_s += 2
    world.upload(lab.source(OTHER))
    world.run()
    assert world.job().status is JobStatus.COMPLETED
    assert world.content() == lab.undisturbed(OTHER)[0]
    assert world.leftovers() == []


def test_a_source_that_is_replaced_while_it_is_read_is_read_again(lab: Lab) -> None:
    """The ranged request names the ETag of the old one."""
    lab.undisturbed(OTHER)
    world = submitted(lab)

    def replace(world: World) -> None:
        def put() -> None:
            key = build_source_key(world.job_id)
            world.workers_aws.s3.put_object(Bucket=INPUT, Key=key, Body=lab.source(OTHER))

        world.at_call(Call("GetObject", 2), put)

    world.sabotage = replace
    delivery = world.receive(world.queue[0])
    assert delivery
    assert delivery.failures == (0,)
    world.sabotage = None
    world.run()
    ends_well(lab, world, OTHER)


@pytest.mark.parametrize("operation", ["GetObject", "PutObject", "UpdateItem Jobs"])
@pytest.mark.parametrize("actor", ["chunking", "reassembly"])
def test_a_job_that_is_deleted_during_the_work_stays_deleted(lab: Lab, actor: str, operation: str) -> None:
    """A final that was written already is tagged for expiry."""
    world = submitted(lab)

    def sabotage(world: World) -> None:
        world.at_call(Call(operation, 1), lambda: delete(world, world.workers_aws))

    if actor == "chunking":
        world.sabotage = sabotage
        world.receive(world.queue[0])
        world.sabotage = None
    else:
        world.run(until=lambda each: any(message.actor == "reassembly" for message in each.queue))
        world.sabotage = sabotage
    world.run()
    assert world.job().status is JobStatus.DELETED
    final = build_final_key(world.job_id)
    if any(key.endswith("final.mp4") for key in world.content()):
        tags = world.workers_aws.s3.get_object_tagging(Bucket=OUTPUT, Key=final)["TagSet"]
        assert tags == [{"Key": "kind", "Value": "processed-segment"}]
    assert world.leftovers() == []
    assert world.dead_letters == []


def test_records_of_a_batch_are_independent(lab: Lab) -> None:
    """Only malformed records are returned; the valid one is handled."""
    world = submitted(lab)
    good = world.queue[0]
    malformed: tuple[Any, ...] = ("not json", [], {"Records": [{}]}, {"Records": 1})
    bad = [world.send("chunking", body) for body in malformed]
    harmless = [world.send("chunking", body) for body in ({"Event": "s3:TestEvent"}, s3_event("elsewhere/x"))]
    batch = [bad[0], bad[1], good, bad[2], *harmless, bad[3]]
    for message in batch:
        message.receives += 1
    assert world.deliver(*batch).failures == (0, 1, 3, 6)
    world.queue.clear()
    world.collect()
    world.run()
    ends_well(lab, world)


def test_no_record_is_started_without_enough_time(lab: Lab) -> None:
    """It is returned untouched, and re-enqueued on the final receive; with enough time the job completes."""
    world = submitted(lab)
    world.work_s = 70
    message = world.queue[0]
    for _ in range(5):
        delivery = world.receive(message)
        assert delivery
        assert delivery.failures == (0,)
        assert {call.operation for call in delivery.calls} == {"GetQueueAttributes", "ChangeMessageVisibility"}
    world.receive(message)
    assert message not in world.queue
    assert len(world.queue) == 1
    world.work_s = WORK_S
    world.run()
    ends_well(lab, world)


def test_a_failed_job_runs_again_when_its_message_is_redriven(lab: Lab) -> None:
    """Every attempt died; then the cause is repaired."""
    world = submitted(lab)
    world.fault, world.fault_actor, world.every_attempt = Fault(Call("GetObject", 1), "killed before"), "chunking", True
    world.run()
    assert world.job().status is JobStatus.FAILED
    assert "failed after 5 attempts" in (world.job().error or "")
    (letter,) = world.dead_letters
    world.dead_letters.clear()
    world.fault = None
    world.send("chunking", letter.body)
    world.run()
    ends_well(lab, world)
