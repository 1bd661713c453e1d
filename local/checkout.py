"""The checkout that this package is run from: what is deployed, and where its state lies."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What a deployment is made of. Anything else may change without a new one.
_DEPLOYED = ("template.yaml", "watching.yaml", "functions", "shared", "layers", "local/samconfig.toml")
_NOT_DEPLOYED = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".DS_Store"}


def state_directory(environ: Mapping[str, str]) -> Path:
    """Where the local cloud keeps its state. `MEDIA_WORKER_STATE_DIR` gives a second cloud a place of its own."""
    return Path(environ.get("MEDIA_WORKER_STATE_DIR") or ROOT / ".local").resolve()


def fingerprint(root: Path, parameters: Iterable[str]) -> str:
    """A hash over everything that a deployment depends on: equal hashes need no new one."""
    digest = hashlib.sha256()
    for text in parameters:
        digest.update(f"{text}\0".encode())
    for name in _DEPLOYED:
        for path in sorted(_files(root / name)):
            size = path.stat().st_size
            digest.update(f"{path.relative_to(root).as_posix()}\0{os.access(path, os.X_OK)}\0{size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for directory, subdirectories, names in path.walk():
        subdirectories[:] = [name for name in subdirectories if name not in _NOT_DEPLOYED]
        yield from (directory / name for name in names if name not in _NOT_DEPLOYED and not name.endswith(".pyc"))
