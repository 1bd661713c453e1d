"""The two Lambda handlers: a batch of SQS records, each on its own.

What becomes of a record:

    done, nothing to do     acknowledged
    PermanentError          the job is `failed`; acknowledged
    MessageError            given back at once, until the redrive policy moves it to the dead-letter queue
    LeaseHeld               given back, invisible until the holder's lease has expired
    anything else           given back after a back-off; on the last receive the job becomes `failed`
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
    LeaseHeld,
    MessageError,
    NothingToDo,
    PermanentError,
    RetryableError,
)
from media_worker.jobs import fail_job
from media_worker.messages import ChunkRequest, Ignored, ReassemblyRequest, parse_chunking_body, parse_reassembly_body
from media_worker.reassembly import reassemble
from media_worker.telemetry import Handler, count, instrumented, log_keys, logger

if TYPE_CHECKING:
    from media_worker.aws import Aws

type Request = ChunkRequest | ReassemblyRequest | Ignored

_FIRST_BACK_OFF_S = 5
_LONGEST_BACK_OFF_S = 300


@dataclass(frozen=True, slots=True)
class Queue:
    """One of our queues: how its messages are read and what is done with them."""

    aws: "Aws"
    url: str
    parse: Callable[[str], Sequence[Request]]
    work: Callable[["Aws", Any, Context], None]

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
            with self._given_back_on_error(record):
                Deadline(context).require(LEAST_FOR_A_RECORD_S, "begin a record")
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

    def _handle_request(self, request: ChunkRequest | ReassemblyRequest, record: SQSRecord, context: Context) -> None:
        try:
            self.work(self.aws, request, context)
        except NothingToDo as error:
            count("NothingToDo")
            logger.info("nothing to do", reason=str(error))
        except PermanentError as error:
            count("JobsFailed")
            logger.exception("job failed", failure=type(error).__name__, reason=str(error))
        except LeaseHeld:
            raise
        except Exception as error:
            tries = _receive_count(record)
            if tries >= self.aws.settings.max_receive_count:
                fail_job(self.aws, request.job_id, f"gave up after {tries} tries: {_in_words(error)}")
                count("JobsFailed")
            raise

    @contextmanager
    def _given_back_on_error(self, record: SQSRecord) -> Iterator[None]:
        """Say why a record comes back, and let it come back when that makes sense: not a visibility timeout later."""
        try:
            yield
        except Exception as error:
            delay_s = _delay_s(error, _receive_count(record))
            count("RecordsGivenBack")
            log = logger.warning if isinstance(error, RetryableError | MessageError) else logger.exception
            log("the message comes back", failure=type(error).__name__, reason=str(error), delay_s=delay_s)
            self._hide(record, delay_s)
            raise

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
    return instrumented(Queue(aws, aws.settings.chunking_queue_url, parse, chunk).handle)


def build_reassembly_handler(aws: "Aws") -> Handler:
    """The handler of the reassembly queue."""
    return instrumented(Queue(aws, aws.settings.reassembly_queue_url, parse_reassembly_body, reassemble).handle)


def _receive_count(record: SQSRecord) -> int:
    return int(record.attributes.get("ApproximateReceiveCount") or 1)


def _delay_s(error: Exception, receive_count: int) -> int:
    """Seconds until a record comes back: 5, 10, 20, ... up to 300, or what the error asks for."""
    if isinstance(error, MessageError):
        return 0
    if isinstance(error, RetryableError) and error.retry_after_s is not None:
        return error.retry_after_s
    return min(_LONGEST_BACK_OFF_S, _FIRST_BACK_OFF_S << min(receive_count - 1, 10))


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
