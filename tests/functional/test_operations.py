"""Cancel, retry and delete, against the real functions."""

import json
import threading
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from media_worker import chunking, jobs
from media_worker.aws import Aws
from media_worker.completions import record_segment
from media_worker.errors import JobMoved, NoSuchJob, OperationRefused, SettingsError, StaleSegment
from media_worker.jobs import JobStatus
from media_worker.keys import build_final_key, build_output_segment_key, build_source_key, parse_segment_key
from media_worker.operations import NewSettings, cancel_job, delete_job, retry_job
from media_worker.s3 import write_once

from tests.functional.conftest import ClipMaker
from tests.functional.logs import Logs
from tests.functional.stack import INPUT, OUTPUT, Stack, create_table, s3_event

BY = "ann@studio"


@pytest.fixture
def world(stack: Stack) -> Stack:
    """The stack with a segment queue and the table of attempts, and a job whose source is split by the copy engine."""
    url = stack.aws.sqs.create_queue(QueueName="segments")["QueueUrl"]
    create_table(stack.aws, "SegmentAttempts", job_id="S", segment_index="N")
    settings = replace(stack.aws.settings, segment_queue_url=url, segment_attempts_table_name="SegmentAttempts")
    stack.aws = replace(stack.aws, settings=settings)
    stack.add_job(engine={"S": "copy"})
    return stack


@pytest.fixture
def split(world: Stack, clip: ClipMaker) -> Stack:
    """Split in three segments, as S3 and the chunking function do it."""
    world.upload(clip("plain"))
    assert world.chunk() == []
    assert world.job().total_segments == 3
    return world


@pytest.fixture
def completed(split: Stack) -> Stack:
    """The job is completed, with its final."""
    process(split, 0, 1, 2)
    join(split)
    assert split.job().status is JobStatus.COMPLETED
    return split


def eager_check(aws: Aws, job_id: str, status: JobStatus) -> jobs.StatusCheck:
    """A check of the status before every segment."""
    return jobs.StatusCheck(aws, job_id, status, interval_s=0)


def process(world: Stack, *indexes: int, change: bytes = b"") -> None:
    """A worker of the kit: copies segments and names their plan. `change` is added as a `free` box."""
    for key in world.segment_keys():
        parts = parse_segment_key(INPUT, key)
        if parts and parts.segment_index in indexes:
            segment = world.aws.s3.get_object(Bucket=INPUT, Key=key)
            target = build_output_segment_key("job-1", parts.segment_index)
            box = (len(change) + 8).to_bytes(4, "big") + b"free" + change if change else b""
            world.aws.s3.put_object(Bucket=OUTPUT, Key=target, Body=segment["Body"].read() + box)
            uri, plan = f"s3://{OUTPUT}/{target}", segment["Metadata"]["plan"]
            record_segment(world.aws, job_id="job-1", segment_index=parts.segment_index, output_s3_uri=uri, plan=plan)


def join(world: Stack) -> None:
    assert world.reassembly_messages() == [{"job_id": "job-1"}]
    assert world.reassemble() == []


def taken(world: Stack, url: str | None) -> list[Any]:
    """Take all messages out of a queue."""
    bodies: list[Any] = []
    assert url
    while messages := world.aws.sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
        bodies += [json.loads(message["Body"]) for message in messages]
        for message in messages:
            world.aws.sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    return bodies


def announced(world: Stack) -> list[int]:
    """The segments that were announced to the workers."""
    keys = [body["Records"][0]["s3"]["object"]["key"] for body in taken(world, world.aws.settings.segment_queue_url)]
    return sorted(parsed.segment_index for key in keys if (parsed := parse_segment_key(INPUT, key)))


def final_version(world: Stack) -> str:
    """Names the processed segments that the final was joined from."""
    final = world.aws.s3.head_object(Bucket=OUTPUT, Key=build_final_key("job-1"))
    return final["Metadata"]["segments"]


def keys(world: Stack) -> list[str]:
    """All objects in both buckets."""
    return [
        entry["Key"]
        for bucket in (INPUT, OUTPUT)
        for entry in world.aws.s3.list_objects_v2(Bucket=bucket).get("Contents", [])
    ]


def completions(world: Stack) -> list[int]:
    items = world.aws.dynamodb.scan(TableName="SegmentCompletions")["Items"]
    return sorted(int(item["segment_index"]["N"]) for item in items)


# Cancel


