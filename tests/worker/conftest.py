"""A stack on a real HTTP server, so that workers in other processes reach it. Commands, signals and media are real."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from tests.functional.logs import Logs, captured
from tests.worker.world import World, make_clip


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=24)


@pytest.fixture
def world(endpoint: str, clip: Path, tmp_path: Path) -> Iterator[World]:
    world = World.create(endpoint, clip, tmp_path)
    yield world
    world.reset()


@pytest.fixture
def logs() -> Iterator[Logs]:
    with captured() as logs:
        yield logs
