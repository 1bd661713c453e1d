"""ffmpeg is killed, hangs, has no disk space or survives its parent; and its resource limits, seen from inside."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import media_worker.engines.ffmpeg
import pytest
from media_worker.deadline import Deadline
from media_worker.engines.ffmpeg import Ffmpeg
from media_worker.errors import FfmpegFailed
from media_worker.jobs import JobStatus
from media_worker.workdir import work_directory
from media_worker_cli.local.ffmpeg import ffmpeg_path

from tests.crash.faults import Call
from tests.crash.matrix import SHAPES, Lab
from tests.crash.world import World
from tests.functional.stack import LambdaContext

FIVE = SHAPES[1]


@dataclass
class Fake:
    """An ffmpeg that fails in its first remux and works afterwards."""

    folder: Path

    def program(self, misbehaviour: str) -> Path:
        path = self.folder / "ffmpeg"
        real, done = ffmpeg_path(), self.folder / "done"
        path.write_text(
            "#!/bin/bash\n"
            f'if [[ " $* " == *" -c copy "* && ! -e {done} ]]; then : > {done}; {misbehaviour}; fi\n'
            f'exec {real} "$@"\n'
        )
        path.chmod(0o755)
        return path


def world_with(lab: Lab, program: Path, sabotage: Callable[[World], None] | None = None) -> World:
    world = lab.world(FIVE)
    aws = world.handlers_aws
    world.handlers_aws = replace(aws, settings=replace(aws.settings, ffmpeg_path=str(program)))
    world.sabotage = sabotage
    world.submit(lab.source(FIVE))
    return world


@pytest.mark.parametrize(
    "misbehaviour", ["kill -9 $$", "echo 'No space left on device' >&2; exit 228"], ids=["killed", "full /tmp"]
)
def test_a_stopped_ffmpeg_is_retried(lab: Lab, tmp_path: Path, misbehaviour: str) -> None:
    """The message is returned, and the next attempt succeeds."""
    world = world_with(lab, Fake(tmp_path).program(misbehaviour))
    delivery = world.receive(world.queue[0])
    assert delivery
    assert delivery.failures == (0,)
    world.run()
    assert world.job().status is JobStatus.COMPLETED
    assert world.content() == lab.undisturbed(FIVE)[0]
    assert (world.doubled(), world.leftovers()) == ([], [])


def test_a_hung_ffmpeg_is_killed_before_the_invocation_ends(lab: Lab, tmp_path: Path) -> None:
    """The invocation still answers."""

    def late(world: World) -> None:
        world.at_call(Call("UpdateItem Jobs", 2), lambda: setattr(world.clock, "ahead_s", world.clock.ahead_s + 883))

    world = world_with(lab, Fake(tmp_path).program("exec sleep 600"), late)
    delivery = world.receive(world.queue[0])
    assert delivery
    assert not delivery.died
    assert delivery.failures == (0,)
    world.sabotage = None
    world.run()
    assert world.job().status is JobStatus.COMPLETED
    assert world.leftovers() == []


def test_an_orphaned_ffmpeg_is_killed_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs in the work directory of a dead process."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "media-worker" / "left").mkdir(parents=True)
    with subprocess.Popen(["/bin/sleep", "60"], cwd=tmp_path / "media-worker" / "left") as orphan, work_directory():
        assert orphan.wait(5) == -9


def inside(tmp_path: Path, script: str) -> str:
    """The output of a shell script that is run as ffmpeg is run."""
    return Ffmpeg("unused", tmp_path, Deadline(LambdaContext())).run(["/bin/sh", "-c", script])


def test_ffmpeg_sees_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment has only what a shell adds, and its stdin is empty."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    assert "AWS" not in inside(tmp_path, "export -p; cat /proc/self/environ")
    assert inside(tmp_path, "readlink /proc/self/fd/0") == "/dev/null"
    assert inside(tmp_path, "cat") == ""


def test_ffmpeg_has_limits(tmp_path: Path) -> None:
    """Address space, CPU time, file size, and no core dump."""
    (tmp_path / "source").write_bytes(bytes(1000))
    limits = inside(tmp_path, "sleep 0.2; ulimit -v; ulimit -t; ulimit -f; ulimit -c").split()
    assert limits[0] == str(1024 * 1024)
    assert int(limits[1]) == 885 * (os.cpu_count() or 1)
    assert int(limits[2]) * 512 <= 2000 + 64 * 1024 * 1024
    assert limits[3] == "0"


def test_an_output_that_grows_without_end_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sample tables that name the same bytes a million times do not fill the disk."""
    monkeypatch.setattr(media_worker.engines.ffmpeg, "_FILE_MARGIN_BYTES", 100_000)
    with pytest.raises(FfmpegFailed, match="far larger than its input"):
        inside(tmp_path, "sleep 0.2; exec dd if=/dev/zero of=big bs=10000 count=100 2>/dev/null")
