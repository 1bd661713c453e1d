"""The lock that survives a crash: a lease on a job, kept in a row that the job has anyway.

Powertools' idempotency drives it, with a persistence store of our own
(https://docs.powertools.aws.dev/lambda/python/latest/utilities/idempotency/#bring-your-own-persistent-store).
These parts of Powertools' contract are used:

    _put_record       before the work: take the lease if it is free or has expired
    _get_record       the lease was refused: whose is it, and until when
    _delete_record    the work raised: release the lease
    _update_record    the work is done: the row says so
    (process killed)  no call: the lease expires, and the next delivery takes it

Powertools' cache, payload validation, response replay and record expiry are not used, nor is the expiry that it
derives from the invocation's remaining time: our lease is short, and a heartbeat renews it while the work goes on.

Only the holder writes. A holder whose lease was taken over can neither release nor complete its successor's, nor write
the job's row (`Hold.fence`), and stops before its next step (`Hold.require`).
"""

import time
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

from media_worker.best_effort import best_effort
from media_worker.completions import TRIGGER_TTL_S
from media_worker.errors import LeaseHeld, LeaseLost
from media_worker.heartbeat import Heartbeat
from media_worker.jobs import CHUNKING_STARTED_AT, Fence, chunking_fence, now_s, reassembly_fence
from media_worker.telemetry import logger

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from media_worker.deadline import Context


# After a crash, the next delivery takes the lease when it has expired.
LEASE_S = 120
# Three renewals may fail before the lease expires.
HEARTBEAT_S = 30.0
# A lease that is about to expire does not count as held: the next step would outlive it.
_MARGIN_S = 5


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


class Hold:
    """A lease that this process has taken: what the work needs to know of it."""

    def __init__(self, aws: "Aws", lease: Lease) -> None:
        self._aws = aws
        self._lease = lease
        self._is_lost = False
        self.holder = str(uuid.uuid4())
        # The row just before the lease was taken, in DynamoDB's typed form.
        self.row: Mapping[str, Any] = {}
        # Unix seconds: when the lease was taken, and when it expires unless it is renewed.
        self.taken_at = 0
        self.until_s = 0

    @property
    def fence(self) -> Fence:
        """The condition on which the work may write the job's row."""
        if self._lease.table_name == self._aws.settings.jobs_table_name:
            return chunking_fence(self.holder)
        return reassembly_fence(self.taken_at)

    @property
    def is_lost(self) -> bool:
        """Whether the lease was taken over or has expired. After a pause, the clock knows before the heartbeat does."""
        return self._is_lost or time.time() >= self.until_s - _MARGIN_S

    def require(self) -> None:
        """Stop before a step that another invocation may be doing.

        Raises:
            LeaseLost: the lease was taken over or has expired.
        """
        if self.is_lost:
            raise LeaseLost(f"the lease on job {self._lease.job_id} was not renewed in time")

    def take(self, now: int, row: Mapping[str, Any]) -> None:
        """The lease was taken by a request that was sent at this time and found this row."""
        self.row = row
        self.taken_at, self.until_s, self._is_lost = now, now + LEASE_S, False

    def renew(self) -> bool:
        """Extend the lease. Returns False when it is not ours any more."""
        until_s = now_s() + LEASE_S
        with best_effort("Lease not renewed: trying again", "lease_not_renewed") as outcome:
            try:
                self._aws.dynamodb.update_item(
                    **self._lease.key,
                    UpdateExpression="SET lease_expires_at = :until",
                    ConditionExpression="lease_holder = :holder",
                    ExpressionAttributeValues={":holder": {"S": self.holder}, ":until": {"N": str(until_s)}},
                    ReturnValuesOnConditionCheckFailure="ALL_OLD",
                )
            except self._aws.dynamodb.exceptions.ConditionalCheckFailedException as error:
                self._is_lost = True
                log_loss(self.holder, error)
                return False
        if outcome.code is None:
            self.until_s = until_s
        return True


def run_under_lease(aws: "Aws", lease: Lease, context: "Context", work: Callable[[Hold], None]) -> None:
    """Do the work while holding the lease; do nothing when it is completed already.

    Raises:
        LeaseHeld: another invocation holds the lease; says when it expires.
        LeaseLost: the lease was taken over during the work, or the work failed after the lease had expired.
    """
    store = LeaseStore(aws, lease)
    config = IdempotencyConfig(lambda_context=context)  # type: ignore[arg-type]  # our Protocol is the part it uses

    @idempotent_function(data_keyword_argument="job_id", persistence_store=store, config=config)  # type: ignore[untyped-decorator]
    def leased(*, job_id: str) -> None:
        try:
            with Heartbeat(HEARTBEAT_S, store.hold.renew):
                work(store.hold)
        except LeaseLost:
            raise
        except Exception as error:
            # Whatever went wrong, another invocation has the job now.
            if store.hold.is_lost:
                raise LeaseLost(f"the work on job {job_id} failed after its lease was lost: {error}") from error
            raise

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
    hold: Hold = field(init=False)
    # Unix seconds at which the other invocation's lease expires.
    held_until_s: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.hold = Hold(self.aws, self.lease)

    def _put_record(self, data_record: DataRecord) -> None:  # noqa: ARG002  # the row's key is the job's id
        """Take the lease if it is free or has expired."""
        lease, now = self.lease, now_s()
        sets = {lease.started_attribute: now, "lease_expires_at": now + LEASE_S}
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
        numbers = {**sets, **created_with, "now": now, "one": 1}
        names: dict[str, Any] = {"ExpressionAttributeNames": {f"#{name}": name for name in created_with}}
        try:
            answer = self.aws.dynamodb.update_item(
                **lease.key,
                UpdateExpression="SET lease_holder = :holder, " + ", ".join(assignments) + " ADD lease_attempts :one",
                ConditionExpression=condition,
                ExpressionAttributeValues={
                    ":holder": {"S": self.hold.holder},
                    **{f":{name}": {"N": str(number)} for name, number in numbers.items()},
                },
                ReturnValues="ALL_OLD",
                ReturnValuesOnConditionCheckFailure="ALL_OLD",
                **(names if created_with else {}),
            )
        except self.aws.dynamodb.exceptions.ConditionalCheckFailedException as error:
            item: Mapping[str, Any] = error.response.get("Item", {})  # type: ignore[assignment]
            raise IdempotencyItemAlreadyExistsError(old_data_record=self._record(item) if item else None) from error
        self.hold.take(now, answer.get("Attributes", {}))
        self._log_takeover(self.hold.row)

    def _log_takeover(self, before: Mapping[str, Any]) -> None:
        if self.lease.started_attribute not in before or before.get("lease_holder") == {"S": self.hold.holder}:
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
        values = {":holder": {"S": self.hold.holder}}
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
            log_loss(self.hold.holder, error)

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


def log_loss(holder: str, error: Any) -> None:
    """Log why a holder's write was refused. A row without a holder is no loss: the work's last write ends the lease."""
    if "lease_holder" in error.response.get("Item", {}):
        logger.warning("Lease had expired and was taken over", event="lease_lost", lease_holder=holder)
