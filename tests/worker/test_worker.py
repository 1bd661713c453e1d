"""The segment worker kit: what becomes of a segment, of its message and of its job."""

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError
from media_worker.attempts import Attempt, AttemptState, begin_attempt
from media_worker.completions import read_completions
from media_worker.jobs import JobStatus
from media_worker.keys import build_output_segment_key, build_segment_key
from media_worker.worker import Worker
from media_worker_cli.local.ffmpeg import ffmpeg_path

from tests.functional.logs import Logs
from tests.functional.stack import s3_event
from tests.worker.world import COPY, JOB, PLAN, RECEIVES, World, fast, make_clip, python, wait_until

FAIL = python("import sys; print('loading'); sys.exit('CUDA out of memory')")


def test_segments_are_processed_and_the_join_is_requested(world: World) -> None:
    """Every segment is uploaded and recorded; after the last one the reassembly is requested, once."""
    world.add_job(3)
    assert len(world.work(COPY)) == 3
    assert world.processed == [0, 1, 2]
    assert world.messages() == (0, 0)
    assert world.messages("reassembly") == (1, 0)
    assert [each.state for each in world.attempts] == [AttemptState.DONE] * 3
    assert world.kept_files() == []


def test_processed_segments_carry_plan_type_and_expiry_tag(world: World) -> None:
    """What the join and the lifecycle rule need is on the object."""
    world.add_job()
    world.work(COPY)
    output = world.output(0)
    assert output["ContentType"] == "video/mp4"
    assert output["Metadata"]["plan"] == PLAN
    assert output["Tags"] == [{"Key": "kind", "Value": "processed-segment"}]
    assert [each.plan for each in read_completions(world.aws, JOB)] == [PLAN]


@pytest.mark.parametrize(
    ("chosen", "tags"),
    [
        ("settings", [{"Key": "remove", "Value": "soon"}]),
        (("mine", "yes"), [{"Key": "mine", "Value": "yes"}]),
        (None, []),
    ],
)
def test_the_expiry_tag_can_be_chosen(
    world: World, chosen: tuple[str, str] | Literal["settings"] | None, tags: list[dict[str, str]]
) -> None:
    """A worker uses the tag of the stack's settings, unless its options name another one, or none."""
    world.worker_aws = replace(world.aws, settings=replace(world.aws.settings, expiry_tag=("remove", "soon")))
    world.add_job()
    world.work(COPY, segment=fast(expiry_tag=chosen))
    assert world.output(0)["Tags"] == tags


def test_a_body_knows_its_segment(world: World) -> None:
    """Paths, frames, times, mode and attempt come with the segment."""
    world.add_job(2)
    facts: list[tuple[object, ...]] = []
    for segment in world.worker().segments():
        with segment as s:
            facts.append((s.index, s.total, s.frames, s.first_frame, s.start_s, s.duration_s, s.fps, s.mode, s.attempt))
            s.output.write_bytes(s.input.read_bytes())
    assert facts == [(0, 2, 24, 0, 0, 1, 24, "sbs", 1), (1, 2, 24, 24, 1, 1, 24, "sbs", 1)]
    assert world.processed == [0, 1]


def test_the_last_failure_fails_the_job(world: World) -> None:
    """Its error names the segment, the number of attempts, the worker, and what the command said last."""
    world.add_job(2)
    assert len([each for each in world.work(FAIL) if each.index == 0]) == 3
    assert world.job.status is JobStatus.FAILED
    assert str(world.job.error).startswith(
        "segment 0 failed 3 times on i-0abc: CUDA out of memory\nthe command exited with 1"
    )
    assert world.messages("letters") == (1, 0)
    attempt = world.attempts[0]
    assert attempt.state is AttemptState.FAILED
    assert [(each.attempt, each.worker) for each in attempt.failures] == [(1, "i-0abc"), (2, "i-0abc"), (3, "i-0abc")]
    assert "CUDA out of memory" in str(attempt.error)


def test_segments_of_a_failed_job_are_dropped(world: World) -> None:
    """They are neither downloaded nor processed, and their messages are deleted."""
    world.add_job(2, status="failed")
    assert world.work(COPY) == []
    assert world.messages() == (0, 0)
    assert world.attempts == []


@pytest.mark.parametrize("status", ["deleted", "completed", "reassembling"])
def test_segments_of_an_ended_job_are_dropped(world: World, status: str) -> None:
    """Likewise."""
    world.add_job(1, status=status)
    assert world.work(COPY) == []
    assert world.messages() == (0, 0)


def test_segments_of_a_replaced_plan_are_dropped(world: World) -> None:
    """The segment in the bucket belongs to another plan than the job."""
    world.add_job(1, plan="f" * 32)
    assert world.work(COPY) == []
    assert world.messages() == (0, 0)


