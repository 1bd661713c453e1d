"""Chunking: the story of one source, step by step."""

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

from media_worker import jobs
from media_worker.completions import trigger_if_complete
from media_worker.deadline import Context, Deadline
from media_worker.earlier_runs import clear_earlier_runs
from media_worker.engines import open_source
from media_worker.engines.copy import Media
from media_worker.errors import BadPlan, BadSource, NothingToDo
from media_worker.final_delivery import Delivery, Stage, record_failure
from media_worker.jobs import CHUNKING_STATUSES, Job, JobStatus, StatusCheck
from media_worker.keys import build_segment_key, build_segment_prefix
from media_worker.lease import Hold, chunking_lease, run_under_lease
from media_worker.messages import ChunkRequest
from media_worker.mp4 import (
    Layout,
    Mp4Error,
    Presented,
    SplitPlan,
    SplitRule,
    has_audio,
    lay_out,
    only_video,
    plan_split,
    split_at,
)
from media_worker.mp4.reader import PEEK_BYTES
from media_worker.plan import Plan, PlannedCut, PlannedSegment, PlannedSource, find_plan, store_plan
from media_worker.s3 import (
    PARTS_AT_ONCE,
    PLAN,
    StoredObject,
    Target,
    abort_incomplete_uploads,
    describe_with_start,
    write_once,
)
from media_worker.settings import Engine
from media_worker.telemetry import Steps, count, logger, submit
from media_worker.verification import describe_tracks

if TYPE_CHECKING:
    from media_worker.aws import Aws
    from media_worker.byte_ranges import Content

# Segments that are written at the same time.
_SEGMENTS_AT_ONCE = 4
# A segment takes a handful of requests, of which the largest copies half a gigabyte.
_SECONDS_FOR_A_SEGMENT = 60.0


def chunk(aws: "Aws", request: ChunkRequest, context: Context, delivery: Delivery) -> None:
    """Split a job's source into segments and record that on the job. The final delivery only records the failure.

    Raises:
        NothingToDo: the job is unknown, or past chunking.
        PermanentError: the job is `failed`, with this text as its error.
        RetryableError: nothing is lost; the message must be delivered again.
    """
    lease = chunking_lease(aws, request.job_id)
    with jobs.failing_job(aws, request.job_id):
        job = jobs.read_job(aws, request.job_id)
    if job is None:
        raise NothingToDo(f"there is no job {request.job_id}")
    if not job.can_become(JobStatus.CHUNKING_IN_PROGRESS):
        if job.status is JobStatus.CHUNKING_COMPLETE:
            # A chunking that died after its last write may not have requested the reassembly.
            trigger_if_complete(aws, job.job_id)
        raise NothingToDo(f"job {job.job_id} is {job.status}: past chunking")
    if delivery.is_final:
        uploads = (aws.settings.input_bucket_name, build_segment_prefix(job.job_id))
        record_failure(aws, lease, context, delivery, Stage(CHUNKING_STATUSES, uploads))
    run_under_lease(aws, lease, context, partial(_chunk, aws, request, context))
    trigger_if_complete(aws, job.job_id)


def _chunk(aws: "Aws", request: ChunkRequest, context: Context, hold: Hold) -> None:
    """The part under the lease. The job is read from the row that the lease was taken on: it may have moved on since
    it was read before.
    """
    with jobs.failing_job(aws, request.job_id, ends_chunking_lease=True, fence=hold.fence):
        job = Job.from_item(hold.row)
        jobs.begin_chunking(aws, job, hold.fence)
        source = _find_source(aws, request)
        deadline, steps = Deadline(context, hold), Steps()
        stored = find_plan(aws, job, source)
        with open_source(aws, source, _engine_of(aws, job, stored), deadline, steps) as media:
            with steps.step("plan"):
                plan, split = _carry_out(stored, media) if stored else _make_plan(aws, job, source, media)
                layouts = _lay_out(job, media, split)
            hold.require()
            if stored is None:
                store_plan(aws, job.job_id, plan, hold)
            planned = jobs.record_plan(aws, job, plan, hold.fence)
            _log_plan(plan)
            processed = clear_earlier_runs(aws, planned, hold)
            with steps.step("split", source.size_bytes):
                targets = _targets(aws, job, plan, source, processed, hold)
                _write_segments(aws, job, targets, media, layouts, deadline)
        abort_incomplete_uploads(aws, source.bucket, build_segment_prefix(job.job_id), hold.until_s)
        jobs.finish_chunking(aws, job.job_id, steps.report, hold.fence)
    logger.info("Job split", event="job_chunked", total_segments=len(plan.segments))
    count("JobsChunked")
    count("Segments", len(plan.segments))


