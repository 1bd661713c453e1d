"""`media-worker check`: two small jobs through a deployed stack, and a table of what they proved.

One job is split by part copies in S3, the other by ffmpeg. The check is the segment worker of both. It removes
everything that it made, also after an error and after Ctrl-C.
"""

# ruff: noqa: T201 - a command line prints

import json
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import boto3
from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError
from media_worker.aws import Aws
from media_worker.completions import record_segment
from media_worker.errors import MediaWorkerError, MessageError
from media_worker.jobs import Job, JobStatus, read_job
from media_worker.keys import build_final_key, build_output_segment_key, build_segment_key, build_source_key
from media_worker.messages import parse_segment_body
from media_worker.mp4 import presented_video, read_movie
from media_worker.operations import delete_job
from media_worker.plan import read_plan
from media_worker.queues import read_queue_state
from media_worker.s3 import PLAN, StoredObject, describe, read_object
from media_worker.segment_output import upload_output

from media_worker_cli.check_clip import FPS, Clip, make_clip
from media_worker_cli.errors import CommandError
from media_worker_cli.progress import Display, display
from media_worker_cli.stack import Stack, choose_stack
from media_worker_cli.submission import Submission, new_job_id, submit
from media_worker_cli.tables import as_table
from media_worker_cli.watching import AWS_INTERVAL_S, LOCAL_INTERVAL_S

Result = Literal["proven", "failed", "not checked"]
EngineName = Literal["copy", "ffmpeg"]

REPORT_VERSION = 1
_SEGMENTS = 2
_FRAMES = _SEGMENTS * FPS
# A segment must be larger than 10 MiB: its first part is uploaded, and a part that S3 copies has 5 MiB or more.
_SIZES: Mapping[EngineName, tuple[int, int]] = {"copy": (640, 480), "ffmpeg": (64, 48)}
_SPLIT = frozenset({JobStatus.CHUNKING_COMPLETE, JobStatus.REASSEMBLING, JobStatus.COMPLETED})
_JOINED = frozenset({JobStatus.COMPLETED})
_ENDED_BADLY = frozenset({JobStatus.FAILED, JobStatus.DELETED})
_ANNOUNCED_WITHIN_S = 20
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "403"})
_PRECONDITION_FAILED = 412
_LOOK = "run `media-worker doctor` on the stack, and read the functions' logs (docs/operations.md, Troubleshooting)"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked. `advice` says what to do about a failure."""

    check: str
    result: Result
    found: str
    advice: str = ""
    seconds: float = 0.0


class Disproven(Exception):
    """The stack does not do what it should."""

    def __init__(self, found: str, advice: str = _LOOK) -> None:
        """What was found, and what to do."""
        super().__init__(found)
        self.advice = advice


class NotChecked(Exception):
    """Something could not be checked. The message says why."""


@dataclass(slots=True)
class Trial:
    """A job of the check."""

    engine: EngineName
    job_id: str
    clip: Clip
    job: Job | None = None

    @property
    def split(self) -> Job:
        """The job after the split."""
        assert self.job is not None
        return self.job


@dataclass(slots=True)
class Smoke:
    """A check of one stack, and what its steps have found so far."""

    stack: Stack
    timeout_s: float
    interval_s: float
    worker_role: str | None = None
    trials: Sequence[Trial] = field(default_factory=lambda: [_new_trial("copy"), _new_trial("ffmpeg")])
    # The clients that process the segments: with the rights of a segment worker, if these can be assumed.
    worker: Aws | None = None

    @property
    def aws(self) -> Aws:
        """The caller's clients."""
        return self.stack.aws


@dataclass(frozen=True, slots=True)
class Step:
    """A check, the name of the one that it needs, and the function that says what it found."""

    name: str
    needs: str | None
    look: Callable[[Smoke], str]


