"""A lab for each test session: one moto server, and the undisturbed run of each shape."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash import server
from tests.crash.matrix import Lab
from tests.crash.world import Cloud


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with server.running() as endpoint:
        made = Lab(Cloud.at(endpoint), Path(tmp_path_factory.mktemp("crash")))
        made.prepare()
        yield made
