"""The lock that survives a crash: a lease on a job, kept in a row that the job has anyway.

Powertools' idempotency drives it, with a persistence store of our own
(https://docs.powertools.aws.dev/lambda/python/latest/utilities/idempotency/#bring-your-own-persistent-store).
These parts of Powertools' contract are used:

    _put_record       before the work: take the lease if it is free or has expired
    _get_record       the lease was refused: whose is it, and until when
    _delete_record    the work raised: release the lease
    _update_record    the work is done: the row says so
    (process killed)  no call: the lease expires, and the next delivery takes it

Powertools' cache, payload validation, response replay and record expiry are not used. Only the holder writes: a
holder whose lease was taken over can neither release nor complete its successor's.
"""

import math
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aws_lambda_powertools.utilities.idempotency import IdempotencyConfig, idempotent_function
from aws_lambda_powertools.utilities.idempotency.exceptions import (
    IdempotencyAlreadyInProgressError,
    IdempotencyItemAlreadyExistsError,
    IdempotencyItemNotFoundError,
)
from aws_lambda_powertools.utilities.idempotency.persistence.base import BasePersistenceLayer
from aws_lambda_powertools.utilities.idempotency.persistence.datarecord import STATUS_CONSTANTS, DataRecord

from media_worker.completions import TRIGGER_TTL_S
from media_worker.errors import LeaseHeld
from media_worker.jobs import CHUNKING_STARTED_AT, now_s
from media_worker.telemetry import logger

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from media_worker.deadline import Context


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease on one job: the row that it lives in, and what that row says during the work and after it."""

    table_name: str
    job_id: str
    # Present from the start of the work until its end.
    started_attribute: str
    # Written when the work is done. None: the job's status says so.
    completed_attribute: str | None = None
    # Attributes that a row needs, for a lease that may have to create it. None: the row must exist.
    created_with: Mapping[str, int] | None = None

    @property
    def key(self) -> dict[str, Any]:
        """Table and key as request parameters."""
        return {"TableName": self.table_name, "Key": {"job_id": {"S": self.job_id}}}


def chunking_lease(aws: "Aws", job_id: str) -> Lease:
    """The lease of a chunking, in the job's own row."""
    return Lease(aws.settings.jobs_table_name, job_id, CHUNKING_STARTED_AT)


def reassembly_lease(aws: "Aws", job_id: str) -> Lease:
    """The lease of a reassembly, in ReassemblyTriggered. A message sent by hand finds no row there yet."""
    now = now_s()
    return Lease(
        aws.settings.reassembly_triggered_table_name,
        job_id,
        "reassembly_started_at",
        completed_attribute="reassembly_completed_at",
        created_with={"triggered_at": now, "ttl": now + TRIGGER_TTL_S},
    )


def run_under_lease(aws: "Aws", lease: Lease, context: "Context", work: Callable[[], None]) -> None:
    """Do the work while holding the lease; do nothing when it is completed already.

    Raises:
        LeaseHeld: somebody else holds the lease; says when it expires.
    """
    store = LeaseStore(aws, lease)
    config = IdempotencyConfig(lambda_context=context)  # type: ignore[arg-type]  # our Protocol is the part it uses

    @idempotent_function(data_keyword_argument="job_id", persistence_store=store, config=config)  # type: ignore[untyped-decorator]
    def leased(*, job_id: str) -> None:  # noqa: ARG001  # Powertools makes its key from it
        work()

    try:
        leased(job_id=lease.job_id)
    except IdempotencyAlreadyInProgressError as error:
        raise LeaseHeld(lease.job_id, max(1, store.held_until_s - now_s() + 1)) from error


def attempts_made(aws: "Aws", lease: Lease) -> int:
    """How often the lease was taken since the work was last done."""
    row = aws.dynamodb.get_item(**lease.key, ConsistentRead=True).get("Item", {})
    return int(row.get("lease_attempts", {}).get("N", "0"))