def test_a_deleted_segment_is_dropped(world: World) -> None:
    """A 404 does not stop the worker."""
    world.add_job(2)
    world.aws.s3.delete_object(Bucket="inputs", Key=build_segment_key(JOB, 0, 2, "sbs"))
    assert [each.index for each in world.work(COPY)] == [1]
    assert world.messages() == (0, 0)


def test_a_processed_segment_is_not_processed_again(world: World) -> None:
    """A second announcement is dropped, and requests the join that a worker could not request before it died."""
    world.add_job()
    world.work(COPY)
    world.aws.dynamodb.delete_item(TableName="ReassemblyTriggered", Key={"job_id": {"S": JOB}})
    world.announce(0, 1)
    assert world.work(COPY) == []
    assert world.messages() == (0, 0)
    assert world.messages("reassembly") == (2, 0)


def test_the_upload_of_a_killed_attempt_is_used(world: World) -> None:
    """A worker that died between the upload and the completion has done the expensive part."""
    world.add_job()
    url = world.environ["SEGMENT_QUEUE_URL"]
    message = world.aws.sqs.receive_message(QueueUrl=url, VisibilityTimeout=0)["Messages"][0]
    metadata = {"plan": PLAN, "message-id": message["MessageId"]}
    begin_attempt(world.aws, another(f"{message['MessageId']}/1", "i-0dead", 60))
    world.aws.s3.put_object(Bucket="outputs", Key=build_output_segment_key(JOB, 0), Body=b"done", Metadata=metadata)
    assert world.work(COPY) == []
    assert world.processed == [0]
    assert world.attempts[0].state is AttemptState.DONE
    assert world.output(0)["Bytes"] == b"done"
    assert world.messages("reassembly") == (1, 0)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"), "the command was killed by SIGSEGV"),
        (python("pass"), "the command wrote no output"),
        (python("import sys; open(sys.argv[1], 'w').write('no video')", "{output}"), "the output is not a video"),
        (("sh", "-c", "echo first; echo last; exit 3"), "first\nlast\nthe command exited with 3"),
    ],
)
def test_a_failed_command_is_described(world: World, command: tuple[str, ...], said: str) -> None:
    """Exit code, signal and missing output are told, with the last lines."""
    world.add_job()
    attempts = world.work(command)
    assert [each.attempt for each in attempts] == [1, 2, 3]
    assert said in str(world.job.error)
    assert not world.has_output(0)


def test_a_wrong_number_of_frames_is_not_uploaded(world: World, tmp_path: Path) -> None:
    """It is noticed where the GPU is, not at the join."""
    short = make_clip(tmp_path / "short.mp4", frames=23)
    world.add_job()
    world.work(("cp", str(short), "{output}"))
    assert "the output has 23 frames, 24 expected" in str(world.job.error)
    assert not world.has_output(0)


def test_a_multiple_of_the_frames_is_accepted(world: World) -> None:
    """Frame interpolation doubles the frames in the same time."""
    world.add_job()
    double = ("-vf", "fps=48", "-c:v", "libx264", "-bf", "0")
    world.work((str(ffmpeg_path()), "-nostdin", "-v", "error", "-i", "{input}", *double, "{output}"))
    assert world.processed == [0], world.job.error


def test_frame_check_any_accepts_what_there_is(world: World, tmp_path: Path) -> None:
    """A job row with `frame_check: any` switches the comparison off."""
    short = make_clip(tmp_path / "short.mp4", frames=23)
    world.add_job()
    world.set_job("chunking_complete", total_segments={"N": "1"}, plan={"S": PLAN}, frame_check={"S": "any"})
    world.work(("cp", str(short), "{output}"))
    assert world.processed == [0]


def test_a_hung_command_is_killed(world: World) -> None:
    """`--timeout` ends it with all its children, and the attempt has failed."""
    world.add_job()
    marker = world.directory / "pid"
    world.work(("sh", "-c", f"sleep 600 & echo $! > {marker}; wait"), timeout_s=0.5)
    assert "the command did not end within 0.5 s" in str(world.job.error)
    wait_until(lambda: not _is_running(int(marker.read_text())))


def test_a_retry_downloads_nothing(world: World, logs: Logs) -> None:
    """The segment is still on this machine."""
    world.add_job()
    world.work(FAIL)
    started = [line["downloaded"] for line in logs.lines if line["event"] == "segment_started"]
    assert started == [True, False, False]