def _engine_of(aws: "Aws", job: Job, stored: Plan | None) -> Engine:
    """The stored plan's engine, whatever the settings are by now: another one might see other frames."""
    if stored is not None:
        return "ffmpeg" if stored.engine == "remux" else "auto"
    return job.engine or aws.settings.engine


def _make_plan(aws: "Aws", job: Job, source: StoredObject, media: Media) -> tuple[Plan, SplitPlan]:
    rule = _rule_of(aws, job)
    with _as_bad_source():
        if not any(track.is_video and track.table.count for track in media.movie.tracks):
            tracks = ", ".join(describe_tracks(media.movie)) or "none"
            raise BadSource(f"the source has no video track (its tracks: {tracks})")
        split = plan_split(media.movie, rule, media.read, media.read_many, context_frames=job.context_frames)
        presented = split.segments
    first_frames = accumulate((each.frames for each in presented), initial=0)
    contexts = [(each.before, each.after) for each in split.context] or [(0, 0)] * len(presented)
    segments = tuple(
        _planned_segment(index, first, each, context)
        for index, (first, each, context) in enumerate(zip(first_frames, presented, contexts, strict=False))
    )
    notices = (*media.movie.notices, *media.notices, split.notice, _notice(job, media))
    plan = Plan(
        source=PlannedSource(source.key, source.etag, source.size_bytes),
        engine=media.engine,
        segment_duration_s=rule.segment_duration_s,
        timescale=media.movie.tracks[split.main_track].timescale,
        segments=segments,
        notice="; ".join(filter(None, notices)) or None,
        has_audio=has_audio(media.movie),
        context_frames=job.context_frames,
        wanted_segments=rule.segments,
        cut_times=tuple(PlannedCut(each.wanted_s, each.got_s) for each in split.matched_cuts),
        cut_tolerance_s=None if rule.cut_times_s is None else rule.tolerance_s,
        replanned_at=job.replanned_at,
    )
    return plan, split


def _planned_segment(index: int, first_frame: int, presented: Presented, context: tuple[int, int]) -> PlannedSegment:
    times = (presented.start_s, presented.duration_s, presented.longest_frame_s)
    planned = PlannedSegment(index, first_frame, presented.frames, *times, *context)
    return planned if planned.frame_rate else replace(planned, first_frame_s=presented.first_frame_s)


def _rule_of(aws: "Aws", job: Job) -> SplitRule:
    """How the job wants its source to be split. The stack's duration applies if the job's row says nothing."""
    cutting = job.cutting
    duration_s = job.segment_duration_s
    if cutting.needs_duration and duration_s is None:
        duration_s = aws.settings.chunk_segment_duration_sec
        duration_s = min(duration_s, cutting.max_duration_s or duration_s)
    return SplitRule(duration_s, cutting.segments, cutting.times_s, cutting.tolerance_s, cutting.max_duration_s)


def _lay_out(job: Job, media: Media, split: SplitPlan) -> list[Layout]:
    """The segments, with all tracks of the source or with its video only, as the job says.

    Those of a remuxed source keep all tracks: they are the only copy of them that a join can read.
    """
    movie = media.movie
    if job.segment_tracks == "video" and media.engine == "copy":
        movie, split = only_video(movie), split.only_main()
    return [lay_out(movie, split, index) for index in range(split.total_segments)]


