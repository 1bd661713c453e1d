"""The local cloud keeps objects on disk: a source that cannot fit is refused before anything starts."""

from pathlib import Path

import pytest
from media_worker_cli.errors import UsageError
from media_worker_cli.local.disk import BYTES_PER_SOURCE_BYTE, find_free_bytes, require_space
from media_worker_cli.main import main

GB = 10**9


def sparse(path: Path, size_bytes: int) -> Path:
    """A file of this size that takes no space."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


def test_a_source_that_cannot_fit_is_refused_with_sizes_and_advice(tmp_path: Path) -> None:
    """The message names the source, what it needs, what is free and where, and what would fit."""
    source = sparse(tmp_path / "long.mp4", 4 * GB)
    with pytest.raises(UsageError) as refused:
        require_space(source, tmp_path / "state", free_bytes=12 * GB)
    for words in (str(source), "4.0 GB", "24.0 GB", f"12.0 GB are free for {tmp_path}", "at most 2.0 GB", "--stack"):
        assert words in str(refused.value)


def test_the_largest_source_that_fits_is_accepted(tmp_path: Path) -> None:
    """One byte more is refused."""
    free = GB * BYTES_PER_SOURCE_BYTE
    require_space(sparse(tmp_path / "a.mp4", GB), tmp_path, free)
    with pytest.raises(UsageError):
        require_space(sparse(tmp_path / "b.mp4", GB + 1), tmp_path, free)


def test_free_space_is_known_before_the_state_directory_exists(tmp_path: Path) -> None:
    """It is that of the file system where the directory will be."""
    assert find_free_bytes(tmp_path / "not" / "there" / "yet") > 0


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
