"""Reassembly: the story of one job, step by step."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from media_worker import jobs
from media_worker.byte_ranges import Content, TooManyParts
from media_worker.completions import Completion, current_completions, describe_gaps
from media_worker.deadline import Context, Deadline
from media_worker.engines import open_segments
from media_worker.errors import BadFinal, BadSegment, JobMoved, NothingToDo, NotReady, TransferFailed
from media_worker.final_delivery import Delivery, Stage, record_failure
from media_worker.jobs import REASSEMBLY_STATUSES, Job, JobStatus
from media_worker.keys import build_final_key
from media_worker.lease import Hold, reassembly_lease, run_under_lease
from media_worker.messages import ReassemblyRequest
from media_worker.mp4 import (
    Layout,
    Movie,
    Mp4Error,
    Presented,
    TracksDiffer,
    own_part,
    plan_join,
    plan_source_join,
    presented_video,
    read_movie,
    with_late_starts,
)
from media_worker.plan import Plan, read_plan
from media_worker.s3 import (
    PLAN,
    SOURCE_ETAG,
    StoredObject,
    Target,
    abort_incomplete_uploads,
    describe,
    has_identity,
    let_expire,
    read_range,
    write_once,
)
from media_worker.settings import Tracks
from media_worker.source_audio import OpenedSource, open_source_tracks, wanted_tracks
from media_worker.telemetry import Steps, count, logger
from media_worker.verification import Expected, check_durations, check_final, check_segments, describe_tracks

if TYPE_CHECKING:
    from media_worker.aws import Aws


_HEADS_AT_ONCE = 16
_PROBLEMS_LISTED = 10
_SECONDS_FOR_A_FINAL = 60.0

# Metadata of a final: what it must hold, and which versions of the processed segments it was joined from.
_EXPECTED = "expected"
_SEGMENTS = "segments"
# Where its audio and other tracks come from: `source` or `segments`.
_TRACKS = "tracks"


def reassemble(aws: "Aws", request: ReassemblyRequest, context: Context, delivery: Delivery) -> None:
    """Join a job's processed segments into its final and record that on the job. The final delivery only records the
    failure.

    Raises:
        NothingToDo: the job is unknown, deleted or completed.
        PermanentError: the job is `failed`, with this text as its error.
        RetryableError: nothing is lost; the message must be delivered again.
    """
    lease = reassembly_lease(aws, request.job_id)
    if delivery.is_final:
        uploads = (aws.settings.output_bucket_name, build_final_key(request.job_id))
        record_failure(aws, lease, context, delivery, Stage(REASSEMBLY_STATUSES, uploads))
    run_under_lease(aws, lease, context, partial(_reassemble, aws, request, context))


def _reassemble(aws: "Aws", request: ReassemblyRequest, context: Context, hold: Hold) -> None:
    """The part under the lease."""
    with jobs.failing_job(aws, request.job_id, fence=hold.fence):
        job = jobs.read_job(aws, request.job_id)
        if job is None:
            raise NothingToDo(f"there is no job {request.job_id}")
        if not job.can_become(JobStatus.REASSEMBLING):
            raise NothingToDo(f"job {job.job_id} is {job.status}: there is nothing to join")
        steps = Steps()
        final = _verified_final(aws, job, Deadline(context, hold), hold, steps)
        abort_incomplete_uploads(aws, final.bucket, final.key, hold.until_s)
        with _expiring_if_deleted(aws, job):
            tracks_used = final.metadata.get(_TRACKS, "segments")
            jobs.finish_reassembly(aws, job.job_id, steps.report, tracks_used, hold.fence)
    count("JobsCompleted")
    logger.info("Job completed", event="job_completed", key=final.key, bytes=final.size_bytes)


def _verified_final(aws: "Aws", job: Job, deadline: Deadline, hold: Hold, steps: Steps) -> StoredObject:
    """The job's final, verified: the one that an earlier attempt wrote, if it is good, else a new one.

    Raises:
        BadFinal: the new final does not hold what it must.
    """
    existing = _describe_final(aws, job)
    try:
        segments = _find_segments(aws, job, _complete_set(aws, job))
    except (NotReady, BadSegment):
        if existing is None or job.segments_retried_at:
            raise
        segments = []  # expired since the final was written
    jobs.begin_reassembly(aws, job.job_id, hold.fence)
    if existing and _is_good(aws, job, existing, segments, steps):
        logger.info("Final of an earlier attempt is good", event="final_present")
        return existing
    _write_final(aws, job, segments, existing, deadline, steps)
    if (final := _describe_final(aws, job)) is None:
        raise TransferFailed("the final was written, but S3 does not have it")
    _verify(aws, final, steps)
    return final


def _is_good(aws: "Aws", job: Job, final: StoredObject, segments: Sequence[StoredObject], steps: Steps) -> bool:
    """Whether an earlier attempt's final holds what it must, and was joined from the segments as they are now."""
    if segments and final.metadata.get(_SEGMENTS) != _digest_of(segments, wanted_tracks(aws, job)):
        logger.warning("Segments were replaced since the final was written", event="final_rejected")
        return False
    try:
        _verify(aws, final, steps)
    except BadFinal as error:
        if not segments:
            raise
        logger.warning("Replacing a bad final", event="final_rejected", reason=str(error))
        return False
    return True


