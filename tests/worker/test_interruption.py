"""What the host announces, over real HTTP."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from media_worker.interruption import Host
from media_worker.segment_cache import SegmentCache

from tests.worker.metadata import Metadata, ecs_task, serving
from tests.worker.world import World


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    with serving() as metadata:
        yield metadata


def ec2(metadata: Metadata, **options: str) -> Host:
    return Host.of({"AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.url, **options})


def ecs(metadata: Metadata) -> Host:
    uri, agent = f"{metadata.url}/v4/id", metadata.url
    return Host.of({"AWS_EC2_METADATA_DISABLED": "true", "ECS_CONTAINER_METADATA_URI_V4": uri, "ECS_AGENT_URI": agent})


def test_an_instance_is_named_by_its_id(metadata: Metadata) -> None:
    """The metadata service is asked with a token (IMDSv2)."""
    metadata.entries["/latest/meta-data/instance-id"] = "i-0abc"
    assert ec2(metadata).identify() == "i-0abc"


def test_a_task_is_named_by_its_id(metadata: Metadata) -> None:
    """In ECS the task is what one looks for."""
    metadata.entries["/v4/id/task"] = ecs_task("RUNNING")
    assert ecs(metadata).identify() == "task abc"


def test_elsewhere_the_host_name_is_the_name() -> None:
    """A service that does not answer is not asked again."""
    host = Host.of({"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9"})
    assert host.identify()
    assert not host.announces


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/latest/meta-data/spot/instance-action", "Spot interruption"),
        ("/latest/meta-data/events/recommendations/rebalance", "Spot rebalance recommendation"),
    ],
)
def test_a_spot_notice_is_seen(metadata: Metadata, path: str, says: str) -> None:
    """There is none at first."""
    host = ec2(metadata)
    assert host.notice() is None
    metadata.entries[path] = '{"action": "terminate"}'
    assert str(host.notice()).startswith(says)


def test_a_rebalance_recommendation_can_be_ignored(metadata: Metadata) -> None:
    """Some instances run for hours after it."""
    metadata.entries["/latest/meta-data/events/recommendations/rebalance"] = "{}"
    assert Host.of({"AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.url}, "ignore").notice() is None


def test_a_task_that_is_to_stop_is_seen(metadata: Metadata) -> None:
    """ECS says so in the task's metadata."""
    host = ecs(metadata)
    metadata.entries["/v4/id/task"] = ecs_task("RUNNING")
    assert host.notice() is None
    metadata.entries["/v4/id/task"] = ecs_task("STOPPED")
    assert host.notice() == "ECS stops the task"


def test_a_task_is_protected_while_it_works(metadata: Metadata) -> None:
    """Once for a while, and not any more when the work is done."""
    host = ecs(metadata)
    for protected in (True, True, False, False):
        host.protect(protected=protected)
    bodies = [json.loads(body)["ProtectionEnabled"] for _, path, body in metadata.requests if "protection" in path]
    assert bodies == [True, False]


def test_a_task_is_protected_for_each_segment(world: World, metadata: Metadata) -> None:
    """Before the processing begins, and until the segment is recorded. A task that waits can be stopped."""
    world.add_job(2)
    states = []
    for segment in world.worker(ecs(metadata)).segments():
        with segment:
            states.append(protection(metadata)[-1])
            shutil.copyfile(segment.input, segment.output)
    assert states == [True, True]
    assert protection(metadata) == [True, False, True, False]
    assert world.processed == [0, 1]


def test_a_task_stays_protected_while_another_segment_begins(
    world: World, metadata: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker with two slots: one segment ends while the other one is downloaded."""
    world.add_job(2)
    worker = world.worker(ecs(metadata))
    second_begins = threading.Event()
    states: list[bool] = []
    fetch = SegmentCache.fetch

    def slow_for_the_second(cache: SegmentCache, *arguments: Any) -> bool:
        if first_begins.is_set():
            second_begins.set()
            wait_until(lambda: len(worker.endings) == 1)
            time.sleep(0.2)  # a request that ends the protection would have arrived
            states.append(protection(metadata)[-1])
        first_begins.set()
        return fetch(cache, *arguments)

    first_begins = threading.Event()
    monkeypatch.setattr(SegmentCache, "fetch", slow_for_the_second)

    def process() -> None:
        for segment in worker.segments():
            with segment:
                assert second_begins.wait(10)
                shutil.copyfile(segment.input, segment.output)

    with ThreadPoolExecutor(2) as slots:
        for slot in [slots.submit(process), slots.submit(process)]:
            slot.result()
    assert states == [True]
    assert protection(metadata) == [True, False]
    assert world.processed == [0, 1]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def protection(metadata: Metadata) -> list[bool]:
    bodies = [body for _, path, body in metadata.requests if path == "/task-protection/v1/state"]
    return [json.loads(body)["ProtectionEnabled"] for body in bodies]


def test_a_service_that_fails_announces_nothing() -> None:
    """The worker goes on."""
    host = Host.of({"ECS_CONTAINER_METADATA_URI_V4": "http://127.0.0.1:9", "AWS_EC2_METADATA_DISABLED": "true"})
    assert host.notice() is None


def test_a_spot_interruption_returns_the_segment(world: World, metadata: Metadata) -> None:
    """The body is interrupted, and the message can be received again at once."""
    world.add_job()
    worker = world.worker(ec2(metadata), notice_poll_s=0.1)
    for segment in worker.segments():
        with segment:
            metadata.entries["/latest/meta-data/spot/instance-action"] = '{"action": "terminate"}'
            time.sleep(20)
    assert str(worker.stop_reason).startswith("Spot interruption")
    assert world.messages() == (1, 0)
    assert world.attempts[0].state == "returned"
