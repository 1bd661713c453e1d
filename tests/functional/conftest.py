"""Fixtures: a stack in moto with the two handlers, called as Lambda would call them. ffmpeg and the media are real."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from moto import mock_aws

from tests.functional.logs import Logs, captured
from tests.functional.stack import Stack
from tests.media import clips


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """Buckets, tables and queues, with a temporary directory of their own."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with mock_aws():
        yield Stack.create(temporary)


@pytest.fixture
def logs() -> Iterator[Logs]:
    """The log lines of the test."""
    with captured() as logs:
        yield logs


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture
def clip(clip_folder: Path) -> "ClipMaker":
    return ClipMaker(clip_folder)


class ClipMaker:
    """Makes each clip once per session."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, name: str) -> Path:
        path = self._folder / f"{name}.mp4"
        return path if path.exists() else clips.make(name, path)
