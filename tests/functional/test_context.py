"""Context frames on real files, through both functions: what workers get, what they return, and what is joined."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from media_worker.jobs import JobStatus
from media_worker.plan import parse_plan
from media_worker_cli.local.ffmpeg import ffmpeg_path

from tests.functional.conftest import ClipMaker
from tests.functional.stack import INPUT, Stack
from tests.media.clips import ffmpeg

CONTEXT: dict[str, Any] = {"context_frames": {"N": "8"}, "segment_duration_sec": {"N": "2"}}
EXAMPLE = Path(__file__).parents[2] / "examples" / "temporal_filter.sh"
FILTER = "atadenoise=s=9:0a=0.3:0b=0.3:1a=0.3:1b=0.3:2a=0.3:2b=0.3"
LOSSLESS = ("-c:v", "libx264", "-preset", "ultrafast", "-qp", "0")


def frames(path: Path, *options: str) -> list[str]:
    """A digest of each frame of the video."""
    listed = ffmpeg("-i", str(path), "-map", "0:v:0", *options, "-fps_mode", "passthrough", "-f", "framemd5", "-")
    return [line.rsplit(",", 1)[1].strip() for line in listed.splitlines() if not line.startswith("#")]


def split(stack: Stack, source: Path, **attributes: Any) -> None:
    stack.add_job(**{**CONTEXT, **attributes})
    stack.upload(source)
    assert stack.chunk() == []
    assert stack.job().error is None


def final_of(stack: Stack, path: Path) -> Path:
    stack.reassemble()
    assert stack.job().error is None
    assert stack.job().status is JobStatus.COMPLETED
    return stack.save_final(path)


def temporal_filter(stack: Stack, folder: Path) -> None:
    """Process every segment with the example, as `run` does: it reads what it needs from the environment."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / "bin" / "ffmpeg").symlink_to(ffmpeg_path())
    plan = parse_plan(stack.read(INPUT, "segments/job-1/plan.json"))

    def change(index: int, body: bytes) -> bytes:
        source, target = folder / f"in-{index}.mp4", folder / f"out-{index}.mp4"
        source.write_bytes(body)
        planned = plan.segments[index]
        variables = {
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "MEDIA_WORKER_FRAMES": str(planned.frames),
            "MEDIA_WORKER_CONTEXT_BEFORE": str(planned.context_before),
        }
        subprocess.run([str(EXAMPLE), str(source), str(target)], env=variables, check=True)
        return target.read_bytes()

    stack.process_segments(change=change)


@pytest.mark.parametrize("name", ["plain", "open_gop", "variable_rate"])
def test_segments_say_how_many_context_frames_they_have(
    stack: Stack, clip: ClipMaker, tmp_path: Path, name: str
) -> None:
    """Each segment decodes to the source's frames from N before its own to N after, and its metadata says so."""
    source, first = clip(name), 0
    split(stack, source)
    whole = frames(source)
    keys = stack.segment_keys()
    assert len(keys) > 2
    for index, key in enumerate(keys):
        metadata = stack.head(INPUT, key)["Metadata"]
        own, before, after = (int(metadata[each]) for each in ("frames", "context-before", "context-after"))
        assert int(metadata["first-frame"]) == first
        assert (before, after) == (8 if index else 0, 8 if index < len(keys) - 1 else 0)
        (tmp_path / "segment.mp4").write_bytes(stack.read(INPUT, key))
        assert frames(tmp_path / "segment.mp4") == whole[first - before : first + own + after]
        first += own
    assert first == len(whole)


def fragmented(source: Path, path: Path) -> None:
    ffmpeg("-i", str(source), "-map", "0", "-c", "copy", "-movflags", "frag_keyframe+empty_moov", str(path))


def all_intra(source: Path, path: Path) -> None:
    ffmpeg("-i", str(source), "-c:a", "copy", "-c:v", "libx264", "-preset", "ultrafast", "-g", "1", str(path))


