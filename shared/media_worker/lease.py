"""The lock that survives a crash: a lease on a job, kept in the row the job has anyway.

Powertools' idempotency drives it (in progress, completed, released after an error), over a persistence layer of
our own (https://docs.powertools.aws.dev/lambda/python/latest/utilities/idempotency/#bring-your-own-persistent-store):

    put      the lease is free or has expired -> we are the holder until the invocation's end
    delete   the work raised                  -> the lease is free
    update   the work is done                 -> what remains says so
    (killed)                                  -> the lease expires, and the next delivery takes over

Only the holder writes: one that was overtaken cannot release or complete its successor's lease.
"""

import math
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.utilities.idempotency import IdempotencyConfig, idempotent_function
from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyAlreadyInProgressError,
    IdempotencyItemAlreadyExistsError,
    IdempotencyItemNotFoundError,
)
from aws_lambda_powertools.utilities.idempotency.persistence.base import BasePersistenceLayer
from aws_lambda_powertools.utilities.idempotency.persistence.datarecord import STATUS_CONSTANTS, DataRecord

from media_worker.errors import LeaseHeld
from media_worker.jobs import CHUNKING_STARTED_AT, now_s
from media_worker.telemetry import logger

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from media_worker.deadline import Context


# A row of ReassemblyTriggered is not needed longer than messages and their dead letters live.
TRIGGER_TTL_S = 30 * 24 * 3600


@dataclass(frozen=True, slots=True)
class LeasePlace:
    """In which row a lease lives, and what is left there when the work is done."""

    table_name: str
    started_attribute: str
    # The Jobs row's status says that the work is done; the trigger's row has to say it itself.
    forget_when_done: bool
    # Attributes a row must have, written when the lease has to create it.
    defaults: Mapping[str, int]
    must_exist: bool


def chunking_lease(aws: "Aws") -> LeasePlace:
    """The lease of a chunking, in the job's own row."""
    return LeasePlace(
        aws.settings.jobs_table_name, CHUNKING_STARTED_AT, forget_when_done=True, defaults={}, must_exist=True
    )


def reassembly_lease(aws: "Aws") -> LeasePlace:
    """The lease of a reassembly, in the table made for it. A message sent by hand finds no row there yet."""
    now = now_s()
    defaults = {"triggered_at": now, "ttl": now + TRIGGER_TTL_S}
    return LeasePlace(
        aws.settings.reassembly_triggered_table_name,
        "reassembly_started_at",
        forget_when_done=False,
        defaults=defaults,
        must_exist=False,
    )


def run_under_lease(
    aws: "Aws",
    place: LeasePlace,
    job_id: str,
    context: "Context",
    work: Callable[[], Mapping[str, Any] | None],
    on_taken: Callable[[int], None] = lambda _tries: None,
) -> None:
    """Do the work while holding the job's lease; do nothing when it was completed before.

    `on_taken` hears how often the lease was taken since the work was last done: how often it was tried.

    Raises:
        LeaseHeld: somebody else holds it; says when it will have expired.
    """
    layer = LeaseLayer(aws, place, job_id)
    config = IdempotencyConfig(lambda_context=context)  # type: ignore[arg-type]  # our Protocol is the part it uses

    def leased(*, job_id: str) -> Mapping[str, Any] | None:
        del job_id  # what Powertools makes its key of; the work knows it
        on_taken(layer.tries)
        return work()

    try:
        idempotent_function(leased, data_keyword_argument="job_id", persistence_store=layer, config=config)(
            job_id=job_id
        )
    except IdempotencyAlreadyInProgressError as error:
        raise LeaseHeld(job_id, max(1, layer.held_until_s - now_s() + 1)) from error


