"""Bad input: what the handlers do with each kind of it, and the error that they report."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from media_worker.jobs import JobStatus
from media_worker.keys import build_final_key, build_output_segment_key, build_source_key

from tests.functional.conftest import ClipMaker
from tests.functional.logs import Logs
from tests.functional.stack import INPUT, OUTPUT, Stack, s3_event
from tests.media.clips import ffmpeg

if TYPE_CHECKING:
    from collections.abc import Callable

EVENTS = Path(__file__).parents[2] / "events"


def body_of(event: str) -> str:
    """The body of an event in `events/`, with the bucket of the tests."""
    body: str = json.loads((EVENTS / event).read_text())["Records"][0]["body"]
    return body.replace("media-worker-input", INPUT)


def has_final(stack: Stack, job_id: str = "job-1") -> bool:
    listing = stack.aws.s3.list_objects_v2(Bucket=OUTPUT, Prefix=build_final_key(job_id))
    return listing["KeyCount"] > 0


# Messages


@pytest.mark.parametrize("body", ["not json", "[]", "{}", '{"Records": "none"}', '{"hello": "world"}'])
@pytest.mark.parametrize("function", ["chunking", "reassembly"])
def test_a_malformed_message_is_returned_alone(
    stack: Stack, logs: Logs, clip: ClipMaker, function: str, body: str
) -> None:
    """A malformed message is returned without a delay until the redrive policy moves it; the log shows its body."""
    handler: Callable[..., Any] = getattr(stack, function)
    harmless = s3_event("elsewhere.mp4") if function == "chunking" else {"job_id": "unknown"}
    assert stack.deliver(handler, harmless, body, harmless) == ["message-1"]

    line = logs.one("record_returned")
    assert line["message_id"] == "message-1"
    assert line["failure"] == "MessageError"
    assert line["delay_s"] == 0
    assert body in line["reason"]
    assert line["level"] == "WARNING"


def test_the_test_event_is_acknowledged(stack: Stack, logs: Logs) -> None:
    """The test event that S3 sends when a notification is configured is ignored."""
    assert stack.deliver(stack.chunking, body_of("s3_test_event.json")) == []
    assert logs.one("record_ignored")["reason"] == "s3:TestEvent"


@pytest.mark.parametrize("key", ["input/job-1/other.mp4", "segments/job-1/00000_00001_sbs.mp4", "source.mp4"])
def test_a_foreign_key_is_acknowledged(stack: Stack, logs: Logs, key: str) -> None:
    """A key other than input/{job_id}/source.mp4 is not a source."""
    stack.add_job()
    assert stack.deliver(stack.chunking, s3_event(key)) == []
    assert key in logs.one("record_ignored")["reason"]
    assert stack.job().status is JobStatus.CREATED


def test_another_bucket_is_acknowledged(stack: Stack, logs: Logs) -> None:
    """An event of another bucket is ignored."""
    stack.add_job()
    assert stack.deliver(stack.chunking, s3_event(build_source_key("job-1"), bucket="other")) == []
    assert "'other'" in logs.one("record_ignored")["reason"]
    assert stack.job().status is JobStatus.CREATED


# Jobs


@pytest.mark.parametrize("function", ["chunking", "reassembly"])
def test_an_unknown_job_is_acknowledged(stack: Stack, logs: Logs, function: str) -> None:
    """A message for an unknown job creates no row."""
    body = s3_event(build_source_key("job-1")) if function == "chunking" else {"job_id": "job-1"}
    assert stack.deliver(getattr(stack, function), body) == []
    assert logs.one("nothing_to_do")["job_id"] == "job-1"
    assert stack.row("Jobs") == {}


@pytest.mark.parametrize("status", ["chunking_complete", "reassembling", "completed", "deleted"])
def test_a_job_past_chunking_is_acknowledged(stack: Stack, clip: ClipMaker, logs: Logs, status: str) -> None:
    """A second event for the same source changes nothing."""
    stack.add_job(status={"S": status})
    stack.upload(clip("plain"))
    before = stack.row("Jobs")
    assert stack.chunk() == []
    assert status in logs.one("nothing_to_do")["reason"]
    assert stack.row("Jobs") == before
    assert stack.segment_keys() == []


@pytest.mark.parametrize("status", ["created", "ingesting", "completed", "deleted"])
def test_a_job_with_nothing_to_join_is_acknowledged(stack: Stack, logs: Logs, status: str) -> None:
    """Deleted and completed jobs keep their status. The lease is released, so it does not block a later job of that
    id.
    """
    stack.add_job(status={"S": status}, total_segments={"N": "1"})
    before = stack.row("Jobs")
    assert stack.reassemble() == []
    assert status in logs.one("nothing_to_do")["reason"]
    assert stack.row("Jobs") == before
    assert "reassembly_started_at" not in stack.row("ReassemblyTriggered")


@pytest.mark.parametrize(
    ("attributes", "error"),
    [
        (
            {"mode": {"S": "V R"}},
            "the job's row cannot be used: ValueError: mode 'V R' is not 1 to 32 characters of a-z, 0-9 and -",
        ),
        ({"segment_duration_sec": {"N": "0"}}, "the job's row cannot be used: ValueError: segment_duration_sec is 0"),
    ],
)
def test_a_job_with_an_invalid_row_fails(stack: Stack, attributes: dict[str, Any], error: str) -> None:
    """The job's error says what is wrong with its row."""
    stack.add_job(**attributes)
    assert stack.chunk() == []
    row = stack.row("Jobs")
    assert row["status"]["S"] == "failed"
    assert error in row["error"]["S"]