def test_skip_leaves_the_segment_out(world: World) -> None:
    """The others are processed, the job is as it was, and the message can be redriven."""
    world.add_job(2)
    program = "import shutil, sys; sys.exit('bad') if sys.argv[3] == '0' else shutil.copy(*sys.argv[1:3])"
    world.work(python(program, "{input}", "{output}", "{index}"), segment=fast(on_failure="skip"))
    assert world.processed == [1]
    assert world.job.status is JobStatus.CHUNKING_COMPLETE
    assert world.messages("letters") == (1, 0)


def test_pass_through_uses_the_unprocessed_segment(world: World) -> None:
    """After the last attempt the segment itself is used, and the record says why."""
    world.add_job()
    world.work(FAIL, segment=fast(on_failure="pass-through"))
    assert world.processed == [0]
    assert world.output(0)["Bytes"] == world.clip.read_bytes()
    assert world.attempts[0].state is AttemptState.DONE
    assert "CUDA out of memory" in str(world.attempts[0].error)
    assert world.messages("letters") == (0, 0)


def test_a_long_command_keeps_its_message(world: World) -> None:
    """The heartbeat hides the message for longer than its visibility timeout, and reports the progress."""
    world.add_job()
    program = "import shutil, sys, time; print('frame=12', flush=True); time.sleep(4); shutil.copy(*sys.argv[1:])"
    seen: list[object] = []

    def look() -> None:
        wait_until(lambda: any(each.progress for each in world.attempts))
        seen.append((world.attempts[0].progress, world.attempts[0].state))
        time.sleep(2.5)  # the visibility timeout has passed
        seen.append(world.messages())

    looker = threading.Thread(target=look)
    looker.start()
    assert len(world.work(python(program, "{input}", "{output}"))) == 1
    looker.join()
    assert seen == [(0.5, AttemptState.RUNNING), (0, 1)]


def test_a_cancelled_job_stops_its_command(world: World) -> None:
    """The next heartbeat notices it; the command is killed and the message deleted."""
    world.add_job()
    cancel = threading.Timer(0.5, lambda: world.set_job("deleted"))
    cancel.start()
    (attempt,) = world.work(("sleep", "600"))
    assert attempt.ending == "dropped"
    assert world.messages() == (0, 0)
    assert not world.has_output(0)


def test_a_segment_in_work_is_left_to_its_worker(world: World, logs: Logs) -> None:
    """S3 may announce a segment twice. The second message is deleted, because the first one is in the queue."""
    world.add_job()
    world.announce(0, 1)
    release = threading.Event()
    patient = fast(visibility_s=30)  # a busy machine must not make the first one look dead
    slow, quick = (world.worker(name=name, segment=patient) for name in ("slow", "quick"))

    def process(worker: Worker) -> None:
        for segment in worker.segments():
            with segment as s:
                release.wait(20)
                s.output.write_bytes(s.input.read_bytes())

    threads = [threading.Thread(target=process, args=(worker,)) for worker in (slow, quick)]
    threads[0].start()
    wait_until(lambda: world.attempts)  # one after the other: moto's conditional writes are not atomic
    threads[1].start()
    wait_until(lambda: [line for line in logs.lines if line["event"] == "segment_left"])
    release.set()
    for thread in threads:
        thread.join()
    events = [line["event"] for line in logs.lines]
    assert events.count("segment_started") == 1
    assert world.processed == [0]
    assert world.messages() == (0, 0)


def another(run_id: str, worker: str, expires_in_s: int) -> Attempt:
    now = int(time.time())
    return Attempt(
        JOB, 0, 1, worker, run_id, started_at=now, heartbeat_at=now, expires_at=now + expires_in_s, plan=PLAN
    )


def test_an_attempt_that_died_counts_as_a_failure(world: World) -> None:
    """Its row says `running`, and its heartbeat has stopped."""
    world.add_job()
    begin_attempt(world.aws, another("message/1", "i-0dead", -1))
    world.work(FAIL, once=True)
    assert [(each.worker, each.error.splitlines()[0]) for each in world.attempts[0].failures] == [
        ("i-0dead", "the worker ended without reporting an error"),
        ("i-0abc", "CUDA out of memory"),
    ]


def test_a_worker_whose_segment_was_taken_over_does_no_harm(world: World) -> None:
    """A process that was paused and goes on sees the other attempt, and leaves the message to that."""
    world.add_job()
    for segment in world.worker(once=True).segments():
        with segment:
            item = another("message/2", "i-0def", 60).to_item()
            world.aws.dynamodb.put_item(TableName="SegmentAttempts", Item=item)
            time.sleep(20)
        break
    assert segment.ending == "dropped"
    assert (world.attempts[0].worker, world.attempts[0].state) == ("i-0def", AttemptState.RUNNING)
    assert world.messages() == (0, 1)
    assert not world.has_output(0)