class LeaseLayer(BasePersistenceLayer):
    """Powertools' persistence layer on one job's row."""

    def __init__(self, aws: "Aws", place: LeasePlace, job_id: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._dynamodb = aws.dynamodb
        self._place = place
        self._job_id = job_id
        self._holder = str(uuid.uuid4())
        self.held_until_s = 0
        self.tries = 0

    def _put_record(self, data_record: DataRecord) -> None:
        """Take the lease when it is free or has expired."""
        if data_record.in_progress_expiry_timestamp is None:
            raise ValueError("a lease needs an end: the Lambda context is not registered")
        started = self._place.started_attribute
        sets = {started: now_s(), "lease_expires_at": math.ceil(data_record.in_progress_expiry_timestamp / 1000)}
        assignments = [f"{name} = :{name}" for name in sets]
        assignments += [f"#{name} = if_not_exists(#{name}, :{name})" for name in self._place.defaults]
        # Our own holder: the SDK repeats a call whose answer was lost, and must not find us kept out by ourselves.
        condition = f"(attribute_not_exists({started}) OR lease_expires_at <= :now OR lease_holder = :holder)"
        if self._place.must_exist:
            condition += " AND attribute_exists(job_id)"
        numbers = {**sets, **self._place.defaults, "now": now_s(), "one": 1}
        names = {"ExpressionAttributeNames": {f"#{name}": name for name in self._place.defaults}}
        try:
            taken = self._dynamodb.update_item(
                TableName=self._place.table_name,
                Key={"job_id": {"S": self._job_id}},
                UpdateExpression="SET lease_holder = :holder, " + ", ".join(assignments) + " ADD lease_tries :one",
                ConditionExpression=condition,
                ExpressionAttributeValues={
                    ":holder": {"S": self._holder},
                    **{f":{name}": {"N": str(number)} for name, number in numbers.items()},
                },
                ReturnValues="UPDATED_NEW",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
                **(names if self._place.defaults else {}),  # type: ignore[arg-type]
            )
        except self._dynamodb.exceptions.ConditionalCheckFailedException as error:
            item: Mapping[str, Any] = error.response.get("Item", {})  # type: ignore[assignment]
            raise IdempotencyItemAlreadyExistsError(old_data_record=self._record(item) if item else None) from error
        self.tries = int(taken["Attributes"]["lease_tries"]["N"])

    def _get_record(self, idempotency_key: str) -> DataRecord:
        """Read the lease that kept us out."""
        del idempotency_key
        item = self._dynamodb.get_item(
            TableName=self._place.table_name, Key={"job_id": {"S": self._job_id}}, ConsistentRead=True
        ).get("Item", {})
        if self._place.started_attribute not in item:
            raise IdempotencyItemNotFoundError
        return self._record(item)

    def _update_record(self, data_record: DataRecord) -> None:
        """The work is done."""
        del data_record
        if self._place.forget_when_done:
            # Mostly gone already, with the status that said so. What is left is left by work that was none.
            self._write_as_holder(f"REMOVE lease_holder, lease_expires_at, {self._place.started_attribute}")
        else:
            self._write_as_holder(
                "SET reassembly_completed_at = :now REMOVE lease_holder, lease_expires_at, lease_tries"
            )

    def _delete_record(self, data_record: DataRecord) -> None:
        """The work raised: whoever comes next may begin at once. Why it raised matters more than a failed release."""
        del data_record
        try:
            self._write_as_holder(f"REMOVE lease_holder, lease_expires_at, {self._place.started_attribute}")
        except Exception:  # noqa: BLE001  # of the client's; Powertools would raise it instead of the work's own
            logger.exception("the lease was not released; it will expire", lease_holder=self._holder)

    def _write_as_holder(self, update: str) -> None:
        values = {":holder": {"S": self._holder}}
        if ":now" in update:
            values[":now"] = {"N": str(now_s())}
        try:
            self._dynamodb.update_item(
                TableName=self._place.table_name,
                Key={"job_id": {"S": self._job_id}},
                UpdateExpression=update,
                ConditionExpression="lease_holder = :holder",
                ExpressionAttributeValues=values,
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self._dynamodb.exceptions.ConditionalCheckFailedException as error:
            item: Mapping[str, Any] = error.response.get("Item", {})  # type: ignore[assignment]
            if "lease_holder" in item:
                logger.warning("the lease had expired and is somebody else's now", lease_holder=self._holder)

    def _record(self, item: Mapping[str, Any]) -> DataRecord:
        """A row as Powertools sees it: in progress while there is an expiry, completed without one."""
        if "lease_expires_at" not in item:
            return DataRecord(idempotency_key=self._job_id, status=STATUS_CONSTANTS["COMPLETED"])
        self.held_until_s = int(item["lease_expires_at"]["N"])
        return DataRecord(
            idempotency_key=self._job_id,
            status=STATUS_CONSTANTS["INPROGRESS"],
            in_progress_expiry_timestamp=self.held_until_s * 1000,
        )