def _verify(aws: "Aws", final: StoredObject, steps: Steps) -> None:
    """Read a final's index back and compare it with what it must hold."""
    with steps.step("verify"):
        try:
            movie = read_movie(partial(read_range, aws, final), final.size_bytes)
        except Mp4Error as error:
            raise BadFinal(f"the final cannot be read back: {error}") from error
        check_final(Expected.parse(final.metadata.get(_EXPECTED)), movie)


def _write_final(
    aws: "Aws",
    job: Job,
    segments: Sequence[StoredObject],
    replaced: StoredObject | None,
    deadline: Deadline,
    steps: Steps,
) -> None:
    """Compare the processed segments with the plan, join them, and write the final."""
    plan = read_plan(aws, job) if job.plan else None
    with open_segments(aws, segments, job.engine or aws.settings.engine, deadline, steps) as opened:
        movies = [_with_late_starts(plan, index, media.movie) for index, media in enumerate(opened)]
        source = open_source_tracks(aws, job, plan, movies)
        with _as_bad_segment():
            layout, expected = _plan_final(job, plan, movies, source)
        described = {
            _EXPECTED: expected.to_json(),
            _SEGMENTS: _digest_of(segments, wanted_tracks(aws, job)),
            _TRACKS: "source" if source else "segments",
        }
        key, replaces = build_final_key(job.job_id), replaced.etag if replaced else None
        target = Target(aws.settings.output_bucket_name, key, _identity(job), described, replaces, deadline.hold)
        deadline.require(_SECONDS_FOR_A_FINAL, "write the final")
        with steps.step("join", layout.size_bytes), _as_bad_segment():
            contents: list[Content] = [layout.header, *layout.ranges]
            sources = [*(media.source for media in opened), *(source.objects if source else ())]
            write_once(aws, target, contents, sources)


def _plan_final(
    job: Job, plan: Plan | None, movies: Sequence[Movie], source: OpenedSource | None
) -> tuple[Layout, Expected]:
    """The final, and what must be found in it. With `frame_check: any`, segments may have other frames than planned.

    Audio from the source needs segments of the planned durations in any case.
    """
    presented = [_presented(plan, index, movie) for index, movie in enumerate(movies)]
    checked = plan if job.frame_check == "auto" else None
    multiple = check_segments(checked, presented) if checked else None
    if plan is None or source is None:
        layout = plan_join(movies, plan.starts_s if plan else None)
        return layout, Expected.of(checked, movies, presented, multiple)
    check_durations(plan, presented)
    layout = plan_source_join(movies, source.tracks, plan.starts_s)
    return layout, Expected.of(plan, movies, presented, multiple, source=source.tracks.movie)


