"""One job from its upload to its end, while processes die.

AWS is a moto server in another process. Each delivery is a forked process that handles one batch and may be killed at
any point, as a Lambda is: no cleanup, no answer. SQS is a model: a message that was not acknowledged becomes visible
again with a higher receive count, until the redrive policy moves it to the dead-letter queue. Time is a model too:
waiting takes none.
"""

import json
import os
import shutil
import signal
import tempfile
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import pytest
from media_worker.aws import Aws
from media_worker.completions import record_segment
from media_worker.errors import StaleSegment
from media_worker.handlers import build_chunking_handler, build_reassembly_handler
from media_worker.jobs import Job, JobStatus, read_job
from media_worker.keys import build_final_key, build_output_segment_key, build_source_key, parse_segment_key
from media_worker.settings import Settings
from media_worker.workdir import work_directory

from tests.crash import kit
from tests.crash.clock import Clock
from tests.crash.faults import Call, Fault, Injector
from tests.crash.process import WORK_S, Child, Delivery, InvocationContext, Report, fork, processes_in
from tests.crash.server import PART_BYTES
from tests.functional.stack import ENVIRONMENT, INPUT, OUTPUT, create_table, s3_event, sqs_event
from tests.small_parts import use_small_parts

type Actor = Literal["chunking", "reassembly", "worker"]

VISIBILITY_S = 960
KIT_VISIBILITY_S = 90
# Of the segment workers' queue, which this harness models.
WORKER_RECEIVES = 10
_ALL_INVISIBLE_S = 43_200


@dataclass
class Message:
    """A message in one of the queues, and its state in SQS."""

    actor: Actor
    body: Any
    visible_at: float
    receives: int = 0
    # moto's receipt handle, so that ChangeMessageVisibility succeeds.
    receipt: str = "receipt"
    message_id: str = field(default_factory=lambda: uuid.uuid4().hex)


# The plan of a first run, and when it began.
OLD = {"S": "old"}
FIRST_RUN = {"N": "1000"}