@dataclass
class LeaseStore(BasePersistenceLayer):
    """Powertools' persistence layer on one job's row."""

    aws: "Aws"
    lease: Lease
    held_until_s: int = field(default=0, init=False)
    _holder: str = field(default_factory=lambda: str(uuid.uuid4()), init=False)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def _put_record(self, data_record: DataRecord) -> None:
        """Take the lease if it is free or has expired."""
        if data_record.in_progress_expiry_timestamp is None:
            raise ValueError("a lease needs an end: the Lambda context is not registered")
        lease = self.lease
        sets = {
            lease.started_attribute: now_s(),
            "lease_expires_at": math.ceil(data_record.in_progress_expiry_timestamp / 1000),
        }
        created_with = lease.created_with or {}
        assignments = [f"{name} = :{name}" for name in sets]
        assignments += [f"#{name} = if_not_exists(#{name}, :{name})" for name in created_with]
        # The same holder may take it again: the SDK repeats a call whose answer was lost.
        condition = f"(attribute_not_exists({lease.started_attribute}) OR lease_expires_at <= :now"
        condition += " OR lease_holder = :holder"
        if lease.completed_attribute:
            # A row that another implementation left without an end: it has died.
            condition += (
                f" OR attribute_not_exists(lease_expires_at) AND attribute_not_exists({lease.completed_attribute})"
            )
        condition += ")"
        if lease.created_with is None:
            condition += " AND attribute_exists(job_id)"
        numbers = {**sets, **created_with, "now": now_s(), "one": 1}
        names: dict[str, Any] = {"ExpressionAttributeNames": {f"#{name}": name for name in created_with}}
        try:
            answer = self.aws.dynamodb.update_item(
                **lease.key,
                UpdateExpression="SET lease_holder = :holder, " + ", ".join(assignments) + " ADD lease_attempts :one",
                ConditionExpression=condition,
                ExpressionAttributeValues={
                    ":holder": {"S": self._holder},
                    **{f":{name}": {"N": str(number)} for name, number in numbers.items()},
                },
                ReturnValues="ALL_OLD",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
                **(names if created_with else {}),
            )
        except self.aws.dynamodb.exceptions.ConditionalCheckFailedException as error:
            item: Mapping[str, Any] = error.response.get("Item", {})  # type: ignore[assignment]
            raise IdempotencyItemAlreadyExistsError(old_data_record=self._record(item) if item else None) from error
        self._log_takeover(answer.get("Attributes", {}))

    def _log_takeover(self, before: Mapping[str, Any]) -> None:
        if self.lease.started_attribute not in before or before.get("lease_holder") == {"S": self._holder}:
            return
        reason = "it had expired" if "lease_expires_at" in before else f"{self.lease.started_attribute} had no lease"
        logger.warning("Lease taken over", event="lease_taken_over", reason=reason)

    def _get_record(self, idempotency_key: str) -> DataRecord:  # noqa: ARG002  # the row's key is the job's id
        """Read the lease that was refused."""
        item = self.aws.dynamodb.get_item(**self.lease.key, ConsistentRead=True).get("Item", {})
        if self.lease.started_attribute not in item:
            raise IdempotencyItemNotFoundError
        return self._record(item)

    def _update_record(self, data_record: DataRecord) -> None:  # noqa: ARG002  # the response is not kept
        """The work is done: the row says so, and the lease ends."""
        if completed := self.lease.completed_attribute:
            self._write_as_holder(f"SET {completed} = :now REMOVE lease_holder, lease_expires_at, lease_attempts")
        else:
            # The write of the job's status has usually removed it; work that found nothing to do wrote no status.
            self._release()

    def _delete_record(self, data_record: DataRecord) -> None:  # noqa: ARG002
        """The work raised: the next delivery may begin at once."""
        try:
            self._release()
        except Exception:  # noqa: BLE001  # Powertools would raise it in place of the work's own error
            logger.exception("Lease not released: it will expire", event="lease_not_released")

    def _release(self) -> None:
        self._write_as_holder(f"REMOVE lease_holder, lease_expires_at, {self.lease.started_attribute}")

    def _write_as_holder(self, update: str) -> None:
        values = {":holder": {"S": self._holder}}
        if ":now" in update:
            values[":now"] = {"N": str(now_s())}
        try:
            self.aws.dynamodb.update_item(
                **self.lease.key,
                UpdateExpression=update,
                ConditionExpression="lease_holder = :holder",
                ExpressionAttributeValues=values,
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
            )
        except self.aws.dynamodb.exceptions.ConditionalCheckFailedException as error:
            item: Mapping[str, Any] = error.response.get("Item", {})  # type: ignore[assignment]
            if "lease_holder" in item:
                logger.warning("Lease had expired and was taken over", event="lease_lost", lease_holder=self._holder)

    def _record(self, item: Mapping[str, Any]) -> DataRecord:
        """A row as Powertools sees it: in progress while it has an expiry, completed without one."""
        if "lease_expires_at" not in item:
            return DataRecord(idempotency_key=self.lease.job_id, status=STATUS_CONSTANTS["COMPLETED"])
        self.held_until_s = int(item["lease_expires_at"]["N"])
        return DataRecord(
            idempotency_key=self.lease.job_id,
            status=STATUS_CONSTANTS["INPROGRESS"],
            in_progress_expiry_timestamp=self.held_until_s * 1000,
        )
