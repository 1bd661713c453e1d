"""Which engine handles which file, how many bytes pass through the function, and the check of the final."""

from pathlib import Path
from typing import Any

import pytest
from media_worker.jobs import JobStatus
from media_worker.keys import build_final_key

from tests.functional.conftest import ClipMaker
from tests.functional.logs import Logs
from tests.functional.stack import INPUT, OUTPUT, Stack
from tests.media import clips, look

MIB = 1024 * 1024


class Traffic:
    """Counts the calls of the S3 client and the bytes that pass through it."""

    def __init__(self, stack: Stack) -> None:
        self.calls: list[str] = []
        self.bytes_in = 0
        self.bytes_out = 0
        events = stack.aws.s3.meta.events
        events.register("before-call.s3.*", self._before)
        events.register("after-call.s3.GetObject", self._after_get)

    def _before(self, model: Any, params: dict[str, Any], **_: Any) -> None:
        self.calls.append(model.name)
        if model.name in {"PutObject", "UploadPart"}:
            body = params["body"]
            self.bytes_out += len(body) if isinstance(body, bytes) else 0

    def _after_get(self, parsed: dict[str, Any], **_: Any) -> None:
        self.bytes_in += parsed.get("ContentLength", 0)


@pytest.fixture(scope="session")
def large_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of noise, about 50 MB: each third is much larger than S3's smallest part."""
    path = tmp_path_factory.mktemp("large") / "large.mp4"
    clips.ffmpeg(
        *("-f", "lavfi", "-i", "nullsrc=size=640x360:rate=25:duration=10,geq=random(1)*255:128:128"),
        *("-f", "lavfi", "-i", "sine=duration=10", "-c:v", "libx264", "-preset", "ultrafast", "-qp", "10"),
        *("-g", "25", "-c:a", "aac", str(path)),
    )
    return path


def test_the_copy_engine_lets_s3_copy_the_media(stack: Stack, large_clip: Path, tmp_path: Path) -> None:
    """Of each segment, only its header and the rest of a 5 MiB first part pass through the function."""
    size = large_clip.stat().st_size
    assert size > 30 * MIB
    stack.add_job(engine={"S": "copy"})
    stack.upload(large_clip)
    traffic = Traffic(stack)
    assert stack.chunk() == []

    assert traffic.calls.count("UploadPartCopy") == 3
    allowance = 3 * 5 * MIB + size // 50
    assert traffic.bytes_in <= allowance
    assert traffic.bytes_out <= allowance
    assert stack.leftovers() == []

    stack.process_segments()
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.COMPLETED
    final = stack.save_final(tmp_path / "final.mp4")
    before, after = look.packets(large_clip, "v:0"), look.packets(final, "v:0")
    assert after == before


def test_few_requests_come_before_the_first_segment(stack: Stack, large_clip: Path) -> None:
    """Each takes a round trip for which the first worker waits. docs/performance.md lists them."""
    stack.add_job()
    stack.upload(large_clip)
    calls: list[str] = []
    for client in (stack.aws.s3, stack.aws.dynamodb, stack.aws.sqs):
        client.meta.events.register("before-call.*.*", lambda model, **_: calls.append(model.name))
    assert stack.chunk() == []
    assert calls[: calls.index("CreateMultipartUpload")] == [
        *("GetQueueAttributes", "ChangeMessageVisibility", "GetItem"),
        *("UpdateItem", "UpdateItem"),  # the lease, and the status
        *("GetObject", "GetObject"),  # the start of the source, and its end with the index
        *("GetObject", "GetObject"),  # at the same time: are these sync samples key frames?
        *("PutObject", "UpdateItem"),  # the plan, and its digest in the job's row
        *("Query", "GetItem"),  # rows of earlier runs
    ]


