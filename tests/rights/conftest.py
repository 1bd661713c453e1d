"""A guarded stack for each scenario, made anew in moto."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from moto import mock_aws

from tests.media import clips
from tests.rights.policies import Policy
from tests.rights.stack import GuardedStack

type NewStack = Callable[[str, Policy], AbstractContextManager[GuardedStack]]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.make("no_audio", tmp_path_factory.mktemp("clips") / "clip.mp4")


@pytest.fixture
def new_stack(tmp_path: Path, clip: Path, monkeypatch: pytest.MonkeyPatch) -> NewStack:
    """Makes a stack in which a function has a policy."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    @contextmanager
    def new(function: str, policy: Policy) -> Iterator[GuardedStack]:
        with mock_aws():
            yield GuardedStack.create(function, policy, tmp_path, clip)

    return new
