"""The kit in other people's images: any Python from 3.10 on, with boto3 and nothing else."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.media import clips, look
from tests.worker.world import COPY, ROOT, World, wait_until

VERSIONS = ("3.10", "3.11", "3.12", "3.13")
ENVIRONMENTS = ROOT / ".cache" / "interpreters"


def environment(version: str, *packages: str) -> str:
    """The Python of an environment with these packages, made once."""
    name = "-".join([version, *packages])
    python = ENVIRONMENTS / name / "bin" / "python"
    if not (ENVIRONMENTS / name / "complete").exists():
        subprocess.run([_find(version), "-m", "venv", "--clear", ENVIRONMENTS / name], check=True)
        install = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages]
        subprocess.run(install, check=True)
        (ENVIRONMENTS / name / "complete").touch()
    return str(python)


def _find(version: str) -> str:
    pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python{version}"))
    found = str(pyenv[-1]) if pyenv else shutil.which(f"python{version}")
    if found is None or subprocess.run([found, "-V"], check=False, capture_output=True).returncode:
        pytest.skip(f"there is no Python {version} on this machine")
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_a_segment_is_processed(world: World, version: str) -> None:
    """With boto3 alone: the log is JSON lines without Powertools."""
    interpreter = environment(version, "boto3")
    world.add_job()
    process = world.start("--once", "--", *COPY, interpreter=interpreter)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert world.processed == [0], out
    assert '"event": "segment_processed"' in out


def test_pyav_writes_every_frame_at_its_time(world: World, tmp_path: Path) -> None:
    """examples/pyav_worker.py keeps a variable frame rate and the audio, and changes the frames."""
    interpreter = environment("3.13", "boto3", "av", "numpy")
    world.clip, world.lasts = _variable_rate(tmp_path / "segment.mp4"), {"duration-seconds": "3/2"}
    world.add_job()
    process = world.launch([interpreter, str(ROOT / "examples" / "pyav_worker.py")], TMPDIR=str(tmp_path))
    try:
        wait_until(lambda: world.processed or (world.attempts and world.attempts[0].failures), 40)
    finally:
        process.terminate()
        out, errors = process.communicate()
    assert world.processed == [0], (out, errors)
    processed = tmp_path / "processed.mp4"
    processed.write_bytes(world.output(0)["Bytes"])
    before, after = look.decoded_frames(world.clip), look.decoded_frames(processed)
    assert len(after) == 24
    assert look.largest_shift_ms(before, after) == 0
    assert not {each.content for each in before} & {each.content for each in after}
    assert look.packets(world.clip, "a:0") == look.packets(processed, "a:0")


def _variable_rate(path: Path) -> Path:
    """24 frames with B-frames: the first half at 24 frames per second, the second half at 12; and audio."""
    video = ("-f", "lavfi", "-i", "testsrc2=size=64x64:rate=24", "-frames:v", "24")
    audio = ("-f", "lavfi", "-t", "1.5", "-i", "sine=sample_rate=48000", "-c:a", "aac")
    times = ("-vf", "setpts='(N+max(0,N-12))/24/TB'", "-fps_mode", "passthrough", "-c:v", "libx264", "-bf", "2")
    clips.ffmpeg(*video[:-2], *audio[:6], *times, *video[-2:], *audio[6:], str(path))
    return path
