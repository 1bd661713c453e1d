"""`make sizes`: the size of a deployment, and its limit."""

from pathlib import Path

import pytest

from bench import sizes


def build(folder: Path, **bytes_of: int) -> Path:
    for name, size_bytes in bytes_of.items():
        path = folder / name / "bin" / "file"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(size_bytes))
    (folder / "template.yaml").touch()
    return folder


def test_weight(tmp_path: Path) -> None:
    """The size of a folder is that of its files; zipped, it is smaller."""
    size = sizes.measure(build(tmp_path, FfmpegLayer=100_000) / "FfmpegLayer")
    assert (size.name, size.unzipped_bytes) == ("FfmpegLayer", 100_000)
    assert 0 < size.zipped_bytes < 1_000


def test_the_sum(tmp_path: Path) -> None:
    """Lambda unpacks all layers and one function: the larger one counts."""
    build(tmp_path, SharedLayer=10, FfmpegLayer=200, ChunkingFunction=3_000, ReassemblyFunction=4_000)
    measured = [sizes.measure(folder) for folder in tmp_path.iterdir() if folder.is_dir()]
    assert sizes.unpacked_together_bytes(measured) == 4_210


@pytest.mark.parametrize(("limit_bytes", "code", "verdict"), [(210, 0, "within"), (209, 1, "OVER")])
def test_the_limit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    limit_bytes: int,
    code: int,
    verdict: str,
) -> None:
    """Exactly the limit is accepted."""
    monkeypatch.setattr(sizes, "LIMIT_BYTES", limit_bytes)
    build(tmp_path, FfmpegLayer=200, ChunkingFunction=10)
    assert sizes.main(tmp_path) == code
    assert verdict in capsys.readouterr().out.splitlines()[-1]
