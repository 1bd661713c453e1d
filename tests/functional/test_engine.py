"""The ffmpeg engine: what it keeps on /tmp, and an ffmpeg whose output differs from the plan."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from media_worker.engines import copy, segmenting
from media_worker.jobs import JobStatus
from media_worker.s3 import Source, Target, write_once

from tests.functional.conftest import ClipMaker
from tests.functional.stack import ENVIRONMENT, Stack
from tests.media.clips import ffmpeg


def with_faulty_ffmpeg(stack: Stack, folder: Path, when: str, *lines: str) -> None:
    """Replace ffmpeg for the command lines that contain `when`."""
    path = folder / "odd-ffmpeg"
    odd = "\n".join(lines)
    path.write_text(f'#!/bin/sh\ncase "$*" in\n*"{when}"*)\n{odd}\n;;\nesac\nexec {ENVIRONMENT["FFMPEG_PATH"]} "$@"\n')
    path.chmod(0o700)
    stack.aws = replace(stack.aws, settings=replace(stack.aws.settings, ffmpeg_path=str(path)))


def chunk(stack: Stack, source: Path) -> str | None:
    """Chunk a source; the job's error."""
    stack.add_job(engine={"S": "ffmpeg"})
    stack.upload(source)
    assert stack.chunk() == []
    return stack.job().error


def test_tmp_holds_the_source_and_a_few_segments(
    stack: Stack, clip: ClipMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is paused while four segments wait for their upload, and every segment is uploaded in the end."""
    seen: list[int] = []
    lock = threading.Lock()

    def upload_slowly(aws: Any, target: Target, contents: Any, sources: Sequence[Source], **options: Any) -> bool:
        time.sleep(1)
        (path,) = sources
        assert isinstance(path, Path)
        with lock:
            seen.append(len(list(path.parent.glob("0*.mp4"))))
        return write_once(aws, target, contents, sources, **options)

    monkeypatch.setattr(copy, "write_once", upload_slowly)
    with_faulty_ffmpeg(stack, tmp_path, "-f segment", f'exec {ENVIRONMENT["FFMPEG_PATH"]} -readrate 8 "$@"')
    stack.add_job(engine={"S": "ffmpeg"}, segment_duration_sec={"N": "1"})
    stack.upload(clip("plain"))
    assert stack.chunk() == []
    assert stack.job().status is JobStatus.CHUNKING_COMPLETE
    assert len(stack.segment_keys()) == len(seen) == 10
    # Those that are being uploaded, the one that waits for the next, and the next.
    assert max(seen) <= segmenting._WINDOW + 2


def test_a_segment_in_which_ffmpeg_failed_is_not_uploaded(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """The segment muxer also names the incomplete segment. The job's error is ffmpeg's."""
    with_faulty_ffmpeg(
        stack,
        tmp_path,
        "-f segment",
        "for i in 0 1; do echo media > 0000$i.mp4; echo 0000$i.mp4; done",
        "echo '[out#0 @ 0x1] the muxer is unhappy' >&2; exit 234",
    )
    assert chunk(stack, clip("plain")) == "the source cannot be cut: the muxer is unhappy"
    assert stack.segment_keys() == ["segments/job-1/00000_00003_sbs.mp4"]
    assert stack.leftovers() == []


def test_too_few_segments_are_an_error(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """A job with fewer segments than planned would wait for the missing ones for ever."""
    with_faulty_ffmpeg(stack, tmp_path, "-f segment", "echo media > 00000.mp4; echo 00000.mp4; exit 0")
    assert chunk(stack, clip("plain")) == "ffmpeg wrote 1 segments, the plan has 3"
    assert stack.segment_keys() == []


@pytest.mark.parametrize("name", ["00001.mp4", "other.mp4", "../00000.mp4"])
def test_a_file_that_is_not_in_the_plan_is_an_error(stack: Stack, clip: ClipMaker, tmp_path: Path, name: str) -> None:
    """Only planned segments are uploaded."""
    with_faulty_ffmpeg(stack, tmp_path, "-f segment", f"echo {name}; exec /bin/sleep 60")
    assert chunk(stack, clip("plain")) == f"ffmpeg wrote {name}, which is not in a plan of 3"
    assert stack.segment_keys() == []


def test_more_segments_than_planned_are_an_error(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """The total is part of every key that was written so far."""
    lines = "for i in 0 1 2 3; do echo media > 0000$i.mp4; echo 0000$i.mp4; done; exec /bin/sleep 60"
    with_faulty_ffmpeg(stack, tmp_path, "-f segment", lines)
    assert chunk(stack, clip("plain")) == "ffmpeg wrote 00003.mp4, which is not in a plan of 3"
    assert stack.job().status is JobStatus.FAILED


def test_a_failed_join_fails_the_job(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """The muxer refuses segments that were checked: the job has ffmpeg's reason."""
    assert chunk(stack, clip("plain")) is None
    stack.process_segments()
    with_faulty_ffmpeg(stack, tmp_path, "-f concat", "echo 'no way' >&2; exit 1")
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.FAILED
    assert stack.job().error == "the segments cannot be joined: no way"


def test_a_processed_segment_without_times_is_named(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """An AVI named .mp4 has the same track but no presentation times."""
    assert chunk(stack, clip("no_audio")) is None
    odd = tmp_path / "odd.avi"
    ffmpeg("-i", str(clip("no_audio")), "-c", "copy", str(odd))
    stack.process_segments(change=lambda index, body: odd.read_bytes() if index == 1 else body)
    assert stack.reassemble() == []
    assert (stack.job().error or "").startswith("segment 1 cannot be joined: the container does not say when each")


def test_a_processed_segment_without_frames_is_named(stack: Stack, clip: ClipMaker, tmp_path: Path) -> None:
    """The segment has a video track without samples."""
    assert chunk(stack, clip("no_audio")) is None
    stack.process_segments()
    with_faulty_ffmpeg(stack, tmp_path, "-i 00002.mp4 -map 0:V:0", "echo '#tb 0: 1/25'; exit 0")
    assert stack.reassemble() == []
    assert stack.job().error == "segment 2 holds no video frame"