def check(arguments: Namespace) -> int:
    """Check a stack: 0 if nothing failed, else 1. Something that could not be checked is no failure."""
    stack = choose_stack(arguments.stack)
    interval_s = AWS_INTERVAL_S if arguments.stack else LOCAL_INTERVAL_S
    smoke = Smoke(stack, arguments.timeout, interval_s, arguments.worker_role)
    findings: list[Finding] = []
    started_at = time.time()
    try:
        with display() as screen:
            examine(smoke, screen, findings)
    finally:
        report = build_report(smoke, started_at, findings)
        if arguments.report:
            arguments.report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(json.dumps(report, indent=2) if arguments.json else "\n".join(_lines(findings)))
    return 1 if any(finding.result == "failed" for finding in findings) else 0


def build_report(smoke: Smoke, started_at: float, findings: Sequence[Finding]) -> dict[str, Any]:
    """What `--report` writes. It has no credentials, but it names buckets and the account."""
    return {
        "version": REPORT_VERSION,
        "stack": smoke.stack.name,
        "region": smoke.aws.settings.aws_region,
        "endpoint": smoke.aws.settings.aws_endpoint_url,
        "started_at": int(started_at),
        "seconds": round(time.time() - started_at, 1),
        "jobs": {trial.engine: trial.job_id for trial in smoke.trials},
        "passed": bool(findings) and all(finding.result != "failed" for finding in findings),
        "checks": [asdict(finding) for finding in findings],
    }


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    rows = [(each.result.upper(), each.check, f"{each.seconds:.1f} s", each.found) for each in findings]
    yield from as_table(("RESULT", "CHECK", "TIME", "FOUND"), rows)
    for finding in findings:
        if finding.advice:
            yield f"\n{finding.check}: {finding.advice}"


def examine(smoke: Smoke, screen: Display, findings: list[Finding]) -> None:
    """Make all checks, in the order in which a job meets them. The last one is the cleanup, which always runs."""
    unproven: set[str] = set()
    try:
        for step in STEPS:
            screen.say(f"checking: {step.name}")
            is_blocked = step.needs in unproven
            if is_blocked:
                findings.append(Finding(step.name, "not checked", f"it needs: {step.needs}"))
            else:
                findings.append(_look(smoke, step))
            if is_blocked or findings[-1].result == "failed":
                unproven.add(step.name)
    finally:
        screen.say("removing the jobs of the check")
        findings.append(_look(smoke, Step("cleanup", None, clean_up)))


def _look(smoke: Smoke, step: Step) -> Finding:
    begin = time.monotonic()

    def found(result: Result, text: str, advice: str = "") -> Finding:
        return Finding(step.name, result, " ".join(text.split()), advice, round(time.monotonic() - begin, 1))

    try:
        return found("proven", step.look(smoke))
    except NotChecked as reason:
        return found("not checked", str(reason))
    except Disproven as error:
        return found("failed", str(error), error.advice)
    except (ClientError, BotoCoreError, Boto3Error, MediaWorkerError, CommandError, OSError) as error:
        return found("failed", f"{type(error).__name__}: {error}", _LOOK)


def _new_trial(engine: EngineName) -> Trial:
    width, height = _SIZES[engine]
    return Trial(engine, new_job_id(Path(f"check-{engine}.mp4")), make_clip(width, height, _FRAMES))


# The steps -----------------------------------------------------------------------------------------------------------


def who_calls(smoke: Smoke) -> str:
    """The caller and the region."""
    arn = _client(smoke, "sts").get_caller_identity()["Arn"]
    return f"{arn} in {smoke.aws.settings.aws_region}"


def submit_both(smoke: Smoke) -> str:
    """Create both jobs and upload their sources."""
    with tempfile.TemporaryDirectory(prefix="media-worker-check-") as directory:
        for trial in smoke.trials:
            source = Path(directory) / f"{trial.engine}.mp4"
            source.write_bytes(trial.clip.content)
            submit(smoke.aws, Submission(trial.job_id, source, "sbs", trial.engine, Decimal(1)), lambda _: None)
    sizes = " and ".join(f"{len(trial.clip.content) / 1e6:.1f} MB" for trial in smoke.trials)
    return f"two jobs, {sizes}, {_FRAMES} frames each"