# Sources


def truncated(path: Path, part: float) -> bytes:
    content = path.read_bytes()
    return content[: int(len(content) * part)]


def header_first(source: Path, folder: Path) -> Path:
    """The same media with the movie header in front, as cameras' apps and web tools write it."""
    target = folder / "header_first.mp4"
    ffmpeg("-i", str(source), "-map", "0", "-c", "copy", "-movflags", "+faststart", str(target))
    return target


def assert_refused(stack: Stack, source: bytes, error: str) -> None:
    """The message is acknowledged, the job has the reason, and nothing is left anywhere."""
    stack.add_job()
    stack.upload(source)
    assert stack.chunk() == []
    job = stack.job()
    assert job.status is JobStatus.FAILED
    assert error in (job.error or "")
    assert "ffmpeg-" not in (job.error or ""), "a person reads this: no command line"
    assert stack.segment_keys() == []
    assert stack.leftovers() == []
    assert "lease_holder" not in stack.row("Jobs")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "the source is empty (0 bytes)"),
        (b"x", "ffmpeg cannot read it as a video: "),
        (b"Dear diary,\n" * 1000, "Invalid data found when processing input"),
        (b"<!DOCTYPE html><html></html>" * 100, "Invalid data found when processing input"),
        (b"PK\x03\x04" + bytes(10_000), "Invalid data found when processing input"),
        (bytes(10_000), "ffmpeg cannot read it as a video: "),
    ],
    ids=["zero bytes", "one byte", "text", "html", "zip", "zeros"],
)
def test_a_source_that_is_not_a_video_fails_its_job(stack: Stack, content: bytes, error: str) -> None:
    """The error says what is wrong with the file."""
    assert_refused(stack, content, error)


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("audio_only", "the source has no video track (its tracks: soun/mp4a)"),
        (
            "audio_with_cover",
            "the source has no video track (its tracks: soun/mp4a)",
        ),
        ("wma_audio", "an MP4 cannot hold track 1 (audio, wmav2, 48000 Hz mono): convert the audio to AAC"),
    ],
)
def test_a_source_with_the_wrong_tracks_fails_its_job(stack: Stack, clip: ClipMaker, name: str, error: str) -> None:
    """Cover art is not a video track, and audio is never dropped silently."""
    assert_refused(stack, clip(name).read_bytes(), error)


