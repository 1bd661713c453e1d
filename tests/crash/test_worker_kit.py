"""Workers of the kit whose commands fail in every way, that are killed, and that get messages twice."""

from collections.abc import Sequence

import pytest
from media_worker.jobs import JobStatus
from media_worker.keys import build_segment_key

from tests.crash import kit
from tests.crash.faults import Call, Fault
from tests.crash.matrix import SHAPES, Lab
from tests.crash.test_scenarios import delete, ends_well
from tests.crash.world import World

KIT = next(shape for shape in SHAPES if shape.uses_kit)

COMMANDS: dict[str, tuple[Sequence[str], str]] = {
    "killed": (("sh", "-c", "kill -9 $$"), "was killed by SIGKILL"),
    "hung": (("sleep", "600"), "did not end within 1.5 s"),
    "out of disk": (("sh", "-c", "cat {input} > /dev/full"), "No space left on device"),
    "wrong output": (("sh", "-c", "head -c 3000 {input} > {output}"), "the output"),
}


def submitted(lab: Lab, command: Sequence[str], attempts: int) -> World:
    """A job with a command that fails in the first attempts at each segment."""
    world = lab.world(KIT)
    world.submit(lab.source(KIT))
    world.sabotage = lambda _: kit.use_command(command, attempts)
    return world


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_fails_once_is_repeated(lab: Lab, name: str) -> None:
    """The other attempt completes the segment, and none of the processed segments is processed again."""
    command, _ = COMMANDS[name]
    world = submitted(lab, command, attempts=1)
    began_at = world.clock.time()
    world.run()
    ends_well(lab, world, KIT)
    assert len(world.ran) == 2 * KIT.segments
    assert world.clock.time() - began_at <= 120


@pytest.mark.parametrize("name", ["out of disk"])
def test_a_command_that_always_fails_fails_the_job_with_its_reason(lab: Lab, name: str) -> None:
    """After the last attempt, and not before."""
    command, reason = COMMANDS[name]
    world = submitted(lab, command, attempts=kit.RECEIVES)
    world.run()
    assert world.job().status is JobStatus.FAILED
    error = world.job().error or ""
    assert "failed 3 times" in error
    assert reason in error
    assert world.dead_letters
    assert world.violations == []


def test_messages_that_are_delivered_twice_are_worked_once(lab: Lab) -> None:
    """Also when the second one arrives while the first one is being processed by a worker that is then killed."""
    world = lab.world(KIT)
    world.submit(lab.source(KIT))
    world.receive(world.queue[0])
    for message in [each for each in world.queue if each.actor == "worker"]:
        world.send("worker", message.body)
    first = next(message for message in world.queue if message.actor == "worker")
    first.receives += 1
    first.visible_at = world.clock.time() + 90
    working = world.start(first, fault=Fault(Call("PutObject", 1), "held"))
    working.wait_until_held()
    twin = next(each for each in world.queue if each.body == first.body and each is not first)
    assert world.receive(twin).ran == ()  # type: ignore[union-attr]
    assert twin not in world.queue
    world.settle(first, working.kill())
    world.run()
    ends_well(lab, world, KIT)
    key = build_segment_key(world.job_id, 0, KIT.segments, "sbs")
    assert sorted(world.ran).count(key) == 2  # the killed worker's, and the one that followed
    assert len(world.ran) == KIT.segments + 1


@pytest.mark.parametrize("operation", ["PutItem SegmentAttempts", "GetObject", "PutObject"])
def test_segments_of_a_deleted_job_are_dropped(lab: Lab, operation: str) -> None:
    """The job is deleted in the middle of an attempt: nothing runs after that, and no message is left."""
    world = lab.world(KIT)
    world.submit(lab.source(KIT))
    world.receive(world.queue[0])
    world.sabotage = lambda each: each.at_call(Call(operation, 1), lambda: delete(each, each.workers_aws))
    world.run()
    assert world.job().status is JobStatus.DELETED
    assert len(world.ran) <= 1
    assert (world.queue, world.dead_letters, world.violations) == ([], [], [])