def test_ffmpeg_handles_what_the_copy_engine_does_not_support(
    stack: Stack, clip: ClipMaker, logs: Logs, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log has the reason and the engine, and a metric counts it."""
    stack.add_job()
    stack.upload(clip("matroska"))
    assert stack.chunk() == []

    assert logs.one("engine_fallback")["reason"]
    assert logs.one("engine_chosen")["engine"] == "remux"
    assert '"EngineFallbacks":[1.0]' in capsys.readouterr().out


def test_a_job_that_asks_for_the_copy_engine_gets_no_other(stack: Stack, clip: ClipMaker) -> None:
    """The job fails, and its error says what the engine does not support."""
    stack.add_job(engine={"S": "copy"})
    stack.upload(clip("matroska"))
    assert stack.chunk() == []
    assert stack.job().status is JobStatus.FAILED
    assert "the copy engine cannot split the source" in (stack.job().error or "")
    assert stack.segment_keys() == []


@pytest.mark.parametrize("engine", ["ffmpeg", "copy"])
def test_a_final_that_differs_from_the_plan_fails_the_job(stack: Stack, clip: ClipMaker, engine: str) -> None:
    """The final is read back before the job is completed: a video with a segment missing is not delivered."""
    stack.add_job(engine={"S": engine})
    stack.upload(clip("plain"))
    assert stack.chunk() == []
    stack.process_segments()

    def lose_a_segment(params: dict[str, Any], **_: Any) -> None:
        if params["Key"] == build_final_key("job-1"):
            params["Body"] = stack.read(INPUT, stack.segment_keys()[0])

    stack.aws.s3.meta.events.register("provide-client-params.s3.PutObject", lose_a_segment)
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.FAILED
    assert "the final" in (stack.job().error or "")


def test_a_bad_final_of_an_earlier_attempt_is_replaced(
    stack: Stack, clip: ClipMaker, logs: Logs, tmp_path: Path
) -> None:
    """The invocation that wrote it may have died before its check. It is checked, and the join is repeated."""
    stack.add_job()
    stack.upload(clip("plain"))
    assert stack.chunk() == []
    stack.process_segments()
    body, plan = stack.read(INPUT, stack.segment_keys()[0]), stack.job().plan or ""
    stack.aws.s3.put_object(Bucket=OUTPUT, Key=build_final_key("job-1"), Body=body, Metadata={"plan": plan})
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.COMPLETED
    assert logs.one("final_rejected")
    assert look.packets(stack.save_final(tmp_path / "final.mp4"), "v:0") == look.packets(clip("plain"), "v:0")


def test_a_source_replaced_while_it_is_copied_is_retried(stack: Stack, large_clip: Path, clip: ClipMaker) -> None:
    """No segment mixes two sources: each copy names the source's ETag."""
    stack.add_job(engine={"S": "copy"})
    stack.upload(large_clip)

    def replace_source(**_: Any) -> None:
        stack.aws.s3.meta.events.unregister("before-call.s3.UploadPartCopy", replace_source)
        stack.upload(clip("plain"))

    stack.aws.s3.meta.events.register("before-call.s3.UploadPartCopy", replace_source)
    assert stack.chunk() == ["message-0"]
    assert stack.chunk(receive_count=2) == []
    assert stack.job().status is JobStatus.CHUNKING_COMPLETE
    plans = set()
    for key in stack.segment_keys():
        if f"_{stack.job().total_segments:05d}_" in key:
            plans.add(stack.aws.s3.head_object(Bucket=INPUT, Key=key)["Metadata"]["plan"])
    assert plans == {stack.job().plan}


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("audio_only", "no video track"),
        ("audio_with_cover", "no video track"),
        ("text", "ffmpeg cannot read it as a video"),
        ("cut_short", "ffmpeg cannot read it as a video"),
    ],
)
def test_a_bad_source_fails_with_the_reason(stack: Stack, clip: ClipMaker, name: str, error: str) -> None:
    """No engine writes a segment of a bad source."""
    sources = {"text": b"no video at all\n" * 100, "cut_short": clip("plain").read_bytes()[:150_000]}
    stack.add_job()
    stack.upload(sources.get(name) or clip(name))
    assert stack.chunk() == []
    assert stack.job().status is JobStatus.FAILED
    assert error in (stack.job().error or "")
    assert stack.segment_keys() == []


def test_a_processed_segment_that_differs_is_named(stack: Stack, clip: ClipMaker) -> None:
    """A segment with an additional track cannot be joined."""
    stack.add_job()
    stack.upload(clip("plain"))
    assert stack.chunk() == []
    odd = clip("two_audio").read_bytes()
    stack.process_segments(change=lambda index, body: odd if index == 1 else body)
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.FAILED
    assert "segment 1" in (stack.job().error or "")
