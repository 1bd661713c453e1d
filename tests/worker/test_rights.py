"""docs/segment-worker-policy.json is exactly what a worker needs, from the first segment to the last."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from media_worker.keys import build_output_segment_key, build_segment_key

from tests.rights.enforcement import Guard
from tests.rights.policies import Grant, Policy, queue_arn, table_arn
from tests.worker.world import COPY, JOB, PLAN, RECEIVES, ROOT, World, python

FAIL = python("import sys; sys.exit('bad')")
ARNS = {
    "InputBucket": "arn:aws:s3:::inputs",
    "OutputBucket": "arn:aws:s3:::outputs",
    "SegmentQueue": queue_arn("segments"),
    "ReassemblyQueue": queue_arn("reassembly"),
    "JobsTable": table_arn("Jobs"),
    "SegmentCompletionsTable": table_arn("SegmentCompletions"),
    "SegmentAttemptsTable": table_arn("SegmentAttempts"),
    "ReassemblyTriggeredTable": table_arn("ReassemblyTriggered"),
}
# S3 is asked for this only when an upload in parts breaks off.
NOT_USED_HERE = {"s3:AbortMultipartUpload"}


def read_policy() -> Policy:
    text = (ROOT / "docs" / "segment-worker-policy.json").read_text()
    for name, arn in ARNS.items():
        text = text.replace(f"${{{name}.Arn}}", arn)
    return Policy.parse([json.loads(text)])


class RecordingGuard(Guard):
    """A guard that also remembers which grants were used."""

    def take(self, policy: Policy) -> None:
        super().take(policy)
        self.used: set[Grant] = set()
        guard = self

        class Recording(Policy):
            __slots__ = ()

            def allows(self, action: str, resource: str) -> bool:
                guard.used |= {Grant(one.sid, action) for one in self.statements if one.concerns(action, resource)}
                return super().allows(action, resource)

        self.policy = Recording(policy.statements)


def process_the_last_segment(world: World) -> None:
    """It is recorded, and the join is requested."""
    world.add_job()
    world.work(COPY)
    assert world.processed == [0]
    assert world.messages("reassembly") == (1, 0)


def fail_a_job(world: World) -> None:
    """After the last attempt."""
    world.add_job()
    world.work(FAIL)
    assert world.job.error


def drop_a_deleted_segment(world: World) -> None:
    """A missing object is not a forbidden one."""
    world.add_job()
    world.aws.s3.delete_object(Bucket="inputs", Key=build_segment_key(JOB, 0, 1, "sbs"))
    world.work(COPY)
    assert world.messages() == (0, 0)


def use_the_upload_of_a_killed_attempt(world: World) -> None:
    """The second delivery looks for it."""
    world.add_job()
    url = world.environ["SEGMENT_QUEUE_URL"]
    message = world.aws.sqs.receive_message(QueueUrl=url, VisibilityTimeout=0)["Messages"][0]
    metadata = {"plan": PLAN, "message-id": message["MessageId"]}
    world.aws.s3.put_object(Bucket="outputs", Key=build_output_segment_key(JOB, 0), Body=b"done", Metadata=metadata)
    world.work(COPY)
    assert world.output(0)["Bytes"] == b"done"


def find_a_request_that_was_sent(world: World) -> None:
    """A segment that is announced again when the join was requested."""
    process_the_last_segment(world)
    world.announce(0, 1)
    world.work(COPY)


def send_an_interrupted_message_again(world: World) -> None:
    """The last receive was interrupted."""
    world.add_job()
    for _ in range(RECEIVES):
        for segment in world.worker().segments():
            with segment:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(20)
    assert world.messages() == (1, 0)


def keep_a_message_hidden(world: World) -> None:
    """The heartbeat."""
    world.add_job()
    world.work(python("import shutil, sys, time; time.sleep(1); shutil.copy(*sys.argv[1:])", "{input}", "{output}"))
    assert world.processed == [0]


SCENARIOS: tuple[Callable[[World], None], ...] = (
    process_the_last_segment,
    fail_a_job,
    drop_a_deleted_segment,
    use_the_upload_of_a_killed_attempt,
    find_a_request_that_was_sent,
    send_an_interrupted_message_again,
    keep_a_message_hidden,
)


def test_the_policy_is_enough_and_no_more(endpoint: str, clip: Path, tmp_path: Path) -> None:
    """Nothing is refused in any scenario, and every action of every statement is used in one of them."""
    used: set[Grant] = set()
    policy = read_policy()
    for number, scenario in enumerate(SCENARIOS):
        directory = tmp_path / str(number)
        directory.mkdir()
        world = World.create(endpoint, clip, directory)
        guard = RecordingGuard(world.aws.settings)
        guard.take(policy)
        world.worker_aws = guard.aws
        try:
            scenario(world)
        finally:
            world.reset()
        assert guard.refused == [], scenario.__name__
        used |= guard.used
    unused = {str(grant) for grant in policy.grants if grant not in used and grant.action not in NOT_USED_HERE}
    assert unused == set()


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("s3:GetObject", "arn:aws:s3:::inputs/input/job-1/source.mp4"),
        ("s3:PutObject", "arn:aws:s3:::outputs/jobs/job-1/final.mp4"),
        ("s3:DeleteObject", "arn:aws:s3:::outputs/jobs/job-1/segments/0.mp4"),
        ("dynamodb:Scan", table_arn("Jobs")),
        ("dynamodb:DeleteItem", table_arn("SegmentCompletions")),
    ],
)
def test_a_worker_may_not(action: str, resource: str) -> None:
    """A GPU image of somebody else's must not read sources, replace finals, or delete anything."""
    assert not read_policy().allows(action, resource)