def test_a_cancelled_job_is_failed_and_says_by_whom(split: Stack) -> None:
    """Cancelling it once more changes nothing."""
    assert cancel_job(split.aws, "job-1", BY).changed
    row = split.row("Jobs")
    assert (row["status"]["S"], row["error"]["S"]) == ("failed", "cancelled by ann@studio")
    assert not cancel_job(split.aws, "job-1", "bob@studio").changed
    assert split.row("Jobs") == row


def test_a_cancelled_job_that_had_failed_keeps_its_reason(world: Stack) -> None:
    """Without it, nobody would know why a retry fails again."""
    jobs.fail_job(world.aws, "job-1", "the source is empty")
    cancel_job(world.aws, "job-1", BY)
    assert world.job().error == "cancelled by ann@studio; it had failed before: the source is empty"


def test_no_message_revives_a_cancelled_job(split: Stack) -> None:
    """Neither a late S3 event nor a reassembly message, on any receive. All are acknowledged."""
    process(split, 0, 1, 2)
    cancel_job(split.aws, "job-1", BY)
    row = split.row("Jobs")
    for receive_count in (1, 6):
        assert split.chunk(receive_count=receive_count) == []
        assert split.reassemble(receive_count=receive_count) == []
    assert split.row("Jobs") == row


def test_the_last_completion_of_a_cancelled_job_requests_no_join(split: Stack) -> None:
    """The work of a worker that did not notice is kept for a retry."""
    process(split, 0, 1)
    cancel_job(split.aws, "job-1", BY)
    process(split, 2)
    assert split.reassembly_messages() == []
    assert completions(split) == [0, 1, 2]


def test_a_step_that_fails_late_does_not_replace_the_reason(split: Stack) -> None:
    """The job was cancelled; that its chunking failed too is of no interest."""
    cancel_job(split.aws, "job-1", BY)
    assert not jobs.fail_job(split.aws, "job-1", "failed after 5 attempts")
    assert split.job().error == "cancelled by ann@studio"


