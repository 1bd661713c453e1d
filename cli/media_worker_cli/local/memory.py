"""Whether a source fits into the local cloud, which holds all objects in memory."""

import os
import re
from pathlib import Path

from media_worker_cli.errors import UsageError

# At the peak the cloud holds the source, its segments, the processed segments, the final, and copies of what is being
# transferred: 5.2 to 5.8 bytes for each byte of the source (`make bench-local-memory`).
BYTES_PER_SOURCE_BYTE = 6
_MEMINFO = Path("/proc/meminfo")
_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d+) kB$", re.MULTILINE)


def require_memory(source: Path, available_bytes: int) -> None:
    """Check that the local cloud can hold a job for this source.

    Raises:
        UsageError: it needs more memory than this machine has available. Names both sizes.
    """
    size_bytes = source.stat().st_size
    needed_bytes = BYTES_PER_SOURCE_BYTE * size_bytes
    if needed_bytes > available_bytes:
        raise UsageError(
            f"{source} has {_gb(size_bytes)}, and the local cloud needs about {BYTES_PER_SOURCE_BYTE} times that in "
            f"memory, {_gb(needed_bytes)}, but {_gb(available_bytes)} are available: use a source of at most "
            f"{_gb(available_bytes // BYTES_PER_SOURCE_BYTE)}, close other programs, or submit it to a stack on AWS "
            "(`media-worker submit SOURCE --stack NAME`)"
        )


def available_bytes() -> int:
    """The memory that new programs can use without swapping. Where the system does not tell, all of its memory."""
    meminfo = _MEMINFO.read_text(encoding="ascii") if _MEMINFO.exists() else ""
    found = parse_meminfo(meminfo)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if found is None else found


def parse_meminfo(meminfo: str) -> int | None:
    """MemAvailable of /proc/meminfo in bytes, or None if it is not there."""
    found = _AVAILABLE.search(meminfo)
    return int(found[1]) * 1024 if found else None


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:,.1f} GB"
