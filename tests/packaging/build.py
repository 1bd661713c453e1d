"""Building the package, and environments to install it into."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UV = str(Path(sys.executable).with_name("uv"))
VERSIONS = ("3.10", "3.11", "3.12", "3.13")


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment."""

    directory: Path

    @property
    def python(self) -> str:
        return str(self.directory / "bin" / "python")

    @property
    def command(self) -> str:
        return str(self.directory / "bin" / "media-worker")

    def packages(self) -> set[str]:
        listed = subprocess.run(
            [UV, "pip", "freeze", "-q", "--python", self.python], capture_output=True, text=True, check=True
        ).stdout
        return {line.partition("==")[0].partition(" @")[0] for line in listed.splitlines()}

    def run(
        self, *words: str, environ: Mapping[str, str] | None = None, check: bool = True
    ) -> "subprocess.CompletedProcess[str]":
        """The command, outside the checkout and without its paths."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "AWS_"))}
        return subprocess.run(
            [self.command, *words],
            cwd=self.directory,
            env=clean | dict(environ or {}),
            capture_output=True,
            text=True,
            check=check,
            stdin=subprocess.DEVNULL,
        )


def build(source: Path, target: Path, *options: str, **environ: str) -> Path:
    """Build the source distribution, and the wheel from it."""
    argv = [UV, "build", "-q", "--out-dir", str(target), *options, str(source)]
    subprocess.run(argv, check=True, env={**os.environ, **environ})
    return target


def find_python(version: str) -> str:
    pyenv = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python{version}"))
    found = str(pyenv[-1]) if pyenv else shutil.which(f"python{version}")
    if found is None or subprocess.run([found, "-V"], check=False, capture_output=True).returncode:
        pytest.skip(f"there is no Python {version} on this machine")
    return found