def split(smoke: Smoke, engine: EngineName) -> str:
    """Wait until a job is split, and compare its plan with what was asked for."""
    trial = _trial(smoke, engine)
    trial.job = _wait(smoke, trial, _SPLIT)
    plan = read_plan(smoke.aws, trial.job)
    wanted = "copy" if engine == "copy" else "remux"
    if plan.engine != wanted:
        raise Disproven(f"the plan's engine is {plan.engine}, not {wanted}: {trial.job.notice or 'no reason recorded'}")
    if (len(plan.segments), plan.frames) != (_SEGMENTS, _FRAMES):
        raise Disproven(f"{len(plan.segments)} segments with {plan.frames} frames, expected {_SEGMENTS} and {_FRAMES}")
    return f"{len(plan.segments)} segments with {plan.frames} frames in total"


def part_copies(smoke: Smoke) -> str:
    """The segments of the copy engine are multipart objects, and a part of each was copied."""
    found = []
    for index in range(_SEGMENTS):
        segment = _segment(smoke, _trial(smoke, "copy"), index)
        _, _, parts = segment.etag.partition("-")
        if not parts or int(parts) < 2:  # noqa: PLR2004 - one uploaded part, one copied part
            raise Disproven(f"segment {index} was written in one part, although it has {segment.size_bytes} bytes")
        found.append(f"{segment.size_bytes / 1e6:.1f} MB in {parts} parts")
    head: Any = smoke.aws.s3.head_object(Bucket=segment.bucket, Key=segment.key, ChecksumMode="ENABLED")
    kind = head.get("ChecksumType") or next((name for name in head if name.startswith("Checksum")), "none")
    return f"{'; '.join(found)}; checksum of the object: {kind}"


def conditional_writes(smoke: Smoke) -> str:
    """S3 refuses to write an object that exists, by PutObject and by CompleteMultipartUpload."""
    trial = _trial(smoke, "copy")
    segment = _segment(smoke, trial, 0)
    address: Any = {"Bucket": segment.bucket, "Key": segment.key}
    s3 = smoke.aws.s3
    _require_412("PutObject", lambda: s3.put_object(**address, Body=b"", IfNoneMatch="*"))
    upload: Any = address | {"UploadId": s3.create_multipart_upload(**address)["UploadId"]}
    try:
        etag = s3.upload_part(**upload, PartNumber=1, Body=b"x")["ETag"]
        parts: Any = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
        _require_412(
            "CompleteMultipartUpload",
            lambda: s3.complete_multipart_upload(**upload, MultipartUpload=parts, IfNoneMatch="*"),
        )
    finally:
        with suppress(ClientError):
            s3.abort_multipart_upload(**upload)
    return "412 for PutObject and for CompleteMultipartUpload"


def _require_412(name: str, write: Callable[[], Any]) -> None:
    try:
        write()
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == _PRECONDITION_FAILED:
            return
        raise
    raise Disproven(f"{name} with If-None-Match replaced an object", "use an S3 that supports conditional writes")


def announcements(smoke: Smoke) -> str:
    """S3 announced every segment in the segment queue. The check removes its own messages only."""
    expected = {(trial.job_id, index) for trial in smoke.trials if trial.job for index in range(_SEGMENTS)}
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
    return state.in_flight > 0 or any(describe(smoke.aws, *_processed(smoke, trial, 0)) for trial in smoke.trials)


def worker_rights(smoke: Smoke) -> str:
    """Get credentials with the rights of a segment worker. The next steps use them."""
    policy = smoke.stack.outputs.get("SegmentWorkerPolicyArn")
    session, how = _assume_worker(smoke, policy)
    worker = Aws.connect(smoke.aws.settings, session)
    source = build_source_key(_trial(smoke, "copy").job_id)
    try:
        worker.s3.head_object(Bucket=smoke.aws.settings.input_bucket_name, Key=source)
    except ClientError as error:
        if error.response["Error"]["Code"] not in _DENIED:
            raise
    else:
        raise NotChecked(f"{how} may read sources, which workers may not: rights are not enforced here")
    smoke.worker = worker
    return f"{how}; sources are denied to it"


