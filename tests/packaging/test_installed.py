"""The wheel in bare environments: `make test` runs those of the oldest Python, `make test-wheel` all."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from media_worker_cli.local.ffmpeg import ffmpeg_path

from tests.media import clips, look
from tests.packaging.build import UV, VERSIONS, Environment, find_python
from tests.worker.world import World

Install = Callable[..., Environment]

BOTO3 = {"boto3", "botocore", "jmespath", "python-dateutil", "s3transfer", "six", "urllib3"}
COMMANDS = ("submit", "watch", "fetch", "jobs", "show", "cancel", "retry", "delete", "doctor", "dlq", "work", "serve")
LIBRARY = "import media_worker.worker, media_worker.completions, media_worker.engines.remux, media_worker_cli.main"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_segment_is_processed(install: Install, world: World, version: str, tmp_path: Path) -> None:
    """With boto3 alone: the library is imported, every command has its help, and ffmpeg processes a segment."""
    environment = install(version)
    assert environment.packages() == {"media-worker"} | BOTO3
    assert subprocess.run([environment.python, "-c", LIBRARY], cwd=tmp_path, check=False).returncode == 0
    listed = environment.run("--help").stdout
    assert [name for name in COMMANDS if f"\n    {name} " not in listed] == []
    world.add_job()
    ffmpeg = [str(ffmpeg_path()), "-v", "error", "-i", "{input}", "-vf", "negate", "{output}"]
    work = environment.run(
        "work", "--once", "--directory", str(tmp_path / "work"), "--", *ffmpeg, environ=credentials(world)
    )
    assert world.processed == [0], (work.stdout, work.stderr)
    processed = tmp_path / "processed.mp4"
    processed.write_bytes(world.output(0)["Bytes"])
    assert len(look.decoded_frames(processed)) == len(look.decoded_frames(world.clip)) == 24


@pytest.mark.parametrize("version", ["3.10", "3.13"])
def test_what_is_missing_is_named(install: Install, world: World, version: str) -> None:
    """The local cloud needs an extra and Python 3.13, `serve` an extra: both say so, with exit code 2."""
    environment = install(version)
    local = environment.run("status", check=False)
    assert local.returncode == 2
    expected = "aws_lambda_powertools" if version == "3.13" else f"needs Python 3.13, and this is Python {version}"
    assert expected in local.stderr
    assert "pip install 'media-worker[local] @ file:" in local.stderr
    serve = environment.run("serve", check=False, environ=credentials(world))
    assert serve.returncode == 2
    assert "pip install 'media-worker[serve] @ file:" in serve.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_the_extras_of_aws_are_complete(install: Install, version: str) -> None:
    """Powertools makes `serve` start, as far as its settings; rich is there for progress bars."""
    environment = install(version, "[serve,rich]")
    serve = environment.run("serve", check=False)
    assert serve.returncode == 2
    assert "INPUT_BUCKET_NAME" in serve.stderr
    assert "rich" in environment.packages()


def test_the_local_cloud_is_complete(install: Install, tmp_path: Path) -> None:
    """With its extra, it deploys the wheel's own copy of the stack and takes a video through it."""
    environment = install("3.13", "[local]")
    state = {"MEDIA_WORKER_STATE_DIR": str(tmp_path / "state"), "XDG_STATE_HOME": str(tmp_path / "xdg")}
    source, final = tmp_path / "source.mp4", tmp_path / "final.mp4"
    clips.ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x64:rate=24", "-t", "4", "-c:v", "libx264", str(source))
    try:
        environment.run("run", str(source), "--out", str(final), "--segment-seconds", "2", environ=state)
    finally:
        stopped = environment.run("down", check=False, environ=state)
    assert "is stopped" in stopped.stdout, stopped.stderr
    assert look.decoded_frames(final) == look.decoded_frames(source)


def test_uv_tool_installs_the_command(wheel: Path, empty_home: dict[str, str]) -> None:
    """`uv tool install`, in an empty home."""
    install = [UV, "tool", "install", "-q", "--python", find_python("3.12"), str(wheel)]
    subprocess.run(install, env=empty_home, check=True)
    assert_answers(Path(empty_home["HOME"]), empty_home)


def test_pipx_installs_the_command(wheel: Path, empty_home: dict[str, str], tmp_path: Path) -> None:
    """`pipx install`, in an empty home."""
    python = find_python("3.11")
    subprocess.run([UV, "venv", "-q", "--python", python, tmp_path / "pipx"], check=True)
    subprocess.run([UV, "pip", "install", "-q", "--python", tmp_path / "pipx" / "bin" / "python", "pipx"], check=True)
    pipx = str(tmp_path / "pipx" / "bin" / "pipx")
    subprocess.run([pipx, "install", "--python", python, str(wheel)], env=empty_home, check=True)
    assert_answers(Path(empty_home["HOME"]), empty_home)


def assert_answers(home: Path, environ: dict[str, str]) -> None:
    command = home / ".local" / "bin" / "media-worker"
    answer = subprocess.run([command, "--help"], env=environ, capture_output=True, text=True, check=True, cwd=home)
    assert "submit" in answer.stdout


def credentials(world: World) -> dict[str, str]:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
    return world.environ | dict.fromkeys(names[:2], "testing") | {names[2]: "us-east-1"}