def _notice(job: Job, media: Media) -> str | None:
    if job.segment_tracks == "all" or media.engine == "copy":
        return None
    return "the segments have all tracks, not only video: the source had to be remuxed, and its audio is kept in them"


def _carry_out(plan: Plan, media: Media) -> tuple[Plan, SplitPlan]:
    """Cut where the plan says.

    Raises:
        BadPlan: the source cannot be cut there, or its frames are not those that were planned.
    """
    try:
        split = split_at(media.movie, plan.starts_s, media.read, media.read_many, context_frames=plan.context_frames)
    except Mp4Error as error:
        raise BadPlan(f"the plan cannot be carried out: {error}") from error
    for planned, found in zip(plan.segments, split.segments, strict=True):
        if planned.frames != found.frames:
            raise BadPlan(
                f"the plan cannot be carried out: segment {planned.index} has {found.frames} frames, "
                f"{planned.frames} planned"
            )
    return plan, split


@contextmanager
def _as_bad_source() -> Iterator[None]:
    try:
        yield
    except Mp4Error as error:
        raise BadSource(f"the source cannot be split: {error}") from error


def _log_plan(plan: Plan) -> None:
    logger.info("Source planned", event="source_planned", total_segments=len(plan.segments), plan=plan.digest)
    if plan.notice:
        count("Notices")
        logger.warning("Notice for the user", event="notice", notice=plan.notice)


def _targets(
    aws: "Aws", job: Job, plan: Plan, source: StoredObject, processed: Collection[int], hold: Hold
) -> list[Target]:
    """Where the segments go. A segment that exists is kept, unless it is unprocessed and older than the source.

    Who uploads the same source again wants its unprocessed segments to be attempted again, and the messages about them
    are gone. Writing such a segment again announces it again.
    """
    return [
        Target(
            aws.settings.input_bucket_name,
            build_segment_key(job.job_id, segment.index, len(plan.segments), job.mode),
            (PLAN, plan.digest),
            segment.metadata(has_context=plan.context_frames > 0),
            hold=hold,
            not_before=0 if segment.index in processed else source.modified_at,
        )
        for segment in plan.segments
    ]


def _write_segments(
    aws: "Aws", job: Job, targets: Sequence[Target], media: Media, layouts: Sequence[Layout], deadline: Deadline
) -> None:
    """Write a header for each segment and move the media behind it. Existing segments are kept.

    Raises:
        JobMoved: the job was cancelled or deleted meanwhile.
    """
    status = StatusCheck(aws, job.job_id, JobStatus.CHUNKING_IN_PROGRESS)

    def write(index: int) -> None:
        status.require()
        deadline.require(_SECONDS_FOR_A_SEGMENT, f"write segment {index}")
        target = targets[index]
        contents: list[Content] = [layouts[index].header, *layouts[index].ranges]
        # Only a retry can find the segment of an earlier attempt.
        is_retry = (PLAN, job.plan) == target.identity
        written = write_once(aws, target, contents, [media.source], look_first=is_retry, pool=part_pool)
        if written:
            logger.info("Segment written", event="segment_written", key=target.key)
        else:
            logger.info("Segment exists already", event="segment_present", key=target.key)

    with ThreadPoolExecutor(PARTS_AT_ONCE) as part_pool:
        # The first one alone: it shares the bandwidth with no other segment, so its worker starts early.
        write(0)
        # The pools keep the order of the others.
        pool = ThreadPoolExecutor(_SEGMENTS_AT_ONCE)
        try:
            for written in [submit(pool, write, index) for index in range(1, len(layouts))]:
                written.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _find_source(aws: "Aws", request: ChunkRequest) -> StoredObject:
    source = describe_with_start(aws, request.bucket, request.key, PEEK_BYTES)
    if source is None:
        raise BadSource(f"the source does not exist: s3://{request.bucket}/{request.key}")
    if source.size_bytes == 0:
        raise BadSource("the source is empty (0 bytes)")
    return source