@dataclass
class World:
    """Everything about one job, and the clock."""

    aws: Aws
    # The clients of the handlers and of a worker: created once, and used in forked processes only.
    handlers_aws: Aws
    workers_aws: Aws
    temporary: Path
    job_id: str
    clock: Clock = field(default_factory=Clock)
    queue: list[Message] = field(default_factory=list)
    dead_letters: list[Message] = field(default_factory=list)
    deliveries: list[tuple[Actor, Delivery]] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    # Versions of segments that have triggered a worker.
    started: set[str] = field(default_factory=set)
    # Segments that fast workers have finished.
    worked: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    reassemblies_sent: int = 0
    # Parts of multipart uploads are so small that short clips have several.
    has_small_parts: bool = False
    # Workers finish a segment before chunking writes the next one.
    fast_workers: bool = False
    # Segments are processed by the worker kit, in processes that can be killed.
    uses_kit: bool = False
    engine: str = "ffmpeg"
    # Where the final's audio comes from: an attribute of the job's row.
    tracks: str | None = None
    # The job has failed before, with another source.
    is_second_run: bool = False
    newest_first: bool = False
    fault: Fault | None = None
    fault_actor: Actor | None = None
    # On every attempt, or on the first one that reaches the call.
    every_attempt: bool = False
    fired: int = 0
    # When the delivery began into which the fault was injected.
    fired_at: float | None = None
    # Segments for which a worker's command ran.
    ran: list[str] = field(default_factory=list)
    # Called in each process before the handler runs: it disables a protection, or hooks into a call.
    sabotage: Callable[["World"], None] | None = None
    work_s: float = WORK_S

    # The user

    def submit(self, source: bytes, **attributes: str) -> None:
        row = {"job_id": self.job_id, "mode": "sbs", "status": "created", "engine": self.engine, **attributes}
        row |= {"tracks": self.tracks} if self.tracks else {}
        item = {name: {"S": value} for name, value in row.items()} | {"created_at": {"N": "1"}}
        if self.is_second_run:
            item |= {"plan": OLD, "run_started_at": FIRST_RUN}
            self._leave_rows_of_first_run()
        self.aws.dynamodb.put_item(TableName="Jobs", Item=item)
        self.upload(source)

    def _leave_rows_of_first_run(self) -> None:
        for index in (0, 7):
            row: Any = {"job_id": {"S": self.job_id}, "segment_index": {"N": str(index)}, "plan": OLD}
            row["output_s3_uri"] = {"S": f"s3://{OUTPUT}/{build_output_segment_key(self.job_id, index)}"}
            self.aws.dynamodb.put_item(TableName="SegmentCompletions", Item=row)
        trigger: Any = {"job_id": {"S": self.job_id}, "triggered_at": FIRST_RUN, "run_started_at": FIRST_RUN}
        self.aws.dynamodb.put_item(TableName="ReassemblyTriggered", Item=trigger)

    def upload(self, source: bytes) -> None:
        self.aws.s3.put_object(Bucket=INPUT, Key=build_source_key(self.job_id), Body=source)
        self.send("chunking", s3_event(build_source_key(self.job_id)))

    def send(self, actor: Actor, body: Any, *, receives: int = 0, receipt: str = "receipt") -> Message:
        message = Message(actor, body, self.clock.time(), receives, receipt)
        self.queue.append(message)
        return message

    # SQS, Lambda and the segment workers

    def run(self, until: Callable[["World"], bool] | None = None) -> None:
        """Deliver messages, the earliest first, until none is left."""
        for _ in range(200):
            if not self.queue or (until and until(self)):
                return
            message = self._next()
            self.clock.ahead_s += max(0.0, message.visible_at - self.clock.time())
            self.receive(message)
        self.violations.append("messages are delivered for ever")

    def _next(self) -> Message:
        """SQS guarantees no order: a reassembly message may arrive before those of the workers."""
        due = [each for each in self.queue if each.visible_at <= self.clock.time()]
        return due[-1] if due and self.newest_first else min(self.queue, key=lambda each: each.visible_at)

    def receive(self, message: Message) -> Delivery | None:
        """One receive: the redrive policy is applied first, then the function is invoked."""
        limit = self._receives_of(message)
        if message.receives >= limit:
            self.queue.remove(message)
            self.dead_letters.append(message)
            return None
        message.receives += 1
        message.visible_at = self.clock.time() + (KIT_VISIBILITY_S if self._is_for_kit(message) else VISIBILITY_S)
        delivery = self.deliver(message)
        self.settle(message, delivery)
        return delivery

    def _is_for_kit(self, message: Message) -> bool:
        return self.uses_kit and message.actor == "worker"

    def _receives_of(self, message: Message) -> int:
        if self._is_for_kit(message):
            return kit.RECEIVES
        return WORKER_RECEIVES if message.actor == "worker" else self.aws.settings.max_receive_count

    def settle(self, message: Message, delivery: Delivery) -> None:
        """Apply the answer of a delivery to its message, and collect what it triggered."""
        self.clock.ahead_s = max(self.clock.ahead_s, delivery.ahead_s)
        if self._is_for_kit(message):
            self._settle_kit(message, delivery)
            return
        if delivery.hidden_s.get(message.receipt) is not None:
            message.visible_at = self.clock.time() + delivery.hidden_s[message.receipt]
        if not delivery.died and not delivery.failures and message in self.queue:
            self.queue.remove(message)
        self.collect()
        self._check_not_lost(message)

    def _settle_kit(self, message: Message, delivery: Delivery) -> None:
        """The worker has deleted or returned the message itself, or it is hidden until its visibility timeout ends."""
        after = kit.look_after(self.aws, _for_kit(message))
        if after == "visible":
            message.visible_at = self.clock.time()
        elif after == "gone":
            self.queue.remove(message)
        elif delivery.hidden_s:
            message.visible_at = self.clock.time() + list(delivery.hidden_s.values())[-1]
        for key, is_there in delivery.ran:
            self.ran.append(key)
            if is_there:
                self.violations.append(f"doubled: the command ran for {key}, which was uploaded already")
        self.collect()
        self._check_not_lost(message)

    def collect(self) -> None:
        """Add the new messages of the real queues, and one message for each new segment."""
        for key, version in self.writes(INPUT, f"segments/{self.job_id}/"):
            if version not in self.started:
                self.started.add(version)
                if key in self.worked:
                    self.worked.remove(key)
                else:
                    self.send("worker", key)
        for actor, url in self._urls().items():
            while received := self._receive_all(url):
                for message in received:
                    if message["MessageId"] in self.seen:
                        continue  # visible again by the clock of moto
                    self.seen.add(message["MessageId"])
                    delay_s = int(message.get("Attributes", {}).get("DelaySeconds", 0))
                    body = json.loads(message["Body"])
                    body = body if actor != "worker" else unquote(body["Records"][0]["s3"]["object"]["key"])
                    self.send(actor, body, receipt=message["ReceiptHandle"])
                    self.queue[-1].visible_at += delay_s
                    self.reassemblies_sent += actor == "reassembly"

    def deliver(self, *messages: Message) -> Delivery:
        """Deliver one batch to a forked process, which can be killed."""
        actor = messages[0].actor
        began_at = self.clock.time()
        if actor == "worker" and self.fault_actor != "worker" and not self.uses_kit:
            with self.clock.patches():
                self._process(self.aws, messages[0].body)
            return Delivery(died=False, failures=(), hidden_s={}, calls=(), fired=False, error="", ahead_s=0)
        armed = self.fault_actor == actor and (self.every_attempt or not self.fired)
        attempts = self.aws.settings.max_receive_count - 1
        if self.every_attempt and any(message.receives > attempts for message in messages):
            armed = False
        delivery = self.start(*messages, fault=self.fault if armed else None).finish()
        if delivery.fired and self.fired_at is None:
            self.fired_at = began_at
        self.fired += delivery.fired
        self.worked += delivery.worked
        self.deliveries.append((actor, delivery))
        return delivery

    def start(self, *messages: Message, fault: Fault | None = None) -> Child:
        """Start a process without waiting for it."""
        if self._is_for_kit(messages[0]):
            kit.create_queue(self.aws, _for_kit(messages[0]))
        return fork(lambda report: self._child(messages, fault, report), self.clock)

    def stop_at(self, call: Call, message: Message) -> Child:
        """Start a delivery and stop its process (SIGSTOP) at a call."""
        message.receives += 1
        child = self.start(message, fault=Fault(call, "stopped"))
        child.wait_until_stopped()
        return child

    def resume(self, child: Child, message: Message) -> None:
        """Resume a stopped process. Its clock is that of the world."""
        ready = self._clock_file.with_suffix(".new")
        ready.write_text(str(self.clock.ahead_s))
        ready.rename(self._clock_file)
        delivery = child.resume()
        self.deliveries.append((message.actor, delivery))
        self.settle(message, delivery)

    def _stop(self) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)
        while not self._clock_file.exists():
            pass  # the signal takes a moment
        self.clock.ahead_s = float(self._clock_file.read_text())

    @property
    def _clock_file(self) -> Path:
        return self.temporary / "clock"

    def at_call(self, call: Call, action: Callable[[], None]) -> None:
        """Do something just before a call of the handler is sent. For `sabotage`."""
        injector = Injector(Fault(call, "killed before"), lambda: None)
        injector.act = lambda *_: action()
        injector.watch(self.handlers_aws.s3, self.handlers_aws.sqs, self.handlers_aws.dynamodb)

    def _child(self, messages: Sequence[Message], fault: Fault | None, report: Report) -> None:
        tempfile.tempdir = str(self.temporary)
        if self.has_small_parts:  # never undone: the process ends with its delivery
            use_small_parts(pytest.MonkeyPatch(), PART_BYTES, upload_bytes=PART_BYTES, copy_bytes=2 * PART_BYTES)
        aws = self.handlers_aws
        injector = Injector(fault, report.fire)
        if fault and fault.kind == "stopped":
            injector.act = lambda *_: self._stop()
        injector.watch(aws.s3, aws.sqs, aws.dynamodb)
        report.watch_visibility(aws)
        if self.sabotage:
            self.sabotage(self)
        if messages[0].actor == "chunking" and self.fast_workers:
            self._work_at_once(aws, report)
        if self._is_for_kit(messages[0]):
            kit.work(aws, self.workers_aws, _for_kit(messages[0]), self.temporary, self.clock, report)
        elif messages[0].actor == "worker":
            self._process(aws, messages[0].body)
        else:
            builder = build_chunking_handler if messages[0].actor == "chunking" else build_reassembly_handler
            event = sqs_event(*(message.body for message in messages))
            for record, message in zip(event["Records"], messages, strict=True):
                record["attributes"]["ApproximateReceiveCount"] = str(message.receives)
                record["receiptHandle"] = message.receipt
            answer = builder(aws)(event, InvocationContext(self.clock, work_s=self.work_s))
            failed = [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]
            report.failures = [int(name.removeprefix("message-")) for name in failed]
        report.calls = injector.calls

    def _work_at_once(self, aws: Aws, report: Report) -> None:
        def written(params: dict[str, Any], http_response: Any, **_: Any) -> None:
            if http_response.status_code == 200 and is_media(params["key"]):
                self._process(self.workers_aws, unquote(params["key"]))
                report.send(worked=unquote(params["key"]))

        def remember(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
            context["written"] = {"key": params["Key"]}

        for operation in ("PutObject", "CompleteMultipartUpload"):
            aws.s3.meta.events.register_last(f"before-parameter-build.s3.{operation}", remember)
            aws.s3.meta.events.register_last(
                f"after-call.s3.{operation}", lambda context, **rest: written(context["written"], **rest)
            )

    def _process(self, aws: Aws, key: str) -> None:
        """The segment worker: copies the segment unchanged and records it, unless its plan was replaced."""
        parts = parse_segment_key(INPUT, key)
        assert parts
        segment = aws.s3.get_object(Bucket=INPUT, Key=key)
        plan, index = segment["Metadata"]["plan"], parts.segment_index
        target = build_output_segment_key(self.job_id, index)
        aws.s3.put_object(Bucket=OUTPUT, Key=target, Body=segment["Body"].read(), Metadata={"plan": plan})
        with suppress(StaleSegment):
            uri = f"s3://{OUTPUT}/{target}"
            record_segment(aws, job_id=self.job_id, segment_index=index, output_s3_uri=uri, plan=plan)

    # Results

    def job(self) -> Job:
        job = read_job(self.aws, self.job_id)
        assert job
        return job

    def writes(self, bucket: str, prefix: str) -> list[tuple[str, str]]:
        """Key and version of every successful write below a prefix: the buckets are versioned."""
        listing = self.aws.s3.list_object_versions(Bucket=bucket, Prefix=prefix)
        return [(each["Key"], each["VersionId"]) for each in listing.get("Versions", []) if is_media(each["Key"])]

    def content(self) -> dict[str, bytes]:
        """Segments and final by key, without the job id."""
        found = {}
        for bucket, prefix in ((INPUT, f"segments/{self.job_id}/"), (OUTPUT, build_final_key(self.job_id))):
            for entry in self.aws.s3.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", []):
                body = self.aws.s3.get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
                if is_media(entry["Key"]):  # the plan names the job
                    found[entry["Key"].replace(self.job_id, "JOB")] = body
        return found

    def doubled(self) -> list[str]:
        """Keys that were written more than once."""
        prefixes = ((INPUT, f"segments/{self.job_id}/"), (OUTPUT, build_final_key(self.job_id)))
        counts = Counter(key for bucket, prefix in prefixes for key, _ in self.writes(bucket, prefix))
        return [f"{key} written {times} times" for key, times in counts.items() if times > 1]

    def leftovers(self) -> list[str]:
        """Incomplete uploads, leases, work directories and processes that nobody will use again."""
        found = []
        for bucket in (INPUT, OUTPUT):
            uploads = self.aws.s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
            found += [f"incomplete upload of {upload['Key']}" for upload in uploads if self.job_id in upload["Key"]]
        for table in ("Jobs", "ReassemblyTriggered"):
            row = self.aws.dynamodb.get_item(TableName=table, Key={"job_id": {"S": self.job_id}}).get("Item", {})
            if "lease_expires_at" in row:
                found.append(f"a lease in {table}")
        if self.writes(INPUT, f"segments/{self.job_id}/"):
            found += self._rows_of_first_run()
        with _temporary(self.temporary), work_directory() as mine:
            found += [f"work directory {path}" for path in mine.parent.iterdir() if path.is_dir() and path != mine]
        found += [f"process {pid}: {command}" for pid, command in processes_in(self.temporary)]
        return found

    def _rows_of_first_run(self) -> list[str]:
        """Rows that had to be deleted before the first segment was written."""
        key: Any = {"job_id": {"S": self.job_id}}
        trigger = self.aws.dynamodb.get_item(TableName="ReassemblyTriggered", Key=key).get("Item", {})
        query: Any = {
            "KeyConditionExpression": "job_id = :job_id",
            "ExpressionAttributeValues": {":job_id": key["job_id"]},
        }
        rows = self.aws.dynamodb.query(TableName="SegmentCompletions", **query)["Items"]
        found = [f"an old completion of segment {row['segment_index']['N']}" for row in rows if row.get("plan") == OLD]
        return [*found, "an old trigger"] if trigger.get("run_started_at") == FIRST_RUN else found

    def _check_not_lost(self, message: Message) -> None:
        """An unfinished job must have a message or a running worker."""
        status = self.job().status
        if status in {JobStatus.COMPLETED, JobStatus.DELETED, JobStatus.FAILED} or self.queue:
            return
        if not self.violations:
            self.violations.append(f"lost: the job is {status} and the last message ({message.actor}) is gone")

    def _urls(self) -> dict[Actor, str]:
        settings = self.aws.settings
        assert settings.segment_queue_url
        return {
            "chunking": settings.chunking_queue_url,
            "reassembly": settings.reassembly_queue_url,
            "worker": settings.segment_queue_url,
        }

    def _receive_all(self, url: str) -> list[Any]:
        return self.aws.sqs.receive_message(
            QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=_ALL_INVISIBLE_S
        ).get("Messages", [])


def is_media(key: str) -> bool:
    """Whether an object is a segment or a final, not the plan."""
    return key.endswith(".mp4")


def _for_kit(message: Message) -> kit.KitDelivery:
    return kit.KitDelivery(message.message_id, message.receives, message.body)


class _temporary:  # noqa: N801
    def __init__(self, path: Path) -> None:
        self._path, self._before = path, tempfile.tempdir

    def __enter__(self) -> None:
        tempfile.tempdir = str(self._path)

    def __exit__(self, *_: object) -> None:
        tempfile.tempdir = self._before


@dataclass(frozen=True, slots=True)
class Cloud:
    """A server with a stack, and a set of clients for the harness, the handlers and the workers each."""

    endpoint: str
    aws: Aws
    handlers_aws: Aws
    workers_aws: Aws

    @classmethod
    def at(cls, endpoint: str) -> "Cloud":
        names = {"CHUNKING": "chunking", "REASSEMBLY": "reassembly", "SEGMENT": "segments"}
        queues = {f"{name}_QUEUE_URL": f"{endpoint}/123456789012/{queue}" for name, queue in names.items()}
        settings = Settings.from_environment(
            ENVIRONMENT | queues | {"AWS_ENDPOINT_URL": endpoint, "SEGMENT_ATTEMPTS_TABLE_NAME": "SegmentAttempts"}
        )
        return cls(endpoint, Aws.connect(settings), Aws.connect(settings), Aws.connect(settings))

    def world[W: World](self, temporary: Path, kind: type[W], *, has_small_parts: bool = False) -> W:
        """A new world on an empty server."""
        self._reset()
        temporary.mkdir(parents=True)
        job_id = f"job-{uuid.uuid4().hex[:12]}"
        return kind(self.aws, self.handlers_aws, self.workers_aws, temporary, job_id, has_small_parts=has_small_parts)

    def _reset(self) -> None:
        """Empty the server; create versioned buckets, tables and queues."""
        request = urllib.request.Request(f"{self.endpoint}/moto-api/reset", method="POST")
        urllib.request.urlopen(request, timeout=30).close()
        for bucket in (INPUT, OUTPUT):
            self.aws.s3.create_bucket(Bucket=bucket)
            self.aws.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        for name in ("chunking", "reassembly", "segments", "letters"):
            self.aws.sqs.create_queue(QueueName=name)
        create_table(self.aws, "Jobs", job_id="S")
        for table in ("SegmentCompletions", "SegmentAttempts"):
            create_table(self.aws, table, job_id="S", segment_index="N")
        create_table(self.aws, "ReassemblyTriggered", job_id="S")


def remove(world: World) -> None:
    """Remove the files of a world."""
    shutil.rmtree(world.temporary, ignore_errors=True)
