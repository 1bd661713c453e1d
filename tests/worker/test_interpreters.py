"""The kit in other people's images: any Python from 3.10 on, with boto3 and nothing else."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.worker.world import COPY, ROOT, World, make_clip

VERSIONS = ("3.10", "3.11", "3.12", "3.13")
ENVIRONMENTS = ROOT / ".cache" / "interpreters"


def environment(version: str, *packages: str) -> str:
    """The Python of an environment with these packages, made once."""
    name = "-".join([version, *packages])
    python = ENVIRONMENTS / name / "bin" / "python"
    if not (ENVIRONMENTS / name / "complete").exists():
        subprocess.run([_find(version), "-m", "venv", "--clear", ENVIRONMENTS / name], check=True)
        install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages]
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
    """examples/pyav_worker.py: what people will copy."""
    interpreter = environment("3.13", "boto3", "av", "numpy")
    world.clip = make_clip(tmp_path / "with-audio.mp4", frames=24)
    world.add_job()
    process = world.launch([interpreter, str(ROOT / "examples" / "pyav_worker.py")], TMPDIR=str(tmp_path))
    try:
        from tests.worker.world import wait_until

        wait_until(lambda: world.processed == [0] or process.poll() is not None, 40)
    finally:
        process.terminate()
        out, errors = process.communicate()
    assert world.processed == [0], (out, errors)