def complaints(path: Path) -> str:
    """What ffmpeg says while it decodes all tracks of a file, warnings included."""
    command = [str(ffmpeg_path()), "-nostdin", "-hide_banner", "-v", "warning", "-i", str(path), "-map", "0"]
    done = subprocess.run([*command, "-f", "null", "-"], capture_output=True, text=True, check=True)
    return done.stderr


@pytest.mark.parametrize(("name", "convert"), [("open_gop", fragmented), ("plain", all_intra)])
def test_segments_of_other_structures_decode_without_a_warning(
    stack: Stack, clip: ClipMaker, tmp_path: Path, name: str, convert: Callable[[Path, Path], None]
) -> None:
    """A fragmented source, and one in which every frame is a sync sample."""
    source, path, first = tmp_path / "source.mp4", tmp_path / "segment.mp4", 0
    convert(clip(name), source)
    split(stack, source)
    whole, keys = frames(source), stack.segment_keys()
    assert len(keys) > 2
    for index, key in enumerate(keys):
        planned = parse_plan(stack.read(INPUT, "segments/job-1/plan.json")).segments[index]
        path.write_bytes(stack.read(INPUT, key))
        assert complaints(path) == ""
        assert frames(path) == whole[first - planned.context_before : first + planned.frames + planned.context_after]
        first += planned.frames
    assert first == len(whole)


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
def test_untouched_segments_join_to_the_source(stack: Stack, clip: ClipMaker, tmp_path: Path, extension: str) -> None:
    """The context is dropped exactly, and the audio is the source's. So it is for a source that had to be remuxed."""
    source = tmp_path / f"source.{extension}"
    ffmpeg("-i", str(clip("open_gop")), "-map", "0", "-c", "copy", str(source))
    split(stack, source)
    stack.process_segments()
    final = final_of(stack, tmp_path / "final.mp4")
    assert frames(final) == frames(source)
    assert ffmpeg("-i", str(final), "-map", "0:a", "-f", "md5", "-") == ffmpeg(
        "-i", str(source), "-map", "0:a", "-f", "md5", "-"
    )


@pytest.mark.parametrize("name", ["plain", "open_gop"])
def test_a_temporal_filter_with_context_equals_the_filter_over_the_whole_video(
    stack: Stack, clip: ClipMaker, tmp_path: Path, name: str
) -> None:
    """Every frame of the final is identical. The example keeps no audio: the final has the source's."""
    source = clip(name)
    split(stack, source)
    temporal_filter(stack, tmp_path)
    final = final_of(stack, tmp_path / "final.mp4")
    assert frames(final, "-an") == frames(source, "-vf", FILTER)
    assert ffmpeg("-i", str(final), "-map", "0:a", "-f", "md5", "-") == ffmpeg(
        "-i", str(source), "-map", "0:a", "-f", "md5", "-"
    )


def test_without_context_a_temporal_filter_differs_at_the_borders(
    stack: Stack, clip: ClipMaker, tmp_path: Path
) -> None:
    """Up to four frames on each side of a border lack their neighbours; some look alike in this clip."""
    source = clip("plain")
    split(stack, source, context_frames={"N": "0"})
    temporal_filter(stack, tmp_path)
    found = frames(final_of(stack, tmp_path / "final.mp4"))
    expected = frames(source, "-vf", FILTER)
    different = [number for number, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1]]
    borders = {number + more for number in range(50, 250, 50) for more in range(-4, 4)}
    assert set(different) <= borders
    assert len(different) > len(borders) / 2


def test_a_worker_that_returns_the_context_fails_the_job_with_advice(
    stack: Stack, clip: ClipMaker, tmp_path: Path
) -> None:
    """The error counts the context frames and says to drop them."""
    split(stack, clip("plain"))

    def change(index: int, body: bytes) -> bytes:
        source, target = tmp_path / f"in-{index}.mp4", tmp_path / f"out-{index}.mp4"
        source.write_bytes(body)
        ffmpeg("-i", str(source), *LOSSLESS, "-an", str(target))
        return target.read_bytes()

    stack.process_segments(change=change)
    stack.reassemble()
    assert stack.job().status is JobStatus.FAILED
    assert "segment 1 has 66 frames, 50 expected, 16 of them context: drop them" in str(stack.job().error)
