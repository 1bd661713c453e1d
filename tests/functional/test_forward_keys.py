"""Segments of AV1 with forward key frames: each decodes alone, presents exactly its frames, and joins exactly.

The layer's ffmpeg has no AV1 decoder, so these tests use one that has dav1d and libaom, in an environment of its own.
"""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path

import pytest
from media_worker.mp4 import lay_out, plan_split

from tests.functional.test_open_gops import Clip, join, load, split, write
from tests.media import clips, look

CLIP = Path(__file__).parents[1] / "media" / "av1_forward_keys.mp4"
DECODERS = ("libdav1d", "libaom-av1")
FRAGMENTED = ("-movflags", "frag_keyframe+empty_moov+default_base_moof", "-frag_duration", "500000")
LOSSLESS = ("-c:v", "libx264", "-preset", "ultrafast", "-qp", "0", "-c:a", "aac")


def ffmpeg(*arguments: str) -> str:
    python = look.python_with("imageio-ffmpeg==0.8.1")
    where = "import imageio_ffmpeg; print(imageio_ffmpeg.get_ffmpeg_exe())"
    tool = subprocess.run([python, "-c", where], capture_output=True, text=True, check=True).stdout.strip()
    command = [tool, "-v", "warning", "-nostdin", "-y", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout


def frames(path: Path, *arguments: str) -> list[str]:
    """A digest of each frame. The decoder has no warning."""
    output = ("-map", "0:v", "-fps_mode", "passthrough", "-f", "framemd5", "-")
    lines = ffmpeg(*arguments, "-i", str(path), *output).splitlines()
    return [line.split(",")[5].strip() for line in lines if not line.startswith("#")]


@pytest.fixture(scope="module", params=["plain", "fragmented"])
def clip(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Clip:
    directory = tmp_path_factory.mktemp(request.param)
    options = FRAGMENTED if request.param == "fragmented" else ()
    ffmpeg("-i", str(CLIP), "-c", "copy", *options, str(directory / "source.mp4"))
    return split(directory / "source.mp4", directory, Fraction(1))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("ignores_edit_lists", [False, True])
def test_each_segment_decodes_alone_and_presents_its_frames(clip: Clip, decoder: str, ignores_edit_lists: bool) -> None:
    """Exactly the frames of the source, without a warning, also for readers that ignore edit lists."""
    options = ("-ignore_editlist", "1") if ignores_edit_lists else ()
    segments = [frames(path, *options, "-c:v", decoder) for path in clip.segments]
    assert [len(segment) for segment in segments] == [24, 24, 24, 24]
    assert [frame for segment in segments for frame in segment] == frames(clip.path, "-c:v", decoder)


def test_untouched_segments_restore_the_source(clip: Clip, tmp_path: Path) -> None:
    """The same packets in the same order, and the same frames."""
    assert join(clip.segments, clip.plan, tmp_path / "final.mp4").is_restored
    before, after = (look.packets(path, "v") for path in (clip.path, tmp_path / "final.mp4"))
    assert [each.content for each in after] == [each.content for each in before]
    assert frames(tmp_path / "final.mp4") == frames(clip.path)


def test_reencoded_segments_join_to_every_frame_once(clip: Clip, tmp_path: Path) -> None:
    """A lossless worker returns exactly the frames of the source."""
    outputs = tuple(tmp_path / path.name for path in clip.segments)
    for path, output in zip(clip.segments, outputs, strict=True):
        ffmpeg("-i", str(path), *LOSSLESS, str(output))
    join(outputs, clip.plan, tmp_path / "final.mp4")
    assert frames(tmp_path / "final.mp4") == frames(clip.path)


def test_context_frames_are_decoded_from_an_earlier_forward_key_frame(tmp_path: Path) -> None:
    """A segment presents three frames before its own, and three after."""
    data, movie = load(CLIP)
    plan = plan_split(movie, Fraction(1), lambda offset, length: data[offset : offset + length], context_frames=3)
    all_frames = frames(CLIP)
    for index in range(plan.total_segments):
        path = write(lay_out(movie, plan, index), tmp_path / f"{index}.mp4", data)
        assert frames(path) == all_frames[max(0, 24 * index - 3) : 24 * index + 27]


def test_a_worker_can_copy_the_video(clip: Clip, tmp_path: Path) -> None:
    """With `-copyinkf`, because ffmpeg does not take a forward key frame for a key frame."""
    outputs = tuple(tmp_path / path.name for path in clip.segments)
    for path, output in zip(clip.segments, outputs, strict=True):
        ffmpeg("-i", str(path), "-c", "copy", "-copyinkf", str(output))
    join(outputs, clip.plan, tmp_path / "final.mp4")
    assert frames(tmp_path / "final.mp4") == frames(clip.path)


def test_intra_only_frames_are_not_cut(tmp_path: Path) -> None:
    """SVT-AV1's open GOPs have no forward key frames: a decoder cannot start there. The notice says so."""
    source = ("-f", "lavfi", "-i", "testsrc2=size=192x108:rate=25:duration=6", "-c:v", "libsvtav1", "-preset", "12")
    clips.ffmpeg(*source, "-g", "25", "-svtav1-params", "irefresh-type=1", str(tmp_path / "source.mp4"))
    clip = split(tmp_path / "source.mp4", tmp_path)
    assert clip.plan.total_segments == 1
    assert clip.plan.notice is not None
    assert clip.plan.notice.startswith("one segment: the source has a single keyframe")
