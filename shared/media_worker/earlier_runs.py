"""Rows that earlier runs of a job have left: deleted before a new run writes its first segment.

Our own code ignores such rows. Another team's tracker may count completions without knowing plans, and create the
row of ReassemblyTriggered only if there is none: a row that is left makes it request the join too early, or never.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from media_worker.best_effort import Outcome, best_effort
from media_worker.completions import read_completions, read_trigger
from media_worker.errors import TransferFailed
from media_worker.jobs import Job, now_s

if TYPE_CHECKING:
    from collections.abc import Sequence

    from media_worker.aws import Aws
    from media_worker.lease import Hold

_DELETES_AT_ONCE = 16


def clear_earlier_runs(aws: "Aws", job: Job, hold: "Hold") -> frozenset[int]:
    """Delete the completions of other plans, and the trigger of an earlier run. Returns the indexes of the segments
    that are processed for the present plan.

    Every delete has a condition, so a row that was replaced meanwhile stays, and the call can be repeated. Without the
    right to delete, the rows stay, which is logged once.

    Raises:
        LeaseLost: another invocation has taken over the lease.
        TransferFailed: DynamoDB did not delete a row.
    """
    completions = read_completions(aws, job.job_id)
    processed = frozenset(each.segment_index for each in completions if each.counts_for(job))
    _delete_completions(aws, job, [each.segment_index for each in completions if not each.counts_for(job)], hold)
    hold.require()
    delete_earlier_trigger(aws, job)
    return processed


def delete_earlier_trigger(aws: "Aws", job: Job) -> None:
    """Delete the row of ReassemblyTriggered if it belongs to an earlier run and no join holds its lease.

    Raises:
        TransferFailed: DynamoDB did not delete it.
    """
    if not read_trigger(aws, job.job_id):
        return
    message = "Trigger of an earlier run not deleted: a tracker of your own cannot create its row"
    with best_effort(message, "earlier_trigger_not_deleted", job_id=job.job_id) as outcome:
        _delete(
            aws,
            aws.settings.reassembly_triggered_table_name,
            {"job_id": {"S": job.job_id}},
            # A row written by another tracker does not name its run; its time tells.
            ConditionExpression="(run_started_at < :run OR attribute_not_exists(run_started_at) AND triggered_at < "
            ":run) AND (attribute_not_exists(lease_expires_at) OR lease_expires_at <= :now)",
            ExpressionAttributeValues={":run": {"N": str(job.run_started_at or 0)}, ":now": {"N": str(now_s())}},
        )
    _require_done(outcome, f"the trigger of an earlier run of job {job.job_id}")


def _delete_completions(aws: "Aws", job: Job, indexes: "Sequence[int]", hold: "Hold") -> None:
    """The conditions say again what `Completion.counts_for` says: a worker may have replaced the row since."""
    condition, values = "#plan <> :plan AND attribute_exists(#plan)", {":plan": {"S": job.plan or ""}}
    if job.replanned_at is not None:
        condition += " OR attribute_not_exists(#plan) AND NOT completed_at >= :replanned"
        values[":replanned"] = {"N": str(job.replanned_at)}

    def delete(index: int) -> None:
        hold.require()
        _delete(
            aws,
            aws.settings.segment_completions_table_name,
            {"job_id": {"S": job.job_id}, "segment_index": {"N": str(index)}},
            ConditionExpression=condition,
            ExpressionAttributeNames={"#plan": "plan"},
            ExpressionAttributeValues=values,
        )

    message = "Completions of a replaced plan not deleted: a tracker that counts rows counts them"
    with (
        best_effort(message, "earlier_completions_not_deleted", job_id=job.job_id) as outcome,
        ThreadPoolExecutor(_DELETES_AT_ONCE) as pool,
    ):
        list(pool.map(delete, indexes))  # after an error, those that have not begun are cancelled
    _require_done(outcome, f"completions of a replaced plan of job {job.job_id}")


def _delete(aws: "Aws", table: str, key: dict[str, Any], **condition: Any) -> None:
    try:
        aws.dynamodb.delete_item(TableName=table, Key=key, **condition)
    except aws.dynamodb.exceptions.ConditionalCheckFailedException:
        return  # it belongs to the present run by now


def _require_done(outcome: Outcome, what: str) -> None:
    """A missing right is missing on the next attempt too; other errors may pass."""
    if outcome.code and not outcome.is_denied:
        raise TransferFailed(f"{what} could not be deleted: {outcome.code}")
