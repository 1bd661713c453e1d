"""The events of both jobs, received by a rule and a queue that exist during the check only."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from botocore.exceptions import BotoCoreError, ClientError
from media_worker.events import SOURCE
from media_worker.jobs import Job, JobStatus, read_job
from media_worker.keys import build_final_key

from media_worker_cli.check.smoke import Disproven, NotChecked, Smoke, permitted

_TYPES = {JobStatus.COMPLETED: "Job Completed", JobStatus.FAILED: "Job Failed"}
# A new rule does not match at once: https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutRule.html
# Events of the check itself say when it does, so that an event which is missing later was not sent by the stack.
_PROBE_SOURCE, _PROBE_TYPE = "media-worker-check", "Probe"
_MATCHES_WITHIN_S = 90
# Until the queue is deleted, a message is received once.
_HIDDEN_S = 3600
_GONE = frozenset({"ResourceNotFoundException", "AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})

_Part = Literal["rule", "queue", "target"]


@dataclass(slots=True)
class Listener:
    """A rule that sends the ends of some jobs to a queue. Both have the same name."""

    name: str
    events: Any
    sqs: Any
    url: str = ""
    # What may exist. A part is added before the request that makes it, because Ctrl-C can come before the answer.
    parts: list[_Part] = field(default_factory=list)
    received: list[Mapping[str, Any]] = field(default_factory=list)

    def open(self, job_ids: Sequence[str]) -> None:
        """Make the rule, the queue and the rule's target.

        Raises:
            NotChecked: the caller lacks a right.
        """
        pattern = {
            "source": [SOURCE, _PROBE_SOURCE],
            "detail-type": [*_TYPES.values(), _PROBE_TYPE],
            "detail": {"job_id": job_ids},
        }
        with self._making("rule", "events:PutRule"):
            rule = self.events.put_rule(Name=self.name, EventPattern=json.dumps(pattern))["RuleArn"]
        queue = f"{rule.rpartition(':')[0].replace(':events:', ':sqs:')}:{self.name}"
        with self._making("queue", "sqs:CreateQueue"):
            attributes = {"Policy": json.dumps(_queue_policy(queue, rule))}
            self.url = self.sqs.create_queue(QueueName=self.name, Attributes=attributes)["QueueUrl"]
        with self._making("target", "events:PutTargets"):
            answer = self.events.put_targets(Rule=self.name, Targets=[{"Id": "queue", "Arn": queue}])
        if answer["FailedEntryCount"]:
            raise NotChecked(f"EventBridge refused the rule's target: {answer['FailedEntries']}")

    @contextmanager
    def _making(self, part: _Part, right: str) -> Iterator[None]:
        self.parts.append(part)
        try:
            with permitted(right):
                yield
        except (ClientError, NotChecked):
            self.parts.remove(part)
            raise

    def probe(self, job_id: str) -> None:
        """Send an event that the rule matches."""
        entry = {"Source": _PROBE_SOURCE, "DetailType": _PROBE_TYPE, "Detail": json.dumps({"job_id": job_id})}
        with permitted("events:PutEvents"):
            self.events.put_events(Entries=[entry])

    def receive(self) -> None:
        """Receive what the rule has sent to the queue. Waits up to two seconds for it."""
        with permitted("sqs:ReceiveMessage"):
            answer = self.sqs.receive_message(
                QueueUrl=self.url, MaxNumberOfMessages=10, WaitTimeSeconds=2, VisibilityTimeout=_HIDDEN_S
            )
        self.received += [json.loads(message["Body"]) for message in answer.get("Messages", [])]

    def received_from(self, source: str) -> dict[str, Mapping[str, Any]]:
        """The events of a source, by job."""
        return {each["detail"]["job_id"]: each for each in self.received if each["source"] == source}

    def close(self) -> list[str]:
        """Remove the target, the queue and the rule. Returns what is left, and why."""
        # EventBridge deletes no rule that has a target, so the last part goes first.
        return [problem for part in reversed(self.parts) if (problem := self._remove(part))]

    def _remove(self, part: _Part) -> str | None:
        try:
            match part:
                case "target":
                    self.events.remove_targets(Rule=self.name, Ids=["queue"])
                case "queue":
                    url = self.url or self.sqs.get_queue_url(QueueName=self.name)["QueueUrl"]
                    self.sqs.delete_queue(QueueUrl=url)
                case "rule":
                    self.events.delete_rule(Name=self.name)
        except (ClientError, BotoCoreError) as error:
            is_gone = isinstance(error, ClientError) and error.response["Error"]["Code"] in _GONE
            return None if is_gone else f"{part} {self.name}: {error}"
        return None


def _queue_policy(queue: str, rule: str) -> Mapping[str, Any]:
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue,
        "Condition": {"ArnEquals": {"aws:SourceArn": rule}},
    }
    return {"Version": "2012-10-17", "Statement": [statement]}


def listen(smoke: Smoke) -> str:
    """Make a rule and a queue for the ends of both jobs, and wait until an event arrives."""
    parameters = smoke.stack.parameters
    if parameters.get("ExistingJobsTable") and not parameters.get("ExistingJobsTableStreamArn"):
        raise NotChecked("with ExistingJobsTable and no ExistingJobsTableStreamArn, the stack sends none about jobs")
    job_ids = [trial.job_id for trial in smoke.trials]
    name = f"media-worker-check-{job_ids[0].rpartition('-')[2]}"
    listener = smoke.listener = Listener(name, smoke.client("events"), smoke.aws.sqs)
    listener.open(job_ids)
    give_up_at = time.monotonic() + _MATCHES_WITHIN_S
    while not listener.received_from(_PROBE_SOURCE):
        if time.monotonic() > give_up_at:
            raise NotChecked(f"the new rule has sent nothing to its queue within {_MATCHES_WITHIN_S} s")
        listener.probe(job_ids[0])
        # A queue can be used a second after it was created:
        # https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html
        time.sleep(smoke.interval_s)
        listener.receive()
    return f"{name} sends the events of both jobs to a queue"


def events(smoke: Smoke) -> str:
    """The stack has sent an event about the end of each job, which says the same as the job's row."""
    assert smoke.listener is not None
    rows = [read_job(smoke.aws, trial.job_id) for trial in smoke.trials]
    ended = [job for job in rows if job and job.status in _TYPES]
    if not ended:
        raise NotChecked("no job has ended")
    give_up_at = time.monotonic() + smoke.timeout_s
    while missing := {job.job_id for job in ended} - smoke.listener.received_from(SOURCE).keys():
        if time.monotonic() > give_up_at:
            raise Disproven(
                f"no event about the end of {', '.join(sorted(missing))} within {smoke.timeout_s:.0f} s",
                "read the log of the events function, /media-worker/STACK/events (docs/events.md)",
            )
        smoke.listener.receive()
    for job in ended:
        _compare(smoke.listener.received_from(SOURCE)[job.job_id], _expected(smoke, job))
    return f"one for each end of a job: {', '.join(_TYPES[job.status] for job in ended)}"


def _expected(smoke: Smoke, job: Job) -> Mapping[str, Any]:
    final = f"s3://{smoke.aws.settings.output_bucket_name}/{build_final_key(job.job_id)}"
    return {
        "job_id": job.job_id,
        "status": job.status.value,
        "segments": job.total_segments,
        "final_uri": final if job.status is JobStatus.COMPLETED else None,
    }


def _compare(event: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    found = {name: event["detail"].get(name) for name in expected}
    if found != expected:
        raise Disproven(f"the event {event['detail-type']} says {found}, but the job's row {dict(expected)}")