def test_a_source_without_a_movie_header_fails_its_job(stack: Stack, clip: ClipMaker) -> None:
    """An MP4 that is truncated before the moov cannot be read."""
    assert_refused(stack, truncated(clip("plain"), 0.9), "moov atom not found")


def test_a_source_truncated_in_the_middle_fails_its_job(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """A source whose media ends early fails before the first segment is written."""
    assert_refused(stack, truncated(header_first(clip("plain"), tmp_path), 0.6), "corrupt input packet in stream 0")


def test_a_source_truncated_in_its_last_audio_fails_its_job(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """A source with all video but not all audio fails before the first segment is written."""
    source = header_first(clip("plain"), tmp_path).read_bytes()[:-100]
    assert_refused(stack, source, "corrupt input packet in stream 1")


def test_frames_without_presentation_times_fail_their_job(stack: Stack, tmp_path: Path, clip: ClipMaker) -> None:
    """An AVI with B-frames has no presentation times, and a guess would present frames at wrong times."""
    source = tmp_path / "source.avi"
    ffmpeg("-i", str(clip("plain")), "-map", "0:v", "-c", "copy", "-f", "avi", str(source))
    assert_refused(
        stack, source.read_bytes(), "does not say when each frame of track 0 (video, h264, 192x108) is presented"
    )


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{canary}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile '{canary}'\n"


@pytest.mark.parametrize(
    ("script", "reader"),
    [
        (HLS, ("-f", "hls", "-allowed_extensions", "ALL", "-extension_picky", "0")),
        (CONCAT, ("-f", "concat", "-safe", "0")),
    ],
    ids=["hls", "concat"],
)
def test_a_playlist_that_names_another_file_is_not_followed(
    stack: Stack, tmp_path: Path, clip: ClipMaker, script: str, reader: tuple[str, ...]
) -> None:
    """The named file is a valid video. If it were read, the job would have segments of it."""
    canary = tmp_path / "canary.ts"
    ffmpeg("-i", str(clip("plain")), "-map", "0:v", "-c", "copy", str(canary))
    source = tmp_path / "source.mp4"
    source.write_text(script.format(canary=canary))
    assert ffmpeg(*reader, "-i", str(source), "-c", "copy", "-f", "framecrc", "-").count("\n0,") == 250

    assert_refused(stack, source.read_bytes(), "ffmpeg cannot read it as a video: ")


@pytest.mark.parametrize("script", [HLS, CONCAT], ids=["hls", "concat"])
def test_the_file_that_a_playlist_names_is_not_opened(stack: Stack, tmp_path: Path, script: str) -> None:
    """A named pipe would block its reader; the job fails at once instead."""
    canary = tmp_path / "canary.mp4"
    os.mkfifo(canary)
    stack.context.remaining_ms = 80_000
    assert_refused(stack, script.format(canary=canary).encode(), "ffmpeg cannot read it as a video: ")


def test_a_deleted_source_fails_its_job(stack: Stack) -> None:
    """The source was deleted after its event was sent."""
    stack.add_job()
    assert stack.chunk() == []
    assert stack.job().error == f"the source does not exist: s3://{INPUT}/input/job-1/source.mp4"


# Unusual, but valid


def test_a_source_shorter_than_a_segment_is_one_segment(stack: Stack, clip: ClipMaker) -> None:
    """The duration on the job's row counts, and the job completes."""
    stack.add_job(segment_duration_sec={"N": "300"})
    stack.upload(clip("plain"))
    assert stack.chunk() == []
    assert stack.segment_keys() == ["segments/job-1/00000_00001_sbs.mp4"]
    stack.process_segments()
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.COMPLETED


def test_special_characters_in_a_key_are_decoded(stack: Stack, clip: ClipMaker) -> None:
    """A plus, spaces, a percent sign and an umlaut in the job id work from the S3 event to the final."""
    job_id = "job 3 + 50% ü"
    stack.add_job(job_id)
    stack.upload(clip("no_audio"), job_id)
    assert stack.deliver(stack.chunking, body_of("s3_put_encoded_key.json")) == []
    assert len(stack.segment_keys(job_id)) == 3
    stack.process_segments(job_id)
    assert stack.reassembly_messages() == [{"job_id": job_id}]
    assert stack.reassemble(job_id) == []
    assert stack.job(job_id).status is JobStatus.COMPLETED
    assert has_final(stack, job_id)


def test_a_track_that_an_mp4_cannot_hold_is_logged(stack: Stack, clip: ClipMaker, logs: Logs) -> None:
    """The job continues without the track."""
    stack.add_job(engine={"S": "ffmpeg"})
    stack.upload(clip("timecode"))
    assert stack.chunk() == []
    assert "track 2 (data, none)" in logs.one("notice")["notice"]
    assert stack.job().status is JobStatus.CHUNKING_COMPLETE


# Completions

MANY = 1_500
LONG_ID = "3f8a5c1e-0b7d-4e2a-9c4f-6d1b2a3c4d5e"


def add_completions(stack: Stack, job_id: str, indexes: range) -> None:
    """Completions as another tracker writes them."""
    for begin in range(indexes.start, indexes.stop, 25):
        rows = [
            {
                "job_id": {"S": job_id},
                "segment_index": {"N": str(index)},
                "output_s3_uri": {"S": f"s3://{OUTPUT}/{build_output_segment_key(job_id, index)}"},
                "completed_at": {"N": "1767225600"},
                "total_segments": {"N": str(MANY)},
                "worker": {"S": "i-0123456789abcdef0.eu-central-1.compute.internal" * 20},
            }
            for index in range(begin, min(begin + 25, indexes.stop))
        ]
        stack.aws.dynamodb.batch_write_item(
            RequestItems={"SegmentCompletions": [{"PutRequest": {"Item": row}} for row in rows]}
        )


def test_all_pages_of_completions_are_read(stack: Stack, logs: Logs) -> None:
    """1,500 completions of 1 KB take more than one page; only the one that is missing is reported."""
    pages: list[object] = []
    stack.aws.dynamodb.meta.events.register("before-call.dynamodb.Query", lambda **call: pages.append(call))
    stack.add_job(LONG_ID, status={"S": "chunking_complete"}, total_segments={"N": str(MANY)})
    add_completions(stack, LONG_ID, range(MANY - 1))
    assert stack.reassemble(LONG_ID) == ["message-0"]
    assert logs.one("record_returned")["reason"].endswith("of 1500 segments: missing 1499")
    assert len(pages) > 1, "one page would prove nothing"


@pytest.mark.parametrize(
    ("indexes", "total", "gaps"),
    [
        ([0, 2], 3, "of 3 segments: missing 1"),
        ([], 2, "of 2 segments: missing 0-1"),
        ([0, 1, 2], 2, "of 2 segments: unexpected 2"),
        ([1, 2, 3], 3, "of 3 segments: missing 0; unexpected 3"),
    ],
)
def test_an_incomplete_set_is_not_joined(stack: Stack, logs: Logs, indexes: list[int], total: int, gaps: str) -> None:
    """The message is returned with a delay, the log names the missing segments, and the job waits."""
    stack.add_job(status={"S": "chunking_complete"}, total_segments={"N": str(total)})
    for index in indexes:
        add_completions(stack, "job-1", range(index, index + 1))
    assert stack.reassemble() == ["message-0"]
    line = logs.one("record_returned")
    assert gaps in line["reason"]
    assert line["delay_s"] == 5
    assert stack.job().status is JobStatus.CHUNKING_COMPLETE
    assert not has_final(stack)


def test_a_job_without_a_plan_is_not_joined(stack: Stack, logs: Logs) -> None:
    """Before chunking has planned the source, the number of segments is unknown."""
    stack.add_job(status={"S": "chunking_in_progress"})
    assert stack.reassemble() == ["message-0"]
    assert "total_segments" in logs.one("record_returned")["reason"]


# Processed segments


def processed(stack: Stack, clip: ClipMaker, odd: dict[int, bytes]) -> None:
    """A job of three processed segments, some of which are replaced. Their frames are not compared with the plan."""
    stack.add_job(frame_check={"S": "any"})
    stack.upload(clip("plain"))
    assert stack.chunk() == []
    stack.process_segments(change=odd.get)


def assert_not_joined(stack: Stack, error: str) -> None:
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.FAILED
    assert error in (stack.job().error or "")
    assert not has_final(stack)
    assert stack.leftovers() == []
    assert "lease_holder" not in stack.row("ReassemblyTriggered")


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        ("hevc", "track 1 (vide) has codec hvc1, expected avc1"),
        ("small_frame", "track 1 (vide) has frames of 96x54, expected 192x108"),
    ],
)
def test_a_processed_segment_that_differs_fails_the_job(
    stack: Stack, clip: ClipMaker, name: str, difference: str
) -> None:
    """The error names the segment, its tracks and the tracks of the others."""
    processed(stack, clip, {1: clip(name).read_bytes()})
    assert_not_joined(stack, "segment 1 cannot be joined with the others: ")
    assert difference in (stack.job().error or "")