def _assume_worker(smoke: Smoke, policy: str | None) -> tuple[boto3.Session, str]:
    sts = _client(smoke, "sts")
    try:
        if smoke.worker_role:
            answer = sts.assume_role(RoleArn=smoke.worker_role, RoleSessionName="media-worker-check")
            how = smoke.worker_role
        elif policy:
            # The caller's rights, limited to the policy. AWS gives this to IAM users, not to roles:
            # https://docs.aws.amazon.com/STS/latest/APIReference/API_GetFederationToken.html
            answer = sts.get_federation_token(Name="media-worker-check", PolicyArns=[{"arn": policy}])
            how = "a session limited to the managed policy"
        else:
            raise NotChecked("the stack has no output SegmentWorkerPolicyArn")
    except ClientError as error:
        if smoke.worker_role:
            raise Disproven(f"{smoke.worker_role} cannot be assumed: {error}", "let the role trust you") from error
        raise NotChecked(
            f"no session with the managed policy ({error.response['Error']['Code']}): run the check as an IAM user, or "
            "name the role of your workers with --worker-role"
        ) from error
    given = answer["Credentials"]
    keys = (given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])
    return boto3.Session(*keys, region_name=smoke.aws.settings.aws_region), how


def process(smoke: Smoke, engine: EngineName) -> str:
    """Be the segment worker of a job: copy each segment and record it, with the worker's rights if there are any."""
    aws, trial = smoke.worker or smoke.aws, _trial(smoke, engine)
    with tempfile.TemporaryDirectory(prefix="media-worker-check-") as directory:
        path = Path(directory) / "segment.mp4"
        for index in range(_SEGMENTS):
            segment = _segment(smoke, trial, index)
            aws.s3.download_file(segment.bucket, segment.key, str(path))
            bucket, key = _processed(smoke, trial, index)
            upload_output(aws, path, key, {PLAN: segment.metadata[PLAN]}, aws.settings.expiry_tag)
            uri = f"s3://{bucket}/{key}"
            record_segment(
                aws, job_id=trial.job_id, segment_index=index, output_s3_uri=uri, plan=segment.metadata[PLAN]
            )
    return f"{_SEGMENTS} segments, with {'the rights of a worker' if smoke.worker else 'your own rights'}"


def join(smoke: Smoke, engine: EngineName) -> str:
    """Wait for the final. It must present every frame, and contain every byte of them."""
    trial = _trial(smoke, engine)
    _wait(smoke, trial, _JOINED)
    final = read_object(smoke.aws, smoke.aws.settings.output_bucket_name, build_final_key(trial.job_id))
    if final is None:
        raise Disproven("the job is completed without a final")
    content, _ = final
    frames = presented_video(read_movie(lambda at, length: content[at : at + length], len(content))).frames
    if frames != _FRAMES:
        raise Disproven(f"the final has {frames} frames, expected {_FRAMES}")
    if trial.clip.samples not in content:
        raise Disproven(
            f"the final has {frames} frames, but not the bytes of the source",
            "if workers of your own process segments of this stack, stop them during the check",
        )
    return f"{frames} frames, byte for byte those of the source"


def expiry(smoke: Smoke) -> str:
    """Segments and processed segments are removed by lifecycle rules of the buckets."""
    aws, settings = smoke.aws, smoke.aws.settings
    bucket, key = _processed(smoke, _trial(smoke, "copy"), 0)
    tags = {each["Key"]: each["Value"] for each in aws.s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]}
    processed = _expires_after(smoke, bucket, key, tags)
    segment = _segment(smoke, _trial(smoke, "copy"), 0).key
    segments = _expires_after(smoke, settings.input_bucket_name, segment, {})
    final = _expires_after(smoke, settings.output_bucket_name, build_final_key(_trial(smoke, "copy").job_id), {})
    if final is not None:
        raise Disproven(f"a lifecycle rule removes finals after {final} days", "limit the rule to the expiry tag")
    if settings.aws_endpoint_url and segments is None:
        raise NotChecked(f"processed segments have the tags {tags}; the buckets of this endpoint have no rules")
    for what, days in (("segments", segments), (f"processed segments with the tags {tags}", processed)):
        if days is None:
            raise Disproven(
                f"no lifecycle rule removes {what}",
                "add the lifecycle rules of the outputs TodoInputBucketLifecycle and TodoOutputBucketLifecycle",
            )
    return f"segments after {segments} days, processed segments after {processed} days, finals never"


