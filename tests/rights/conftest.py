"""A stack for each scenario in which one function has the rights of its role only."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from media_worker.aws import Aws
from media_worker.settings import Settings
from moto import mock_aws

from tests.functional.stack import ENVIRONMENT, Stack
from tests.functional.sweep_world import SETTINGS
from tests.media import clips
from tests.rights.enforcement import Guard
from tests.rights.policies import Policy
from tests.rights.stack import GuardedStack

type NewStack = Callable[[str, Policy], AbstractContextManager[GuardedStack]]


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.make("no_audio", tmp_path_factory.mktemp("clips") / "clip.mp4")


@pytest.fixture(scope="session")
def clients() -> Aws:
    """Clients that may do anything."""
    return Aws.connect(Settings.from_environment(ENVIRONMENT | SETTINGS))


@pytest.fixture(scope="session")
def guard(clients: Aws) -> Guard:
    return Guard(clients.settings)


@pytest.fixture
def new_stack(tmp_path: Path, clip: Path, clients: Aws, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> NewStack:
    """Creates a stack in which a function has a policy."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    @contextmanager
    def new(function: str, policy: Policy) -> Iterator[GuardedStack]:
        guard.take(policy)
        with mock_aws():
            yield GuardedStack(Stack.create(tmp_path, clients), guard, function, clip)

    return new
