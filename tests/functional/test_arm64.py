"""The arm64 layer's ffmpeg, run by qemu on other machines: built as `sam build` does, used by both handlers."""

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from media_worker.aws import Aws
from media_worker.jobs import JobStatus
from media_worker.settings import Settings
from moto import mock_aws

from tests.functional.stack import ENVIRONMENT, INPUT, Stack
from tests.functional.test_media import run_through
from tests.media import look
from tests.media.clips import ffmpeg

LAYER = Path(__file__).parents[2] / "layers" / "ffmpeg"
IS_ARM64 = os.uname().machine == "aarch64"
QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
_EM_AARCH64 = 183  # e_machine in the header of an ELF file

pytestmark = pytest.mark.skipif(
    not (IS_ARM64 or QEMU), reason="needs qemu (apt install qemu-user-static) to run arm64 code"
)

_H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-g", "25", "-pix_fmt", "yuv420p")
_MPEG2 = ("-c:v", "mpeg2video", "-g", "15", "-bf", "2", "-flags", "+cgop", "-sc_threshold", "1000000000")
# Matroska passes through a pipe; MXF is downloaded first, because ffmpeg seeks in it.
CLIPS = {
    "piped.mkv": (*_H264, "-c:a", "aac"),
    "downloaded.mxf": (*_MPEG2, "-c:a", "pcm_s16le"),
}


@pytest.fixture(scope="session")
def arm64_ffmpeg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The binary of the arm64 layer."""
    folder = tmp_path_factory.mktemp("arm64")
    source, target = folder / "ffmpeg", folder / "layer"
    shutil.copytree(LAYER, source)
    subprocess.run(
        ["make", "--silent", "-f", "../Makefile", "build-FfmpegLayer", f"ARTIFACTS_DIR={target}"],
        cwd=source / "arm64",
        check=True,
    )
    return target / "bin" / "ffmpeg"


@pytest.fixture(scope="session")
def program(arm64_ffmpeg: Path) -> Path:
    """A program that runs the binary with its own arguments, on any machine."""
    path = arm64_ffmpeg.with_name("emulated")
    path.write_text(f'#!/bin/sh\nexec {"" if IS_ARM64 else QEMU} {arm64_ffmpeg} "$@"\n')
    path.chmod(0o755)
    return path


@contextmanager
def stack_with(ffmpeg_path: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """A stack of its own whose functions have this ffmpeg."""
    (folder / "tmp").mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(folder / "tmp"))
    with mock_aws():
        settings = Settings.from_environment(ENVIRONMENT | {"FFMPEG_PATH": ffmpeg_path})
        yield Stack.create(folder / "tmp", Aws.connect(settings))


def clip_of(folder: Path, name: str) -> Path:
    """Six seconds of video and audio."""
    path = folder / name
    ffmpeg(
        *("-f", "lavfi", "-i", "testsrc2=size=192x108:rate=25:duration=6"),
        *("-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration=6"),
        *(*CLIPS[name], str(path)),
    )
    return path


def test_the_layer_holds_an_arm64_program(arm64_ffmpeg: Path, program: Path) -> None:
    """It is an ELF file for AArch64, and it starts: nothing is missing that the layer does not bring along."""
    (machine,) = struct.unpack_from("<H", arm64_ffmpeg.read_bytes()[:20], 18)
    assert machine == _EM_AARCH64
    printed = subprocess.run([program, "-version"], capture_output=True, text=True, check=True, env={}).stdout
    assert printed.startswith("ffmpeg version n8.1.2 ")


@dataclass(frozen=True, slots=True)
class Result:
    """What the functions have written for a source."""

    segments: list[bytes]
    final: Path

    @classmethod
    def of(cls, stack: Stack, source: Path, folder: Path) -> "Result":
        final = run_through(stack, source, folder)
        return cls([stack.read(INPUT, key) for key in stack.segment_keys()], final)


@pytest.mark.parametrize("name", sorted(CLIPS))
def test_arm64_writes_what_x86_64_writes(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Every frame of the remuxed source is in the final. Segments and final are equal to x86_64's, byte for byte."""
    source = clip_of(tmp_path, name)
    results = []
    for label, path in (("arm64", str(program)), ("native", ENVIRONMENT["FFMPEG_PATH"])):
        folder = tmp_path / label
        with stack_with(path, folder, monkeypatch) as stack:
            results.append(Result.of(stack, source, folder))
    arm64, native = results

    contents = [[frame.content for frame in look.decoded_frames(path)] for path in (source, arm64.final)]
    assert contents[0] == contents[1]
    assert len(arm64.segments) == 2
    assert arm64.segments == native.segments
    assert arm64.final.read_bytes() == native.final.read_bytes()


def test_arm64_names_what_cannot_be_read(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that are no video fail the job with ffmpeg's reason."""
    with stack_with(str(program), tmp_path, monkeypatch) as stack:
        stack.add_job()
        stack.upload(b"\x1a\x45\xdf\xa3" + bytes(5000))
        assert stack.chunk() == []
        assert stack.job().status is JobStatus.FAILED
        assert "ffmpeg cannot read it as a video" in (stack.job().error or "")
        assert stack.leftovers() == []
