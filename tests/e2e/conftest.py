"""A local cloud for the tests, with this checkout deployed into it, controlled through the command line."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.media import clips

ROOT = Path(__file__).parents[2]
SAM_CONFIG = str(ROOT / "cli" / "media_worker_cli" / "local" / "samconfig.toml")
# Longer than the segment commands of the tests, shorter than pytest's timeout.
TIMEOUT_S = 150


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def last_error(self) -> str:
        return self.err.splitlines()[-1]


@dataclass(frozen=True, slots=True)
class CommandLine:
    """`media-worker` with its own state directory."""

    state: Path

    @property
    def environment(self) -> dict[str, str]:
        # Neither AWS nor coverage.py, which would slow down every process that the local cloud starts.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "COV"))}
        return kept | {"MEDIA_WORKER_STATE_DIR": str(self.state)}

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        argv = [str(Path(sys.executable).with_name("media-worker")), *map(str, arguments)]
        return subprocess.Popen(
            argv, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )

    def __call__(self, *arguments: str | Path) -> Ended:
        return self.wait(self.start(*arguments))

    @staticmethod
    def wait(process: subprocess.Popen[str]) -> Ended:
        with process:
            out, err = process.communicate(timeout=TIMEOUT_S)
        return Ended(process.returncode, out, err)

    def interrupt(self, process: subprocess.Popen[str]) -> Ended:
        """Press Ctrl-C."""
        process.send_signal(signal.SIGINT)
        return self.wait(process)

    def stack_environment(self) -> dict[str, str]:
        """The environment for a user's program that works with the stack."""
        exports = re.findall(r"^export (\w+)=(\S+)$", self("status", "--env").out, re.MULTILINE)
        return self.environment | dict(exports)

    def processes(self) -> list[str]:
        """The command lines of the cloud's process and of all processes that it started."""
        mark = f"TMPDIR={self.state / 'tmp'}".encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # it has ended meanwhile, or belongs to another user
                continue
        return found


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """The command line, with the cloud running. After all tests, `down` leaves no process and no object."""
    command_line = CommandLine(tmp_path_factory.mktemp("cloud"))
    try:
        up = command_line("up")
        assert up.code == 0, up.err
        yield command_line
    finally:
        before = command_line.processes()
        down = command_line("down")
    assert (down.code, down.out) == (0, "the local cloud is stopped\n")
    assert before
    assert command_line.processes() == []
    assert not (command_line.state / "tmp").exists(), "the objects"


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds with a keyframe every second, and two audio tracks in two languages."""
    return clips.make("two_audio", tmp_path_factory.mktemp("clips") / "two_audio.mp4")
