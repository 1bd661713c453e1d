"""The two Lambda handlers: each SQS record of a batch is handled on its own.

How the handlers settle a record and its job after an error is data: `DISPOSITIONS` has an entry for each error class,
and `disposition_of` adjusts it to the number of receives that are left.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

from media_worker.chunking import chunk
from media_worker.deadline import MIN_FOR_A_RECORD_S, Context, Deadline
from media_worker.errors import (
    FailureRecorded,
    LeaseHeld,
    LeaseLost,
    MessageError,
    NotEnoughTime,
    NothingToDo,
    PermanentError,
    ReceivesUsedUp,
    RetryableError,
)
from media_worker.final_delivery import Delivery
from media_worker.heartbeat import Heartbeat
from media_worker.jobs import CHUNKING_STATUSES, REASSEMBLY_STATUSES, JobStatus, fail_job
from media_worker.lease import HEARTBEAT_S
from media_worker.messages import ChunkRequest, Ignored, ReassemblyRequest, parse_chunking_body, parse_reassembly_body
from media_worker.queues import HiddenMessages, max_receive_count
from media_worker.reassembly import reassemble
from media_worker.telemetry import Handler, count, instrumented, log_keys, logger

if TYPE_CHECKING:
    from media_worker.aws import Aws

Request: TypeAlias = ChunkRequest | ReassemblyRequest | Ignored

_FIRST_BACK_OFF_S = 5
_MAX_BACK_OFF_S = 300
_MAX_SQS_DELAY_S = 900
# A last attempt may also leave a job in `chunking_complete` without its reassembly requested, or `failed` by an
# earlier run.
_AFTER_LAST_ATTEMPT = frozenset({JobStatus.CHUNKING_COMPLETE, JobStatus.FAILED})


@dataclass(frozen=True, slots=True)
class Disposition:
    """How a record and its job are settled after an error."""

    record: Literal["acknowledged", "returned", "reenqueued"]
    # None leaves the message's visibility timeout as it is.
    delay_s: int | None = 0
    # Whether the handler marks the job `failed`. A PermanentError has done that under the lease already.
    fails_job: bool = False
    metric: str | None = None


_ACKNOWLEDGED = Disposition("acknowledged")
_RETURNED = Disposition("returned", metric="RecordsReturned")
_REENQUEUED = Disposition("reenqueued", metric="RecordsReenqueued")

# The first class that the error is an instance of counts.
DISPOSITIONS: Sequence[tuple[type[Exception], Disposition]] = (
    (NothingToDo, Disposition("acknowledged", metric="NothingToDo")),
    (PermanentError, Disposition("acknowledged", metric="JobsFailed")),
    (ReceivesUsedUp, _REENQUEUED),
    (LeaseLost, _RETURNED),  # if it is still ours: another invocation may have received it
    (MessageError, _RETURNED),  # at once, until the redrive policy moves it to the dead-letter queue
    (FailureRecorded, _RETURNED),
    (Exception, _RETURNED),  # after a back-off; the last attempt makes the job `failed`
)
# Errors that do not use up an attempt: on the last receive the record is re-enqueued.
_WAITS = (LeaseHeld, NotEnoughTime)
_NEVER_FAIL_THE_JOB = (
    *(NothingToDo, PermanentError, MessageError, FailureRecorded, ReceivesUsedUp),
    *(LeaseHeld, LeaseLost),
)


def disposition_of(error: Exception, delivery: Delivery) -> Disposition:
    """How a record and its job are settled after this error. Pure."""
    usual = next(disposition for kind, disposition in DISPOSITIONS if isinstance(error, kind))
    if delivery.is_final and isinstance(error, _WAITS):
        usual = _REENQUEUED
    most_s = _MAX_SQS_DELAY_S if usual is _REENQUEUED else _MAX_DELAY_S
    delay_s = None if isinstance(error, LeaseLost) else min(_delay_s(error, delivery.receive_count), most_s)
    fails_job = delivery.is_last_attempt and not isinstance(error, _NEVER_FAIL_THE_JOB)
    return replace(usual, delay_s=delay_s, fails_job=fails_job)


# The longest visibility timeout that SQS accepts.
_MAX_DELAY_S = 12 * 3600


def _delay_s(error: Exception, receive_count: int) -> int:
    """Seconds until a returned record is delivered again: what the error asks for, or 5, 10, 20, ... up to 300."""
    if isinstance(error, MessageError | NothingToDo | PermanentError):
        return 0
    if isinstance(error, RetryableError) and error.retry_after_s is not None:
        return error.retry_after_s
    return min(_MAX_BACK_OFF_S, _FIRST_BACK_OFF_S << min(receive_count - 1, 10))


class _Returned(Exception):
    """Tells Powertools' batch processor that a record is returned to the queue."""