def _expires_after(smoke: Smoke, bucket: str, key: str, tags: Mapping[str, str]) -> int | None:
    """Days until a lifecycle rule removes the object, or None."""
    try:
        rules: Any = smoke.aws.s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchLifecycleConfiguration":
            return None
        if error.response["Error"]["Code"] in _DENIED:
            raise NotChecked("not permitted: s3:GetLifecycleConfiguration") from error
        raise
    days = [
        int(rule["Expiration"]["Days"])
        for rule in rules
        if rule["Status"] == "Enabled" and "Days" in rule.get("Expiration", {}) and _applies(rule, key, tags)
    ]
    return min(days, default=None)


def _applies(rule: Mapping[str, Any], key: str, tags: Mapping[str, str]) -> bool:
    chosen = rule.get("Filter", {})
    every = chosen.get("And", chosen)
    prefix = every.get("Prefix", rule.get("Prefix", "")) or ""
    wanted = [*every.get("Tags", ()), *([every["Tag"]] if "Tag" in every else ())]
    return key.startswith(prefix) and all(tags.get(tag["Key"]) == tag["Value"] for tag in wanted)


def clean_up(smoke: Smoke) -> str:
    """Delete the jobs with everything that belongs to them, and their rows."""
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
    if left:
        raise Disproven("; ".join(left), "delete what is left with `media-worker delete JOB`")
    return "objects, rows and messages of both jobs are removed"


STEPS: Sequence[Step] = (
    Step("account", None, who_calls),
    Step("upload", None, submit_both),
    Step("split by part copies", "upload", lambda smoke: split(smoke, "copy")),
    Step("split by ffmpeg", "upload", lambda smoke: split(smoke, "ffmpeg")),
    Step("part copies", "split by part copies", part_copies),
    Step("conditional writes", "split by part copies", conditional_writes),
    Step("segments announced", "split by part copies", announcements),
    Step("rights of workers", "upload", worker_rights),
    Step("segments, part copies", "split by part copies", lambda smoke: process(smoke, "copy")),
    Step("segments, ffmpeg", "split by ffmpeg", lambda smoke: process(smoke, "ffmpeg")),
    Step("join by part copies", "segments, part copies", lambda smoke: join(smoke, "copy")),
    Step("join by ffmpeg", "segments, ffmpeg", lambda smoke: join(smoke, "ffmpeg")),
    Step("expiry", "segments, part copies", expiry),
)


# Help for the steps --------------------------------------------------------------------------------------------------


def _trial(smoke: Smoke, engine: EngineName) -> Trial:
    return next(trial for trial in smoke.trials if trial.engine == engine)


def _wait(smoke: Smoke, trial: Trial, statuses: frozenset[JobStatus]) -> Job:
    """Wait until the job has one of the statuses."""
    give_up_at = time.monotonic() + smoke.timeout_s
    while True:
        job = read_job(smoke.aws, trial.job_id)
        status = job.status if job else None
        if job and status in statuses:
            return job
        if job is None or status in _ENDED_BADLY:
            raise Disproven(f"the job is {status or 'gone'}: {job.error if job else 'its row was removed'}")
        if time.monotonic() > give_up_at:
            raise Disproven(f"the job is still {status} after {smoke.timeout_s:.0f} s")
        time.sleep(smoke.interval_s)


def _segment(smoke: Smoke, trial: Trial, index: int) -> StoredObject:
    job = trial.split
    key = build_segment_key(job.job_id, index, _SEGMENTS, job.mode)
    if (found := describe(smoke.aws, smoke.aws.settings.input_bucket_name, key)) is None:
        raise Disproven(f"{key} does not exist")
    return found


def _processed(smoke: Smoke, trial: Trial, index: int) -> tuple[str, str]:
    return smoke.aws.settings.output_bucket_name, build_output_segment_key(trial.job_id, index)


def _client(smoke: Smoke, service: Any) -> Any:
    settings = smoke.aws.settings
    return boto3.client(service, region_name=settings.aws_region, endpoint_url=settings.aws_endpoint_url)
