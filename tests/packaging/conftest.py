"""The built wheel and source distribution, and the interpreters of this machine."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.packaging.build import ROOT, UV, Environment, build, find_python
from tests.worker.conftest import clip, endpoint, world

__all__ = ["clip", "endpoint", "world"]


@pytest.fixture(scope="session")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source distribution of this checkout."""
    return build(ROOT, tmp_path_factory.mktemp("distributions"))


@pytest.fixture(scope="session")
def wheel(distributions: Path) -> Path:
    (wheel,) = distributions.glob("*.whl")
    return wheel


@pytest.fixture
def install(wheel: Path, tmp_path: Path) -> Callable[..., Environment]:
    """Makes an environment that holds the wheel, its extras and nothing else."""

    def install(version: str, extras: str = "") -> Environment:
        subprocess.run([UV, "venv", "-q", "--python", find_python(version), tmp_path / "venv"], check=True)
        environment = Environment(tmp_path / "venv")
        target = f"media-worker{extras} @ {wheel.as_uri()}"
        subprocess.run([UV, "pip", "install", "-q", "--python", environment.python, target], check=True)
        return environment

    return install


@pytest.fixture
def empty_home(tmp_path: Path) -> dict[str, str]:
    """The environment of a user who has installed nothing. Only the caches of downloads are shared."""
    home = tmp_path / "home"
    home.mkdir()
    uv_cache = subprocess.run([UV, "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    pip_cache = os.environ.get("PIP_CACHE_DIR", str(Path.home() / ".cache" / "pip"))
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_", "LANG"))}
    kept |= {"UV_CACHE_DIR": uv_cache, "PIP_CACHE_DIR": pip_cache, "HOME": str(home)}
    kept.pop("UV_PROJECT_ENVIRONMENT", None)
    git = Path(shutil.which("git") or "/usr/bin/git").parent
    return kept | {"PATH": os.pathsep.join([str(git), "/usr/bin", "/bin"])}
