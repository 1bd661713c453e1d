"""The local cloud holds objects in memory: a source that cannot fit is refused before anything starts."""

from pathlib import Path

import pytest
from media_worker_cli.errors import UsageError
from media_worker_cli.local.memory import BYTES_PER_SOURCE_BYTE, available_bytes, parse_meminfo, require_memory
from media_worker_cli.main import main

GB = 10**9
MEMINFO = "MemTotal:       16384000 kB\nMemFree:          500000 kB\nMemAvailable:   12000000 kB\nCached: 1 kB\n"


def sparse(path: Path, size_bytes: int) -> Path:
    """A file of this size that takes no space."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


def test_meminfo_tells_what_is_available() -> None:
    """In bytes. It counts memory that the kernel can free, unlike MemFree."""
    assert parse_meminfo(MEMINFO) == 12_000_000 * 1024
    assert parse_meminfo("MemTotal: 5 kB\n") is None


def test_this_machine_has_memory() -> None:
    """Whatever the system is."""
    assert available_bytes() > 10_000_000


def test_a_source_that_cannot_fit_is_refused_with_sizes_and_advice(tmp_path: Path) -> None:
    """The message names the source, what it needs, what is there, and what would fit."""
    source = sparse(tmp_path / "long.mp4", 4 * GB)
    with pytest.raises(UsageError) as refused:
        require_memory(source, available_bytes=12 * GB)
    for words in (str(source), "4.0 GB", "24.0 GB", "12.0 GB are available", "at most 2.0 GB", "--stack"):
        assert words in str(refused.value)


def test_the_largest_source_that_fits_is_accepted(tmp_path: Path) -> None:
    """One byte more is refused."""
    largest = GB
    require_memory(sparse(tmp_path / "a.mp4", largest), largest * BYTES_PER_SOURCE_BYTE)
    with pytest.raises(UsageError):
        require_memory(sparse(tmp_path / "b.mp4", largest + 1), largest * BYTES_PER_SOURCE_BYTE)


@pytest.mark.parametrize("command", ["run", "submit"])
def test_the_commands_check_before_the_cloud_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """A source of a tebibyte exits with 2, and no state directory appears."""
    monkeypatch.setenv("MEDIA_WORKER_STATE_DIR", str(tmp_path / "state"))
    source = sparse(tmp_path / "tebibyte.mp4", 2**40)
    out = ["--out", str(tmp_path / "final.mp4")] if command == "run" else []
    assert main([command, str(source), *out]) == 2
    assert "1,099.5 GB" in capsys.readouterr().err
    assert not (tmp_path / "state").exists()