def test_an_error_of_a_body_is_recorded(world: World) -> None:
    """The loop goes on; the message is returned with a delay."""
    world.add_job(2)
    for segment in world.worker(segment=fast(retry_delay_s=60)).segments():
        with segment as s:
            if s.index == 0:
                raise ValueError("no such model")
            s.output.write_bytes(s.input.read_bytes())
    assert world.processed == [1]
    assert world.attempts[0].error == "ValueError: no such model"
    assert world.messages() == (0, 1)


def test_a_stopped_worker_returns_its_message(world: World) -> None:
    """Ctrl-C in the body: the segment can be received again at once, and its attempt did not fail."""
    world.add_job()
    worker = world.worker()
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    for segment in worker.segments():
        with segment:
            time.sleep(20)
    assert worker.stop_reason == "SIGINT"
    assert world.messages() == (1, 0)
    assert world.attempts[0].state is AttemptState.RETURNED
    assert world.attempts[0].failures == ()


def test_interruptions_use_up_no_attempts(world: World) -> None:
    """On the last receive an interrupted segment is sent again, so that Spot interruptions alone fail no job."""
    world.add_job()
    for _ in range(RECEIVES + 1):
        for segment in world.worker().segments():
            with segment:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(20)
    assert world.job.status is JobStatus.CHUNKING_COMPLETE
    assert world.messages("letters") == (0, 0)
    world.work(COPY)
    assert world.processed == [0]


def test_a_worker_without_the_attempts_table(world: World) -> None:
    """The table is optional: failures are counted by receives."""
    world.add_job(2)
    world.aws = replace(world.aws, settings=replace(world.aws.settings, segment_attempts_table_name=None))
    program = "import shutil, sys; sys.exit('bad') if sys.argv[3] == '1' else shutil.copy(*sys.argv[1:3])"
    world.work(python(program, "{input}", "{output}", "{index}"))
    assert world.processed == [0]
    assert str(world.job.error).startswith("segment 1 failed 3 times on i-0abc: bad")


def test_a_worker_without_access_fails_no_job(world: World) -> None:
    """With wrong permissions it would fail every segment that it receives: it stops, and says why."""
    world.add_job()
    error = {"Error": {"Code": "AccessDenied", "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
    refused: Any = lambda **_: (AWSResponse("", 403, {}, None), error)  # type: ignore[arg-type]  # noqa: E731
    world.aws.s3.meta.events.register("before-call.s3.GetObject", refused)
    worker = world.worker(idle_exit_s=None)
    assert list(worker.segments()) == []
    assert isinstance(worker.error, ClientError)
    assert world.job.status is JobStatus.CHUNKING_COMPLETE
    assert world.messages() == (1, 0)


def test_a_message_that_is_no_event_goes_to_the_dead_letter_queue(world: World) -> None:
    """It stops no worker."""
    world.aws.sqs.send_message(QueueUrl=world.environ["SEGMENT_QUEUE_URL"], MessageBody="no event")
    world.add_job()
    world.work(COPY)
    assert world.processed == [0]
    assert world.messages("letters") == (1, 0)


def test_a_message_about_several_segments(world: World) -> None:
    """It is deleted when all of them are processed."""
    world.add_job(2)
    url = world.environ["SEGMENT_QUEUE_URL"]
    world.aws.sqs.purge_queue(QueueUrl=url)
    records = [s3_event(build_segment_key(JOB, index, 2, "sbs"), "inputs")["Records"][0] for index in range(2)]
    world.aws.sqs.send_message(QueueUrl=url, MessageBody=json.dumps({"Records": records}))
    assert len(world.work(COPY)) == 2
    assert world.processed == [0, 1]
    assert world.messages() == (0, 0)


def test_the_cache_is_bounded(world: World) -> None:
    """Segments that wait for another attempt take no more than they may."""
    world.add_job(4)
    size = world.clip.stat().st_size
    world.work(FAIL, cache_bytes=2 * size, segment=fast(retry_delay_s=60))
    assert len(world.kept_files()) == 2


def test_a_command_that_changes_its_input_spoils_no_retry(world: World) -> None:
    """The changed file is downloaded again."""
    world.add_job()
    program = """
import os, shutil, sys
if sys.argv[3] == "1":
    os.chmod(sys.argv[1], 0o644)
    open(sys.argv[1], "r+b").write(b"spoilt")
    sys.exit("bad")
shutil.copy(*sys.argv[1:3])
"""
    world.work(python(program, "{input}", "{output}", "{attempt}"))
    assert world.output(0)["Bytes"] == world.clip.read_bytes()


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
