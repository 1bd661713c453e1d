"""How `run` ends when the final is there."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from media_worker_cli.local import cloud, commands
from media_worker_cli.local.cloud import Cloud
from media_worker_cli.main import main
from media_worker_cli.summary import Summary


@pytest.fixture
def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Calls `run` with a pipeline that returns these frame counts; returns the exit code."""

    @contextmanager
    def in_use(*_: Any) -> Iterator[Cloud]:
        yield Cloud(1, 1)

    def run(frames_in: int | None, frames_out: int | None, *options: str) -> int:
        source, final = tmp_path / "source.mp4", tmp_path / "final.mp4"
        source.touch()
        summary = Summary("job", final, 1, 1, frames_in, frames_out, (), 1.0)
        monkeypatch.setattr(cloud, "in_use", in_use)
        monkeypatch.setattr(commands, "use_local_cloud", lambda _: None)
        monkeypatch.setattr(commands, "find_stack", lambda *_: None)
        monkeypatch.setattr(commands, "run_pipeline", lambda *_: summary)
        return main(["run", str(source), "--out", str(final), *options])

    return run


@pytest.mark.parametrize(
    ("frames_in", "frames_out", "code"),
    [(250, 250, 0), (250, 500, 0), (250, 249, 1), (250, 375, 1), (250, 0, 1), (250, None, 1), (None, None, 0)],
)
def test_missing_frames_end_a_run_with_1(ended: Any, frames_in: int | None, frames_out: int | None, code: int) -> None:
    """The final has the source's frames or a whole multiple of them, as after frame interpolation."""
    assert ended(frames_in, frames_out) == code


def test_missing_frames_are_reported_on_stderr(ended: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The summary is printed all the same."""
    assert ended(250, 249, "--json") == 1
    streams = capsys.readouterr()
    assert '"frames_out": 249' in streams.out
    assert streams.err.splitlines()[-1] == "media-worker: frames in: 250, frames out: 249 (different)"


def test_a_run_without_frame_check_may_change_the_frames(ended: Any) -> None:
    """`--frame-check any` accepts whatever the segment command made."""
    assert ended(250, 249, "--frame-check", "any") == 0