def _with_late_starts(plan: Plan | None, index: int, movie: Movie) -> Movie:
    """A processed segment without first samples that last too long."""
    planned = plan.segments[index] if plan else None
    if planned is None or (planned.frame_rate is None and planned.first_frame_s is None):
        return with_late_starts(movie, None, None)
    return with_late_starts(movie, planned.duration_s, planned.first_frame_s)


def _presented(plan: Plan | None, index: int, movie: Movie) -> Presented:
    """What a processed segment presents. A worker that only copies samples may present post-roll: it does not count."""
    is_followed = plan is not None and index + 1 < len(plan.segments)
    try:
        return presented_video(own_part(movie), plan.segments[index].duration_s if plan and is_followed else None)
    except Mp4Error as error:
        tracks = ", ".join(describe_tracks(movie)) or "none"
        raise BadSegment(f"segment {index} cannot be joined: {error} (its tracks: {tracks})") from error


@contextmanager
def _as_bad_segment() -> Iterator[None]:
    try:
        yield
    except TracksDiffer as error:
        raise BadSegment(str(error)) from error
    except (Mp4Error, TooManyParts) as error:
        raise BadSegment(f"the segments cannot be joined: {error}") from error


def _identity(job: Job) -> tuple[str, str]:
    """What the final is made from: the plan, or the source for a job that other software planned."""
    return (PLAN, job.plan) if job.plan else (SOURCE_ETAG, job.source_etag or "")


def _digest_of(segments: Sequence[StoredObject], tracks: Tracks) -> str:
    """Names these versions of the processed segments, and which tracks were asked for."""
    return hashlib.sha256(" ".join([*(segment.etag for segment in segments), tracks]).encode()).hexdigest()[:32]


@contextmanager
def _expiring_if_deleted(aws: "Aws", job: Job) -> Iterator[None]:
    """If the job was deleted while its final was being written, have the final expire: nothing else removes it."""
    try:
        yield
    except JobMoved:
        found = jobs.read_job(aws, job.job_id)
        if found is not None and found.status is JobStatus.DELETED:
            let_expire(aws, aws.settings.output_bucket_name, build_final_key(job.job_id))
            logger.info("Job was deleted: its final will expire", event="final_expires")
        raise


def _describe_final(aws: "Aws", job: Job) -> StoredObject | None:
    """The final of exactly this plan, if an earlier attempt wrote it. One of another plan does not count."""
    final = describe(aws, aws.settings.output_bucket_name, build_final_key(job.job_id))
    return final if final and has_identity(final, _identity(job)) else None


def _complete_set(aws: "Aws", job: Job) -> list[Completion]:
    """The completions of all segments, in order.

    Raises:
        NotReady: they are not exactly 0..total-1; says which are missing.
    """
    if job.total_segments is None:
        raise NotReady(f"job {job.job_id} has no total_segments yet: its source has not been planned")
    completions = current_completions(aws, job)
    if gaps := describe_gaps([completion.segment_index for completion in completions], job.total_segments):
        raise NotReady(f"job {job.job_id} cannot be joined: {gaps}")
    return completions


def _find_segments(aws: "Aws", job: Job, completions: Sequence[Completion]) -> list[StoredObject]:
    """The processed segments as S3 describes them.

    Raises:
        BadSegment: some are missing, were processed for another plan, or their completions name another location.
    """

    def find(completion: Completion) -> StoredObject | str:
        bucket, key = completion.location(job.job_id, aws.settings.output_bucket_name)
        segment = describe(aws, bucket, key)
        if segment is None:
            return f"segment {completion.segment_index} was completed, but {completion.output_s3_uri} does not exist"
        if segment.metadata.get(PLAN, job.plan) != job.plan:
            return f"segment {completion.segment_index} was overwritten by one of another plan: process it again"
        return segment

    with ThreadPoolExecutor(_HEADS_AT_ONCE) as pool:
        found = list(pool.map(find, completions))
    if problems := [each for each in found if isinstance(each, str)]:
        raise BadSegment("; ".join(problems[:_PROBLEMS_LISTED]))
    return [each for each in found if isinstance(each, StoredObject)]
