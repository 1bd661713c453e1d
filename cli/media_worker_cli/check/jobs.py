"""The steps of the two jobs: upload, split, segments, join, and the removal of everything."""

import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from media_worker.completions import record_segment
from media_worker.errors import MediaWorkerError, MessageError
from media_worker.jobs import JobStatus, read_job
from media_worker.keys import build_final_key
from media_worker.messages import parse_segment_body
from media_worker.mp4 import presented_video, read_movie
from media_worker.operations import delete_job
from media_worker.plan import read_plan
from media_worker.queues import read_queue_state
from media_worker.s3 import PLAN, describe, read_object
from media_worker.segment_output import upload_output

from media_worker_cli.check.smoke import FRAMES, SEGMENTS, Disproven, EngineName, NotChecked, Smoke
from media_worker_cli.submission import Submission, submit

_SPLIT = frozenset({JobStatus.CHUNKING_COMPLETE, JobStatus.REASSEMBLING, JobStatus.COMPLETED})
_JOINED = frozenset({JobStatus.COMPLETED})
_ANNOUNCED_WITHIN_S = 20


def submit_both(smoke: Smoke) -> str:
    """Create both jobs and upload their sources."""
    with tempfile.TemporaryDirectory(prefix="media-worker-check-") as directory:
        for trial in smoke.trials:
            source = Path(directory) / f"{trial.engine}.mp4"
            source.write_bytes(trial.clip.content)
            submit(smoke.aws, Submission(trial.job_id, source, "sbs", trial.engine, Decimal(1)), lambda _: None)
    sizes = " and ".join(f"{len(trial.clip.content) / 1e6:.1f} MB" for trial in smoke.trials)
    return f"two jobs, {sizes}, {FRAMES} frames each"


def split(smoke: Smoke, engine: EngineName) -> str:
    """Wait until a job is split, and compare its plan with what was asked for."""
    trial = smoke.trial(engine)
    trial.job = smoke.wait(trial, _SPLIT)
    plan = read_plan(smoke.aws, trial.job)
    wanted = "copy" if engine == "copy" else "remux"
    if plan.engine != wanted:
        raise Disproven(f"the plan's engine is {plan.engine}, not {wanted}: {trial.job.notice or 'no reason recorded'}")
    if (len(plan.segments), plan.frames) != (SEGMENTS, FRAMES):
        raise Disproven(f"{len(plan.segments)} segments with {plan.frames} frames, expected {SEGMENTS} and {FRAMES}")
    return f"{len(plan.segments)} segments with {plan.frames} frames in total"


def announcements(smoke: Smoke) -> str:
    """S3 announced every segment in the segment queue. The check removes its own messages only."""
    expected = {(trial.job_id, index) for trial in smoke.trials if trial.job for index in range(SEGMENTS)}
    seen: set[tuple[str, int]] = set()
    give_up_at = time.monotonic() + _ANNOUNCED_WITHIN_S
    while seen != expected and time.monotonic() < give_up_at:
        seen |= _receive_announcements(smoke, {job_id for job_id, _ in expected})
    if seen == expected:
        return f"{len(seen)} messages in the segment queue"
    if _is_received_by_others(smoke):
        raise NotChecked(f"{len(seen)} of {len(expected)} seen: other workers receive from the segment queue")
    missing = ", ".join(f"segment {index} of {job_id}" for job_id, index in sorted(expected - seen))
    raise Disproven(
        f"no message about {missing} within {_ANNOUNCED_WITHIN_S} s",
        "check the notifications of the input bucket with `media-worker doctor`; stop your own workers meanwhile",
    )


def _receive_announcements(smoke: Smoke, ours: set[str]) -> set[tuple[str, int]]:
    sqs, url = smoke.aws.sqs, smoke.stack.segment_queue_url
    seen: set[tuple[str, int]] = set()
    received = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1, VisibilityTimeout=30)
    for message in received.get("Messages", []):
        handle = message["ReceiptHandle"]
        found = _announced_in(message["Body"], smoke)
        if found is None or not {job_id for job_id, _ in found} <= ours:
            sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=handle, VisibilityTimeout=0)
            raise NotChecked("the segment queue has messages about other jobs, which are left alone")
        seen |= found
        sqs.delete_message(QueueUrl=url, ReceiptHandle=handle)
    return seen


def _announced_in(body: str, smoke: Smoke) -> set[tuple[str, int]] | None:
    """The segments in a message: none in the test event that S3 sends when it is configured. None: not readable."""
    try:
        keys = parse_segment_body(body, smoke.aws.settings.input_bucket_name)
    except MessageError:
        return None
    return {(key.job_id, key.segment_index) for key in keys}


def _is_received_by_others(smoke: Smoke) -> bool:
    """Whether a worker has one of the segments, or has processed it."""
    state = read_queue_state(smoke.aws, smoke.stack.segment_queue_url)
    return state.in_flight > 0 or any(describe(smoke.aws, *smoke.processed(trial, 0)) for trial in smoke.trials)


def process(smoke: Smoke, engine: EngineName) -> str:
    """Be the segment worker of a job: copy each segment and record it, with the worker's rights if there are any."""
    aws, trial = smoke.worker or smoke.aws, smoke.trial(engine)
    with tempfile.TemporaryDirectory(prefix="media-worker-check-") as directory:
        path = Path(directory) / "segment.mp4"
        for index in range(SEGMENTS):
            segment = smoke.segment(trial, index)
            aws.s3.download_file(segment.bucket, segment.key, str(path))
            bucket, key = smoke.processed(trial, index)
            upload_output(aws, path, key, {PLAN: segment.metadata[PLAN]}, aws.settings.expiry_tag)
            uri = f"s3://{bucket}/{key}"
            record_segment(
                aws, job_id=trial.job_id, segment_index=index, output_s3_uri=uri, plan=segment.metadata[PLAN]
            )
    return f"{SEGMENTS} segments, with {'the rights of a worker' if smoke.worker else 'your own rights'}"


def join(smoke: Smoke, engine: EngineName) -> str:
    """Wait for the final. It must present every frame, and contain every byte of them."""
    trial = smoke.trial(engine)
    smoke.wait(trial, _JOINED)
    final = read_object(smoke.aws, smoke.aws.settings.output_bucket_name, build_final_key(trial.job_id))
    if final is None:
        raise Disproven("the job is completed without a final")
    content, _ = final
    frames = presented_video(read_movie(lambda at, length: content[at : at + length], len(content))).frames
    if frames != FRAMES:
        raise Disproven(f"the final has {frames} frames, expected {FRAMES}")
    if trial.clip.samples not in content:
        raise Disproven(
            f"the final has {frames} frames, but not the bytes of the source",
            "if workers of your own process segments of this stack, stop them during the check",
        )
    return f"{frames} frames, byte for byte those of the source"


def delete_jobs(smoke: Smoke) -> list[str]:
    """Delete the jobs with everything that belongs to them, and their rows. Returns what is left, and why."""
    left: list[str] = []
    for trial in smoke.trials:
        try:
            if read_job(smoke.aws, trial.job_id):
                outcome = delete_job(smoke.aws, trial.job_id)
                if "still working" in outcome.detail:
                    left.append(f"{trial.job_id}: {outcome.detail}")
                    continue
            key: Any = {"job_id": {"S": trial.job_id}}
            smoke.aws.dynamodb.delete_item(TableName=smoke.aws.settings.jobs_table_name, Key=key)
        except (ClientError, BotoCoreError, MediaWorkerError) as error:
            left.append(f"{trial.job_id}: {error}")
    return left