def test_chunking_stops_before_the_next_segment(
    world: Stack, clip: ClipMaker, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is cancelled while its second segment is being written."""
    monkeypatch.setattr(chunking, "_SEGMENTS_AT_ONCE", 1)
    monkeypatch.setattr(chunking, "StatusCheck", eager_check)
    written = threading.Semaphore(2)

    def write(*arguments: Any, **options: Any) -> bool:
        written.acquire(blocking=False)
        if not written.acquire(blocking=False):
            cancel_job(world.aws, "job-1", BY)
        written.release()
        return write_once(*arguments, **options)

    monkeypatch.setattr(chunking, "write_once", write)
    world.upload(clip("plain"))
    assert world.chunk() == []
    assert len([key for key in world.segment_keys() if key.endswith(".mp4")]) == 2
    assert world.job().error == "cancelled by ann@studio"
    assert "lease_holder" not in world.row("Jobs")


@pytest.mark.parametrize("status", ["completed", "deleted"])
def test_a_job_that_has_ended_cannot_be_cancelled(world: Stack, status: str) -> None:
    """The error says why."""
    world.add_job(status={"S": status})
    with pytest.raises(OperationRefused, match=f"job job-1 is {status}: it cannot be cancelled"):
        cancel_job(world.aws, "job-1", BY)


# Retry of a failed job


def test_a_cancelled_job_goes_on_where_it_stopped(split: Stack) -> None:
    """Only segments without a completion are announced again. The last one requests the join."""
    process(split, 1)
    cancel_job(split.aws, "job-1", BY)
    outcome = retry_job(split.aws, "job-1")
    assert outcome.status is JobStatus.CHUNKING_COMPLETE
    assert outcome.detail == "is retried: segments 0, 2 announced again"
    assert announced(split) == [0, 2]
    assert taken(split, split.aws.settings.chunking_queue_url) == []
    process(split, 0, 2)
    join(split)
    assert split.job().status is JobStatus.COMPLETED
    assert split.job().error is None


def test_a_retry_of_a_job_at_work_does_nothing(split: Stack) -> None:
    """So the command can be repeated."""
    cancel_job(split.aws, "job-1", BY)
    assert retry_job(split.aws, "job-1").changed
    announced(split)
    before = split.row("Jobs")
    assert not retry_job(split.aws, "job-1").changed
    assert announced(split) == []
    assert split.row("Jobs") == before


def test_a_retry_requests_the_join_when_all_segments_are_processed(split: Stack) -> None:
    """Although the join of this job was requested before."""
    process(split, 0, 1, 2)
    assert split.reassembly_messages()
    jobs.fail_job(split.aws, "job-1", "out of memory")
    retry_job(split.aws, "job-1")
    assert announced(split) == []
    join(split)
    assert split.job().status is JobStatus.COMPLETED


def test_a_job_that_was_cancelled_while_it_was_split_is_split_on(split: Stack) -> None:
    """Segments that exist are announced, the others are written, which announces them. The plan stays."""
    plan, (_, second, *_) = split.job().plan, [key for key in split.segment_keys() if key.endswith(".mp4")]
    cancel_job(split.aws, "job-1", BY)
    split.aws.s3.delete_object(Bucket=INPUT, Key=second)
    assert retry_job(split.aws, "job-1").status is JobStatus.CREATED
    assert announced(split) == [0, 2]
    (request,) = taken(split, split.aws.settings.chunking_queue_url)
    assert split.deliver(split.chunking, request) == []
    assert split.job().status is JobStatus.CHUNKING_COMPLETE
    assert second in split.segment_keys()
    assert split.job().plan == plan


def test_a_source_that_was_replaced_is_planned_again(split: Stack, clip: ClipMaker) -> None:
    """The upload itself did not start the job, because it was cancelled."""
    plan = split.job().plan
    cancel_job(split.aws, "job-1", BY)
    split.upload(clip("late_video"))
    assert split.chunk() == []
    assert split.job().error == "cancelled by ann@studio"
    retry_job(split.aws, "job-1")
    (request,) = taken(split, split.aws.settings.chunking_queue_url)
    split.deliver(split.chunking, request)
    assert split.job().plan not in {plan, None}


def test_a_processed_segment_that_has_expired_is_processed_again(split: Stack) -> None:
    """The join of a failed job would fail again without it."""
    process(split, 0, 1, 2)
    jobs.fail_job(split.aws, "job-1", "segment 1 was completed, but it does not exist")
    split.aws.s3.delete_object(Bucket=OUTPUT, Key=build_output_segment_key("job-1", 1))
    retry_job(split.aws, "job-1")
    assert announced(split) == [1]


def test_a_retry_without_a_source_is_refused(split: Stack) -> None:
    """Before anything changes."""
    cancel_job(split.aws, "job-1", BY)
    before = split.row("Jobs")
    for key in [build_source_key("job-1"), *split.segment_keys()]:
        split.aws.s3.delete_object(Bucket=INPUT, Key=key)
    with pytest.raises(OperationRefused, match=r"segments 0-2 have to be written again, but the source .* not exist"):
        retry_job(split.aws, "job-1")
    assert split.row("Jobs") == before


def test_other_settings_plan_the_job_again(split: Stack) -> None:
    """Segments of the old plan do not count any more, and their completions are removed."""
    process(split, 0, 1)
    plan = split.job().plan
    cancel_job(split.aws, "job-1", BY)
    retry_job(split.aws, "job-1", settings=NewSettings(Decimal(2)))
    assert completions(split) == []
    assert split.job().plan is None
    (request,) = taken(split, split.aws.settings.chunking_queue_url)
    assert split.deliver(split.chunking, request) == []
    assert split.job().total_segments == 5
    assert split.job().plan not in {plan, None}


def test_other_settings_with_the_same_cuts_do_everything_again(completed: Stack, logs: Logs) -> None:
    """Segments that were kept would announce nothing, and the job would wait for their completions."""
    plan = completed.job().plan
    retry_job(completed.aws, "job-1", settings=NewSettings(engine="copy"))
    (request,) = taken(completed, completed.aws.settings.chunking_queue_url)
    assert completed.deliver(completed.chunking, request) == []
    assert logs.all("segment_present") == []
    assert completed.job().plan not in {plan, None}
    process(completed, 0, 1, 2)
    join(completed)
    assert completed.job().status is JobStatus.COMPLETED


def test_frame_check_alone_keeps_the_plan(split: Stack) -> None:
    """A job whose segments have other frames than planned is joined all the same, without processing them again."""
    process(split, 0, 1, 2)
    assert split.reassembly_messages()
    plan = split.job().plan
    jobs.fail_job(split.aws, "job-1", "segment 1 has 99 frames, 100 expected")
    retry_job(split.aws, "job-1", settings=NewSettings(frame_check="any"))
    assert (split.job().plan, split.job().frame_check) == (plan, "any")
    join(split)
    assert split.job().status is JobStatus.COMPLETED


def test_a_retry_needs_the_segment_queue(split: Stack) -> None:
    """Nothing is changed without it."""
    cancel_job(split.aws, "job-1", BY)
    aws = replace(split.aws, settings=replace(split.aws.settings, segment_queue_url=None))
    with pytest.raises(SettingsError, match="SEGMENT_QUEUE_URL is not set"):
        retry_job(aws, "job-1")
    assert split.job().cancelled_at


# Retry of chosen segments


def test_chosen_segments_of_a_completed_job_are_processed_and_joined_again(completed: Stack) -> None:
    """The old final stays until the new one replaces it."""
    old = final_version(completed)
    retry_job(completed.aws, "job-1", [1])
    assert announced(completed) == [1]
    assert completions(completed) == [0, 2]
    assert final_version(completed) == old
    process(completed, 1, change=b"better")
    assert final_version(completed) == old
    join(completed)
    assert completed.job().status is JobStatus.COMPLETED
    assert completed.job().segments_retried_at is None
    assert final_version(completed) != old


def test_an_early_join_does_not_complete_the_job_with_its_old_final(completed: Stack) -> None:
    """A stray reassembly message is returned to the queue, because a completion is missing."""
    completed.aws.dynamodb.delete_item(TableName="ReassemblyTriggered", Key={"job_id": {"S": "job-1"}})
    retry_job(completed.aws, "job-1", [1])
    assert completed.reassemble() == ["message-0"]
    assert completed.job().status is JobStatus.CHUNKING_COMPLETE


def test_a_completed_job_is_not_retried_without_a_choice(completed: Stack) -> None:
    """Everything would be processed again, which costs money."""
    with pytest.raises(OperationRefused, match="job job-1 is completed: name the segments"):
        retry_job(completed.aws, "job-1")


def test_unknown_segments_are_refused(completed: Stack) -> None:
    """The error says which there are."""
    with pytest.raises(OperationRefused, match=r"has 3 segments \(0 to 2\): there is no segment 3, 7-8"):
        retry_job(completed.aws, "job-1", [1, 3, 7, 8])


def test_chosen_segments_exclude_other_settings(completed: Stack) -> None:
    """They belong to the present plan."""
    with pytest.raises(OperationRefused, match="chosen segments belong to the present plan"):
        retry_job(completed.aws, "job-1", [1], NewSettings(engine="ffmpeg"))


def test_segments_that_have_expired_must_be_chosen_too(completed: Stack) -> None:
    """Otherwise work that nobody asked for would begin."""
    completed.aws.s3.delete_object(Bucket=OUTPUT, Key=build_output_segment_key("job-1", 0))
    with pytest.raises(OperationRefused, match="the processed segments 0 do not exist any more: retry these too"):
        retry_job(completed.aws, "job-1", [1])
    assert completions(completed) == [0, 1, 2]
    retry_job(completed.aws, "job-1", [0, 1])
    assert announced(completed) == [0, 1]


# Delete


def test_a_deleted_job_leaves_only_its_row(completed: Stack) -> None:
    """Its row refuses late messages and expires. Deleting the job once more changes nothing."""
    attempt = {"job_id": {"S": "job-1"}, "segment_index": {"N": "0"}, "state": {"S": "done"}}
    completed.aws.dynamodb.put_item(TableName="SegmentAttempts", Item=attempt)
    outcome = delete_job(completed.aws, "job-1")
    assert (outcome.changed, outcome.detail) == (True, "is deleted, with 9 objects")
    assert keys(completed) == []
    for table in ("SegmentCompletions", "ReassemblyTriggered", "SegmentAttempts"):
        assert completed.aws.dynamodb.scan(TableName=table)["Items"] == []
    row = completed.row("Jobs")
    assert row["status"]["S"] == "deleted"
    assert int(row["expires_at"]["N"]) > jobs.now_s()
    assert not delete_job(completed.aws, "job-1").changed


def test_the_final_can_be_kept(completed: Stack) -> None:
    """And deleted later."""
    assert (
        delete_job(completed.aws, "job-1", keep_final=True).detail == "is deleted, with 8 objects; its final was kept"
    )
    assert keys(completed) == [build_final_key("job-1")]
    assert delete_job(completed.aws, "job-1").changed
    assert keys(completed) == []


def test_nothing_of_a_deleted_job_comes_to_life_again(split: Stack) -> None:
    """Late events, late completions with and without a plan, and a retry."""
    plan = split.job().plan
    delete_job(split.aws, "job-1")
    row = split.row("Jobs")
    assert split.deliver(split.chunking, s3_event(build_source_key("job-1"))) == []
    assert split.reassemble() == []
    for given in (plan, None):
        with pytest.raises(StaleSegment):
            record_segment(split.aws, job_id="job-1", segment_index=0, output_s3_uri="s3://x/y", plan=given)
    with pytest.raises(OperationRefused, match="job job-1 is deleted: submit its source again"):
        retry_job(split.aws, "job-1")
    assert (split.row("Jobs"), completions(split), keys(split)) == (row, [], [])


def test_delete_waits_until_the_function_has_stopped(
    world: Stack, clip: ClipMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that is splitting the source notices it, and leaves no object behind."""
    monkeypatch.setattr(chunking, "_SEGMENTS_AT_ONCE", 1)
    monkeypatch.setattr(chunking, "StatusCheck", eager_check)
    deleting = threading.Event()

    def write(*arguments: Any, **options: Any) -> bool:
        deleting.set()
        while world.job().status is not JobStatus.DELETED:
            pass
        return write_once(*arguments, **options)

    monkeypatch.setattr(chunking, "write_once", write)
    world.upload(clip("plain"))
    function = threading.Thread(target=world.chunk)
    function.start()
    deleting.wait(30)
    outcome = delete_job(world.aws, "job-1")
    function.join()
    assert outcome.detail == "is deleted, with 3 objects"  # source, plan, and the segment that was in hand
    assert keys(world) == []


def test_delete_does_not_wait_for_a_dead_function(split: Stack) -> None:
    """Its lease is still there. What it might write expires."""
    lease = {":until": {"N": str(jobs.now_s() + 600)}}
    split.aws.dynamodb.update_item(
        TableName="Jobs",
        Key={"job_id": {"S": "job-1"}},
        UpdateExpression="SET lease_expires_at = :until",
        ExpressionAttributeValues=lease,
    )
    outcome = delete_job(split.aws, "job-1", wait_s=0)
    assert outcome.detail.endswith(
        "a function is still working on it: what that writes expires, or delete the job once more"
    )
    assert keys(split) == []


def test_an_unknown_job_is_reported(world: Stack) -> None:
    """By each operation, and none creates a row."""
    with pytest.raises(NoSuchJob, match="there is no job 'no'"):
        cancel_job(world.aws, "no", BY)
    with pytest.raises(NoSuchJob):
        retry_job(world.aws, "no")
    with pytest.raises(NoSuchJob):
        delete_job(world.aws, "no")
    assert world.row("Jobs", "no") == {}


# The end of a row


@pytest.fixture
def expiring(world: Stack) -> Stack:
    """Rows of ended jobs expire after 10 days."""
    world.aws = replace(world.aws, settings=replace(world.aws.settings, job_expiration_days=10))
    return world


def test_the_row_of_an_ended_job_expires(expiring: Stack) -> None:
    """Days after its end, if the setting says so. A retry takes the date away."""
    jobs.fail_job(expiring.aws, "job-1", "bad")
    in_days = (int(expiring.row("Jobs")["expires_at"]["N"]) - jobs.now_s()) / 86_400
    assert in_days == pytest.approx(10, abs=0.01)
    jobs.begin_chunking(expiring.aws, expiring.job())
    assert "expires_at" not in expiring.row("Jobs")


def test_rows_do_not_expire_by_default(world: Stack) -> None:
    """And an attribute that somebody else has set is not touched."""
    jobs.fail_job(world.aws, "job-1", "bad")
    assert "expires_at" not in world.row("Jobs")
    world.add_job("job-2", expires_at={"N": "4000000000"})
    jobs.begin_chunking(world.aws, world.job("job-2"))
    assert world.row("Jobs", "job-2")["expires_at"] == {"N": "4000000000"}


def test_a_status_check_reads_at_most_once_per_interval(world: Stack) -> None:
    """A job of 2,000 segments is not read 2,000 times."""
    check = jobs.StatusCheck(world.aws, "job-1", JobStatus.CHUNKING_IN_PROGRESS, interval_s=3600)
    check.require()  # the job is `created`, but the check is not due
    due = jobs.StatusCheck(world.aws, "job-1", JobStatus.CHUNKING_IN_PROGRESS, interval_s=0)
    with pytest.raises(JobMoved, match="job job-1 is created: stopped before the next segment"):
        due.require()
