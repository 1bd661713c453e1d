"""Every end of a job reaches EventBridge, wherever a process was killed: in the functions, or in the one that sends."""

import json
from collections.abc import Sequence
from typing import Any

import boto3
import pytest
from media_worker.events import build_events_handler
from media_worker.jobs import JobStatus

from tests.crash.faults import KILLS, Call, Fault, Injector, Kind
from tests.crash.matrix import SHAPES, Case, Lab
from tests.crash.process import Delivery, Report, fork
from tests.crash.world import World
from tests.functional.stack import OUTPUT

ONE = SHAPES[0]
STREAM: Any = {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
EVENTS_QUEUE = "events"
TYPES = {JobStatus.COMPLETED: "Job Completed", JobStatus.FAILED: "Job Failed"}


def client(world: World, service: str) -> Any:
    return boto3.client(service, endpoint_url=world.aws.settings.aws_endpoint_url)  # type: ignore[call-overload]


def new_world(lab: Lab) -> World:
    """A world whose Jobs table has a stream, and whose events a rule sends to a queue."""
    world = lab.world(ONE)
    world.aws.dynamodb.update_table(TableName="Jobs", StreamSpecification=STREAM)
    arn = "arn:aws:sqs:us-east-1:123456789012:events"
    world.aws.sqs.create_queue(QueueName=EVENTS_QUEUE)
    events = client(world, "events")
    events.put_rule(Name="all", EventPattern=json.dumps({"source": ["media-worker"]}))
    events.put_targets(Rule="all", Targets=[{"Id": "queue", "Arn": arn}])
    return world


def changes(world: World) -> list[Any]:
    """The records of the stream, from its beginning."""
    streams = client(world, "dynamodbstreams")
    arn = world.aws.dynamodb.describe_table(TableName="Jobs")["Table"]["LatestStreamArn"]
    (shard,) = streams.describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]
    iterator = streams.get_shard_iterator(StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON")[
        "ShardIterator"
    ]
    return list(streams.get_records(ShardIterator=iterator)["Records"])


def send(world: World, records: Sequence[Any], fault: Fault | None = None) -> Delivery:
    """Invoke the events function once, in a process that can be killed."""

    def body(report: Report) -> None:
        bus = client(world, "events")
        injector = Injector(fault, report.fire)
        injector.watch(bus)
        build_events_handler(bus, stack="stack", output_bucket=OUTPUT)({"Records": records}, None)
        report.calls = injector.calls

    return fork(body, world.clock).finish()


def send_until_done(world: World, fault: Fault | None = None) -> int:
    """Lambda delivers a batch again until the function succeeds. Returns the number of deliveries."""
    records, deliveries = changes(world), 1
    delivery = send(world, records, fault)
    assert delivery.fired == (fault is not None)
    while delivery.died or delivery.failures:
        assert deliveries < 3
        delivery, deliveries = send(world, records), deliveries + 1
    return deliveries


def received(world: World) -> list[str]:
    url = world.aws.sqs.get_queue_url(QueueName=EVENTS_QUEUE)["QueueUrl"]
    found = []
    while messages := world.aws.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
        for message in messages:
            event = json.loads(message["Body"])
            assert event["detail"]["job_id"] == world.job_id
            found.append(event["detail-type"])
            world.aws.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return found


@pytest.fixture(scope="module")
def completed(lab: Lab) -> World:
    """A job that ran without a fault."""
    world = new_world(lab)
    world.submit(lab.source(ONE))
    world.run()
    assert world.job().status is JobStatus.COMPLETED
    return world


def test_one_event_without_a_fault(completed: World) -> None:
    """Normally an end is sent once."""
    assert send_until_done(completed) == 1
    assert received(completed) == ["Job Completed"]


@pytest.mark.parametrize(
    ("kind", "events"),
    [("killed before", 1), ("killed after", 2), ("throttled", 1), ("timeout after", None), ("internal error", 1)],
)
def test_the_sender_dies(completed: World, kind: Kind, events: int | None) -> None:
    """Before its call, after it, or the call fails: the batch is delivered again, and the event is sent."""
    assert send_until_done(completed, Fault(Call("PutEvents", 1), kind)) == 2
    found = received(completed)
    assert set(found) == {"Job Completed"}
    assert events is None or len(found) == events


# The write that completes the job, the one after it, which ends the lease, and a job that fails in every attempt.
@pytest.mark.parametrize(
    ("kind", "last", "every_attempt"),
    [
        ("killed before", 1, False),
        ("killed after", 1, False),
        ("killed before", 2, False),
        ("killed after", 2, False),
        ("killed before", 2, True),
    ],
)
def test_reassembly_dies(lab: Lab, kind: Kind, last: int, *, every_attempt: bool) -> None:
    """Whichever of its last writes is lost, the end of the job is in the stream, and is sent."""
    _, calls = lab.undisturbed(ONE)
    writes = [call for call in calls["reassembly"] if call.operation.startswith("UpdateItem")]
    case = Case(ONE, "reassembly", Fault(writes[-last], kind), every_attempt=every_attempt)
    world = new_world(lab)
    world.fault, world.fault_actor, world.every_attempt = case.fault, case.actor, case.every_attempt
    world.submit(lab.source(ONE))
    world.run()
    assert world.fired
    status = world.job().status
    send_until_done(world)
    assert received(world) == [TYPES[status]]


def test_chunking_dies_in_every_attempt(lab: Lab) -> None:
    """The final delivery of the message fails the job, and this is sent."""
    world = new_world(lab)
    world.fault, world.fault_actor, world.every_attempt = Fault(Call("GetObject", 1), "killed before"), "chunking", True
    world.submit(lab.source(ONE))
    world.run()
    assert world.job().status is JobStatus.FAILED
    send_until_done(world)
    assert received(world) == ["Job Failed"]


@pytest.mark.parametrize("kind", KILLS)
def test_a_permanent_error_whose_process_dies(lab: Lab, kind: Kind) -> None:
    """A source that is not a video fails the job, and this is sent, even if the failing write is lost once."""
    world = new_world(lab)
    # The third write to the row fails the job.
    world.fault, world.fault_actor = Fault(Call("UpdateItem Jobs", 3), kind), "chunking"
    world.submit(b"Nothing to see here.\n")
    world.run()
    assert world.job().status is JobStatus.FAILED
    send_until_done(world)
    found = received(world)
    assert set(found) == {"Job Failed"}
    # A process that died after the failing write is delivered again, and the job runs, and fails, a second time.
    assert len(found) <= 2