@dataclass(frozen=True, slots=True)
class Queue:
    """One of our queues: how its messages are parsed, and what is done for each request."""

    aws: "Aws"
    url: str
    parse: Callable[[str], Sequence[Request]]
    # `chunk` or `reassemble`.
    work: Callable[..., None]
    # Jobs in these statuses belong to this stage, which may mark them `failed`.
    statuses: frozenset[JobStatus]

    def handle(self, event: dict[str, Any], context: Context) -> Mapping[str, Any]:
        """Handle a batch; the answer names the records that are returned to the queue.

        Lambda deletes the others when the handler has returned: until then they are kept hidden too.
        """
        count("Records", len(event["Records"]))
        processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
        hidden = HiddenMessages(self.aws, self.url)
        handle_record = partial(self._handle_record, context=context, hidden=hidden)
        with Heartbeat(HEARTBEAT_S, hidden.extend):
            answer = process_partial_response(event, handle_record, processor, cast("Any", context))
        return cast("Mapping[str, Any]", answer)

    def _handle_record(self, record: SQSRecord, context: Context, hidden: HiddenMessages) -> None:
        """Handle a record's requests, each on its own, then settle the record by the worst outcome.

        Raises:
            _Returned: the record is returned to the queue.
        """
        delivery = Delivery(_receive_count(record), max_receive_count(self.aws, self.url))
        with log_keys(message_id=record.message_id, receive_count=delivery.receive_count):
            try:
                Deadline(context).require(MIN_FOR_A_RECORD_S, "begin a record")
                requests = self.parse(record.body)
                hidden.hide(record.receipt_handle)
            except Exception as error:  # noqa: BLE001  # DISPOSITIONS covers every class
                outcomes = [_report(error, disposition_of(error, delivery))]
            else:
                outcomes = [self._handle_request(request, delivery, context) for request in requests]
            self._settle_record(record, outcomes, hidden)

    def _handle_request(self, request: Request, delivery: Delivery, context: Context) -> Disposition:
        if isinstance(request, Ignored):
            logger.info("Record ignored", event="record_ignored", reason=request.reason)
            return _ACKNOWLEDGED
        with log_keys(job_id=request.job_id):
            try:
                self.work(self.aws, request, context, delivery)
            except Exception as error:  # noqa: BLE001  # DISPOSITIONS covers every class
                disposition = _report(error, disposition_of(error, delivery))
                if disposition.fails_job:
                    self._fail_job(request.job_id, error, delivery)
                return disposition
        return _ACKNOWLEDGED

    def _fail_job(self, job_id: str, error: Exception, delivery: Delivery) -> None:
        text = f"failed after {delivery.receive_count} attempts: {_describe(error)}"
        if fail_job(self.aws, job_id, text, self.statuses | _AFTER_LAST_ATTEMPT):
            count("JobsFailed")
            logger.error("Job failed", event="job_failed", failure=type(error).__name__, reason=text)

    def _settle_record(self, record: SQSRecord, outcomes: Sequence[Disposition], hidden: HiddenMessages) -> None:
        """Return the record if a request needs another delivery, else re-enqueue it if one needs a new message."""
        for outcome in outcomes:
            if outcome.record == "returned":
                if outcome.delay_s is None:
                    hidden.leave(record.receipt_handle)
                else:
                    hidden.return_after(record.receipt_handle, outcome.delay_s)
                raise _Returned
        for outcome in outcomes:
            if outcome.record == "reenqueued":
                # A crash between this and the acknowledgement leaves both messages, which does no harm.
                delay_s = outcome.delay_s or 0
                self.aws.sqs.send_message(QueueUrl=self.url, MessageBody=record.body, DelaySeconds=delay_s)
                return


def build_chunking_handler(aws: "Aws") -> Handler:
    """The handler of the chunking queue."""
    parse = partial(parse_chunking_body, input_bucket=aws.settings.input_bucket_name)
    return instrumented(Queue(aws, aws.settings.chunking_queue_url, parse, chunk, CHUNKING_STATUSES).handle)


def build_reassembly_handler(aws: "Aws") -> Handler:
    """The handler of the reassembly queue."""
    url = aws.settings.reassembly_queue_url
    return instrumented(Queue(aws, url, parse_reassembly_body, reassemble, REASSEMBLY_STATUSES).handle)


def _report(error: Exception, disposition: Disposition) -> Disposition:
    """Log and count an error; its disposition."""
    if disposition.metric:
        count(disposition.metric)
    fields: dict[str, Any] = {"failure": type(error).__name__, "reason": str(error)}
    if isinstance(error, NothingToDo):
        logger.info("Nothing to do", event="nothing_to_do", **fields)
    elif isinstance(error, PermanentError):
        logger.exception("Job failed", event="job_failed", **fields)
    else:
        log = logger.warning if isinstance(error, RetryableError | MessageError) else logger.exception
        event = f"record_{disposition.record}"
        log(f"Record {disposition.record}", event=event, delay_s=disposition.delay_s, **fields)
    return disposition


def _receive_count(record: SQSRecord) -> int:
    text = record.attributes.get("ApproximateReceiveCount") or ""
    return int(text) if text.isdecimal() else 1


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
