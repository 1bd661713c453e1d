"""The two Lambda handlers: a batch of SQS records, each on its own.

What becomes of a record:

    done, nothing to do     acknowledged
    PermanentError          the job is `failed`; acknowledged
    MessageError            given back at once, until the redrive policy moves it to the dead-letter queue
    LeaseHeld               given back, invisible until the holder's lease has expired
    anything else           given back after a back-off; on the last try the job becomes `failed`
    waited too often        replaced by a fresh message: waiting must not end in the dead-letter queue
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from botocore.exceptions import ClientError

from media_worker.chunking import chunk
from media_worker.deadline import LEAST_FOR_A_RECORD_S, Context, Deadline
from media_worker.errors import (
    GivenUp,
    LeaseHeld,
    MessageError,
    NotEnoughTime,
    NothingToDo,
    PermanentError,
    ReceivesUsedUp,
    RetryableError,
)
from media_worker.giving_up import CHUNKING, REASSEMBLY, Stage, last_try
from media_worker.jobs import JobStatus, fail_job
from media_worker.messages import ChunkRequest, Ignored, ReassemblyRequest, parse_chunking_body, parse_reassembly_body
from media_worker.reassembly import reassemble
from media_worker.telemetry import Handler, count, instrumented, log_keys, logger

if TYPE_CHECKING:
    from media_worker.aws import Aws

type Request = ChunkRequest | ReassemblyRequest | Ignored

_FIRST_BACK_OFF_S = 5
_LONGEST_BACK_OFF_S = 300
_LONGEST_SQS_DELAY_S = 900
# A chunking that cannot ask for the reassembly ends in chunking_complete; one of a redriven message in failed.
_AFTER_CHUNKING = frozenset({JobStatus.CHUNKING_COMPLETE, JobStatus.FAILED})


@dataclass(frozen=True, slots=True)
class Queue:
    """One of our queues: how its messages are read and what is done with them."""

    aws: "Aws"
    url: str
    parse: Callable[[str], Sequence[Request]]
    # `chunk` or `reassemble`.
    work: Callable[..., None]
    stage: Stage

    def handle(self, event: dict[str, Any], context: Context) -> Mapping[str, Any]:
        """Handle a batch; the answer names the records that have to come back."""
        count("Records", len(event["Records"]))
        processor = BatchProcessor(EventType.SQS, raise_on_entire_batch_failure=False)
        answer = process_partial_response(
            event, lambda record: self._handle_record(record, context), processor, cast("Any", context)
        )
        return cast("Mapping[str, Any]", answer)

    def _handle_record(self, record: SQSRecord, context: Context) -> None:
        with log_keys(message_id=record.message_id, receive_count=_receive_count(record)):
            requests: Sequence[Request] = ()
            with self._given_back_on_error(record):
                self._require_time(record, context)
                requests = self.parse(record.body)
            failures = [self._try_request(request, record, context) for request in requests]
            for failure in filter(None, failures):
                raise failure

    def _try_request(self, request: Request, record: SQSRecord, context: Context) -> Exception | None:
        """Handle one of a record's requests. Its error is for the end: it must not keep the others from their turn."""
        if isinstance(request, Ignored):
            logger.info("ignored", reason=request.reason)
            return None
        try:
            with log_keys(job_id=request.job_id), self._given_back_on_error(record):
                self._handle_request(request, record, context)
        except Exception as error:  # noqa: BLE001  # raised again by the caller
            return error
        return None

    def _require_time(self, record: SQSRecord, context: Context) -> None:
        """A record that is not begun is not tried either, so that must not use up its receives."""
        try:
            Deadline(context).require(LEAST_FOR_A_RECORD_S, "begin a record")
        except NotEnoughTime as error:
            raise (ReceivesUsedUp(str(error)) if self._is_last_receive(record) else error) from error

    def _is_last_receive(self, record: SQSRecord) -> bool:
        return _receive_count(record) > last_try(self.aws.settings.max_receive_count)

    def _handle_request(self, request: ChunkRequest | ReassemblyRequest, record: SQSRecord, context: Context) -> None:
        try:
            self.work(self.aws, request, context, is_last_receive=self._is_last_receive(record))
        except NothingToDo as error:
            count("NothingToDo")
            logger.info("nothing to do", reason=str(error))
        except PermanentError as error:
            count("JobsFailed")
            logger.exception("job failed", failure=type(error).__name__, reason=str(error))
        except LeaseHeld as error:
            if self._is_last_receive(record):
                raise ReceivesUsedUp(str(error), error.retry_after_s) from error
            raise
        except (GivenUp, ReceivesUsedUp):
            raise
        except Exception as error:
            tries = _receive_count(record)
            if tries >= last_try(self.aws.settings.max_receive_count):
                text = f"gave up after {tries} tries: {_in_words(error)}"
                if fail_job(self.aws, request.job_id, text, self.stage.statuses | _AFTER_CHUNKING):
                    count("JobsFailed")
            raise

    @contextmanager
    def _given_back_on_error(self, record: SQSRecord) -> Iterator[None]:
        """Say why a record comes back, and let it come back when that makes sense: not a visibility timeout later."""
        try:
            yield
        except ReceivesUsedUp as error:
            self._replace(record, error)
        except Exception as error:
            delay_s = _delay_s(error, _receive_count(record))
            count("RecordsGivenBack")
            log = logger.warning if isinstance(error, RetryableError | MessageError) else logger.exception
            log("the message comes back", failure=type(error).__name__, reason=str(error), delay_s=delay_s)
            self._hide(record, delay_s)
            raise

    def _replace(self, record: SQSRecord, error: ReceivesUsedUp) -> None:
        """Send the same message afresh, then let this one be acknowledged. A crash between the two leaves both."""
        count("RecordsReplaced")
        delay_s = min(_LONGEST_SQS_DELAY_S, error.retry_after_s or 0)
        self.aws.sqs.send_message(QueueUrl=self.url, MessageBody=record.body, DelaySeconds=delay_s)
        logger.warning("a fresh message takes this one's place", reason=str(error), delay_s=delay_s)

    def _hide(self, record: SQSRecord, delay_s: int) -> None:
        try:
            self.aws.sqs.change_message_visibility(
                QueueUrl=self.url, ReceiptHandle=record.receipt_handle, VisibilityTimeout=delay_s
            )
        except ClientError as error:
            # The receipt may be stale. The message comes back all the same, only later.
            logger.warning("the message's visibility could not be changed", reason=_in_words(error))


def build_chunking_handler(aws: "Aws") -> Handler:
    """The handler of the chunking queue."""
    parse = partial(parse_chunking_body, input_bucket=aws.settings.input_bucket_name)
    return instrumented(Queue(aws, aws.settings.chunking_queue_url, parse, chunk, CHUNKING).handle)


def build_reassembly_handler(aws: "Aws") -> Handler:
    """The handler of the reassembly queue."""
    queue = Queue(aws, aws.settings.reassembly_queue_url, parse_reassembly_body, reassemble, REASSEMBLY)
    return instrumented(queue.handle)


def _receive_count(record: SQSRecord) -> int:
    count_text = record.attributes.get("ApproximateReceiveCount") or ""
    return int(count_text) if count_text.isdecimal() else 1


def _delay_s(error: Exception, receive_count: int) -> int:
    """Seconds until a record comes back: 5, 10, 20, ... up to 300, or what the error asks for."""
    if isinstance(error, MessageError):
        return 0
    if isinstance(error, RetryableError) and error.retry_after_s is not None:
        return error.retry_after_s
    return min(_LONGEST_BACK_OFF_S, _FIRST_BACK_OFF_S << min(receive_count - 1, 10))


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