def test_the_segment_that_is_named_differs_from_most(stack: Stack, clip: ClipMaker) -> None:
    """When the first segment differs from the rest, the error names the first one."""
    processed(stack, clip, {0: clip("small_frame").read_bytes()})
    assert_not_joined(stack, "segment 0 cannot be joined with the others: it has track 1 (vide, avc1, 96x54)")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"no media", "segment 2 cannot be joined: ffmpeg cannot read it as a video: "),
        (b"", "segment 2 cannot be joined: ffmpeg cannot read it as a video: "),
    ],
    ids=["text", "zero bytes"],
)
def test_a_processed_segment_that_is_not_media_fails_the_job(
    stack: Stack, clip: ClipMaker, content: bytes, error: str
) -> None:
    """The error names the segment and ffmpeg's reason."""
    processed(stack, clip, {2: content})
    assert_not_joined(stack, error)


def test_a_processed_segment_without_video_fails_the_job(stack: Stack, clip: ClipMaker) -> None:
    """A segment that has audio only cannot be joined."""
    processed(stack, clip, {1: clip("audio_only").read_bytes()})
    assert_not_joined(stack, "segment 1 cannot be joined: there is no video track (its tracks: soun/mp4a)")


def test_a_damaged_processed_segment_fails_the_job(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """A segment with the right tracks but truncated media cannot be joined."""
    processed(stack, clip, {1: truncated(header_first(clip("plain"), tmp_path), 0.7)})
    assert_not_joined(stack, "segment 1 cannot be joined: ffmpeg cannot copy its packets: ")


def test_a_missing_processed_segment_fails_the_job(stack: Stack, clip: ClipMaker) -> None:
    """A completion without its object fails the job."""
    processed(stack, clip, {})
    key = build_output_segment_key("job-1", 1)
    stack.aws.s3.delete_object(Bucket=OUTPUT, Key=key)
    assert_not_joined(stack, f"segment 1 was completed, but s3://{OUTPUT}/{key} does not exist")


def test_a_completion_that_points_elsewhere_fails_the_job(stack: Stack, clip: ClipMaker) -> None:
    """Processed segments are read from the location of the contract only."""
    processed(stack, clip, {})
    stack.aws.dynamodb.update_item(
        TableName="SegmentCompletions",
        Key={"job_id": {"S": "job-1"}, "segment_index": {"N": "1"}},
        UpdateExpression="SET output_s3_uri = :uri",
        ExpressionAttributeValues={":uri": {"S": f"s3://{INPUT}/input/other/source.mp4"}},
    )
    assert_not_joined(stack, f"segment 1: its completion points to 's3://{INPUT}/input/other/source.mp4', not to")
