"""Whether a source fits into the local cloud, which keeps all objects on disk."""

import shutil
from pathlib import Path

from media_worker_cli.errors import UsageError

# At the peak there are the source, its segments, the processed segments, the final, and the files of a function or of
# the segment command: 4 to 5.5 bytes for each byte of the source (`make bench-local-memory`).
BYTES_PER_SOURCE_BYTE = 6


def require_space(source: Path, state: Path, free_bytes: int) -> None:
    """Check that the local cloud can hold a job for this source. `free_bytes` are free in its state directory.

    Raises:
        UsageError: it needs more disk space. Names both sizes.
    """
    size_bytes = source.stat().st_size
    needed_bytes = BYTES_PER_SOURCE_BYTE * size_bytes
    if needed_bytes > free_bytes:
        raise UsageError(
            f"{source} has {_gb(size_bytes)}, and the local cloud needs about {BYTES_PER_SOURCE_BYTE} times that on "
            f"disk, {_gb(needed_bytes)}, but {_gb(free_bytes)} are free for {state}: use a source of at most "
            f"{_gb(free_bytes // BYTES_PER_SOURCE_BYTE)}, set MEDIA_WORKER_STATE_DIR to a folder on a larger disk, or "
            "submit it to a stack on AWS (`media-worker submit SOURCE --stack NAME`)"
        )


def find_free_bytes(state: Path) -> int:
    """The disk space that is free for a state directory, which may not exist yet."""
    return shutil.disk_usage(next(path for path in (state, *state.parents) if path.is_dir())).free


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:,.1f} GB"
