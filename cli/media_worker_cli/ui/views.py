"""What the page is sent: jobs, one job, queues and dead letters, as values for JSON."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from media_worker.description import Description, SourceSummary, describe_job, summarize_source
from media_worker.jobs import CANCELLABLE, RETRIABLE, JobStatus
from media_worker.listing import LISTED, Cursor, list_jobs
from media_worker.queues import read_queue_state

from media_worker_cli.dead_letters import DeadLetter, QueuePair, dead_letters_in, describe_reason, find_queue_pairs
from media_worker_cli.errors import UsageError
from media_worker_cli.job_commands import describe_as_json, listed_as_json, segment_as_json

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from media_worker.s3 import StoredObject

    from media_worker_cli.stack import Stack

PAGE_SIZE = 50
_CURSORS_KEPT = 1_000
_RESENDABLE = frozenset({JobStatus.CHUNKING_COMPLETE, JobStatus.FAILED})
# An event of the page: its name and its data.
Event: TypeAlias = tuple[str, Any]


# Jobs -----------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Cursors:
    """Where pages of the listing begin. A cursor can hold many job ids, so the page gets a short name for it."""

    _known: dict[str, Cursor] = field(default_factory=dict)

    def name(self, cursor: Cursor) -> str:
        """The name of a cursor; equal cursors have the same."""
        text = f"{cursor.created_at} {sorted(cursor.listed)}"
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._known[name] = cursor
        while len(self._known) > _CURSORS_KEPT:
            del self._known[next(iter(self._known))]
        return name

    def find(self, name: str | None) -> Cursor | None:
        """The cursor of that name.

        Raises:
            UsageError: the server has been started again since.
        """
        if name and name not in self._known:
            raise UsageError("this page of the list is not known any more: go to the first page")
        return self._known[name] if name else None


@dataclass(frozen=True, slots=True)
class JobsFeed:
    """One page of the list of jobs."""

    cursors: Cursors
    statuses: Sequence[JobStatus] = LISTED
    cursor: str | None = None

    def read(self, stack: "Stack") -> list[Event]:
        """The jobs of the page, newest first."""
        page = list_jobs(stack.aws, self.statuses, limit=PAGE_SIZE, cursor=self.cursors.find(self.cursor))
        following = self.cursors.name(page.cursor) if page.cursor else None
        return [("jobs", {"jobs": [listed_as_json(each) for each in page.jobs], "next": following})]


# One job --------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class JobFeed:
    """One job. After the first time, only the segments that have changed are sent."""

    job_id: str
    _sent: dict[int, Any] = field(default_factory=dict)
    _plan: str | None = None
    # The source that was read last, and what it holds: an object is read once.
    _source: "StoredObject | None" = None
    _summary: SourceSummary | None = None

    def read(self, stack: "Stack") -> list[Event]:
        """The job, with the segments that have changed.

        Raises:
            NoSuchJob: there is no such job.
        """
        described = describe_job(stack.aws, self.job_id)
        if described.source != self._source:
            self._summary = summarize_source(stack.aws, described.source) if described.source else None
            self._source = described.source
        data = job_as_json(described, self._summary)
        segments = {each["index"]: each for each in data.pop("segments")}
        if described.job.plan != self._plan or self._sent.keys() - segments.keys():
            self._sent, self._plan = {}, described.job.plan
        changed = [each for index, each in segments.items() if self._sent.get(index) != each]
        is_first, self._sent = not self._sent, segments
        return [("job", data), *([("segments", {"all": is_first, "segments": changed})] if changed or is_first else [])]


def job_as_json(described: Description, summary: SourceSummary | None) -> dict[str, Any]:
    """Everything about a job, and which operations its status allows."""
    job, row = described.job, described.row
    data = describe_as_json(described, summary)
    data["segments"] = [_without_nones(segment_as_json(each)) for each in described.segments]
    is_cancelled = job.cancelled_at is not None
    return data | {
        "created_at": int(row["created_at"]),
        "total_segments": job.total_segments,
        "source_etag": described.source and described.source.etag,
        "final_etag": described.final and described.final.etag,
        "can": {
            "cancel": job.status in CANCELLABLE and not is_cancelled and job.status is not JobStatus.FAILED,
            "retry": job.status is JobStatus.FAILED,
            "retry_segments": job.status in RETRIABLE and bool(job.total_segments),
            "resend": job.status in _RESENDABLE and not is_cancelled and bool(job.total_segments),
            "delete": job.status is not JobStatus.DELETED,
        },
    }


def _without_nones(data: Mapping[str, Any]) -> dict[str, Any]:
    cleaned = {name: value for name, value in data.items() if value is not None}
    if "attempt" in cleaned:
        cleaned["attempt"] = {name: value for name, value in cleaned["attempt"].items() if value is not None}
    return cleaned


# Queues ---------------------------------------------------------------------------------------------------------------


def read_queues(stack: "Stack") -> list[Event]:
    """The depths of the queues and of their dead-letter queues."""
    return [("queues", [_queue_as_json(stack.aws, pair) for pair in find_queue_pairs(stack)])]


def _queue_as_json(aws: "Aws", pair: QueuePair) -> dict[str, Any]:
    state = read_queue_state(aws, pair.url)
    return {
        "name": pair.name,
        "waiting": state.waiting,
        "in_flight": state.in_flight,
        "dead": read_queue_state(aws, pair.dead_letters_url).messages,
    }


def read_letters(stack: "Stack") -> list[dict[str, Any]]:
    """The messages in the dead-letter queues."""
    with dead_letters_in(stack.aws.sqs, filled_pairs(stack)) as letters:
        return [_letter_as_json(stack.aws, each) for each in letters]


def filled_pairs(stack: "Stack") -> list[QueuePair]:
    """The queues with dead letters. To receive from an empty queue takes a second."""
    pairs = find_queue_pairs(stack)
    return [pair for pair in pairs if not read_queue_state(stack.aws, pair.dead_letters_url).is_empty]


def _letter_as_json(aws: "Aws", letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": letter.message_id,
        "queue": letter.queues.name,
        "job_id": letter.job_id,
        "sent_at": letter.sent_at_s,
        "reason": describe_reason(aws, letter),
        "body": letter.body,
    }


# Feeds ----------------------------------------------------------------------------------------------------------------


def statuses_of(names: Iterable[str]) -> Sequence[JobStatus]:
    """The statuses with these names; all but `deleted` without a name.

    Raises:
        UsageError: there is no such status.
    """
    try:
        return tuple(JobStatus(name) for name in names) or LISTED
    except ValueError as error:
        raise UsageError(str(error)) from error


class Changes:
    """Lets only those events pass that differ from the last one of the same name."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def of(self, name: str, text: str) -> bool:
        """Whether an event differs from the last one of its name."""
        is_new = self._last.get(name) != text
        self._last[name] = text
        return is_new
