"""Timeouts, order, replaced sources, deletions and batches, each with processes that really die."""

from typing import Any

import pytest
from media_worker.jobs import JobStatus
from media_worker.keys import build_final_key, build_source_key

from tests.crash.faults import Call, Fault
from tests.crash.matrix import SHAPES, Lab, Shape
from tests.crash.process import WORK_S
from tests.crash.world import VISIBILITY_S, World
from tests.functional.stack import INPUT, OUTPUT, s3_event

ONE, FIVE, PARTS, FAST, _ = SHAPES
OTHER = Shape("other", "crash_other", 5)


def submitted(lab: Lab, shape: Shape = FIVE) -> World:
    world = lab.world(shape)
    world.submit(lab.source(shape))
    return world


def ends_well(lab: Lab, world: World, shape: Shape = FIVE) -> None:
    assert world.job().status is JobStatus.COMPLETED, world.job().error
    assert world.content() == lab.calm(shape)[0]
    assert (world.violations, world.doubled(), world.leftovers(), world.dead_letters) == ([], [], [], [])


def delete(world: World, aws: Any) -> None:
    aws.dynamodb.update_item(
        TableName="Jobs",
        Key={"job_id": {"S": world.job_id}},
        UpdateExpression="SET #status = :deleted",
        ExpressionAttributeNames={"#status": "status"},
        ExpressionAttributeValues={":deleted": {"S": "deleted"}},
    )


def test_a_dead_holders_lease_is_taken_over_as_soon_as_it_has_expired(lab: Lab) -> None:
    """Not before; what was uploaded is kept, and only the rest is written."""
    world = submitted(lab)
    world.fault, world.fault_actor = Fault(Call("PutObject", 4), "killed before"), "chunking"
    (message,) = world.queue
    world.receive(message)
    there = len(world.writes(INPUT, "segments/"))
    early = world.receive(message)
    assert early
    assert early.failures == (0,)
    assert WORK_S - 10 <= message.visible_at - world.clock.time() <= WORK_S + 2 < VISIBILITY_S
    world.clock.ahead_s += message.visible_at - world.clock.time()
    late = world.receive(message)
    assert late
    assert late.failures == ()
    assert sum(call.operation == "PutObject" for call in late.calls) == 5 - there > 0
    world.run()
    ends_well(lab, world)


def test_a_reassembly_message_before_the_chunking_does_no_harm(lab: Lab) -> None:
    """It may end as a dead letter; the job is not failed by it, and completes."""
    world = lab.world(FIVE)
    for _ in range(2):
        world.send("reassembly", {"job_id": world.job_id})
    world.submit(lab.source(FIVE))
    chunking = world.queue.pop()
    world.run(until=lambda each: not [message for message in each.queue if message.receives < 3])
    world.queue.append(chunking)
    world.run()
    assert world.job().status is JobStatus.COMPLETED
    assert world.content() == lab.calm(FIVE)[0]
    assert (world.doubled(), world.leftovers()) == ([], [])


def test_workers_may_finish_before_the_chunking_has(lab: Lab) -> None:
    """The chunking, which ends last, asks for the reassembly."""
    world = submitted(lab, FAST)
    world.run()
    ends_well(lab, world, FAST)
    assert world.reassemblies_sent == 1


def test_a_source_that_is_replaced_after_some_segments_gives_the_new_one(lab: Lab) -> None:
    """Workers have finished segments of the old one by then: nothing of these is in the final."""
    lab.calm(OTHER)
    world = submitted(lab)
    world.fault, world.fault_actor = Fault(Call("PutObject", 4), "killed before"), "chunking"
    world.receive(world.queue[0])
    world.run(until=lambda each: all(message.actor != "worker" for message in each.queue))
    world.clock.ahead_s += 2
    world.upload(lab.source(OTHER))
    world.run()
    assert world.job().status is JobStatus.COMPLETED
    assert world.content() == lab.calm(OTHER)[0]
    assert world.leftovers() == []


def test_a_source_that_is_replaced_while_it_is_read_is_read_again(lab: Lab) -> None:
    """The range asked for the old one's ETag."""
    lab.calm(OTHER)
    world = submitted(lab)

    def replace(world: World) -> None:
        def put() -> None:
            key = build_source_key(world.job_id)
            world.workers_aws.s3.put_object(Bucket=INPUT, Key=key, Body=lab.source(OTHER))

        world.at_call(Call("GetObject", 1), put)

    world.sabotage = replace
    delivery = world.receive(world.queue[0])
    assert delivery
    assert delivery.failures == (0,)
    world.sabotage = None
    world.run()
    ends_well(lab, world, OTHER)


@pytest.mark.parametrize("operation", ["GetObject", "PutObject", "UpdateItem Jobs"])
@pytest.mark.parametrize("actor", ["chunking", "reassembly"])
def test_a_job_that_is_deleted_in_the_middle_stays_deleted(lab: Lab, actor: str, operation: str) -> None:
    """Whatever the handlers were doing; a final that was written already is left to expire."""
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


def test_records_of_a_batch_do_not_disturb_each_other(lab: Lab) -> None:
    """Rubbish comes back alone; the good one is done."""
    world = submitted(lab)
    good = world.queue[0]
    rubbish: tuple[Any, ...] = ("rubbish", [], {"Records": [{}]}, {"Records": 1})
    bad = [world.send("chunking", body) for body in rubbish]
    harmless = [world.send("chunking", body) for body in ({"Event": "s3:TestEvent"}, s3_event("elsewhere/x"))]
    batch = [bad[0], bad[1], good, bad[2], *harmless, bad[3]]
    for message in batch:
        message.receives += 1
    assert world.deliver(*batch).failures == (0, 1, 3, 6)
    world.queue.clear()
    world.collect()
    world.run()
    ends_well(lab, world)


def test_no_record_is_begun_that_the_time_does_not_allow(lab: Lab) -> None:
    """All ten come back untouched, on the last receive as fresh messages; then there is time."""
    world = submitted(lab)
    world.work_s = 70
    message = world.queue[0]
    for _ in range(5):
        delivery = world.receive(message)
        assert delivery
        assert delivery.failures == (0,)
        assert {call.operation for call in delivery.calls} == {"ChangeMessageVisibility"}
    world.receive(message)
    assert message not in world.queue
    assert len(world.queue) == 1
    world.work_s = WORK_S
    world.run()
    ends_well(lab, world)


def test_a_job_that_was_given_up_runs_again_when_its_message_is_put_back(lab: Lab) -> None:
    """Every try died; the cause is repaired."""
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
