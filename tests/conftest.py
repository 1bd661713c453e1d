"""Settings for all tests: no test reaches AWS, and none changes the process for the next one."""

import logging
import os
import signal
from collections.abc import Iterator

import pytest

# No test may reach AWS, even if the environment has credentials.
for name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[name]
os.environ.update(
    AWS_ACCESS_KEY_ID="testing",
    AWS_SECRET_ACCESS_KEY="testing",
    AWS_DEFAULT_REGION="us-east-1",
    AWS_EC2_METADATA_DISABLED="true",
    POWERTOOLS_METRICS_NAMESPACE="MediaWorker",
)


@pytest.fixture(autouse=True)
def _same_process_for_all() -> Iterator[None]:
    """Undo what a command does to its process: it sets signal handlers and disables logging."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    logging.disable(logging.NOTSET)
    for number, handler in handlers.items():
        signal.signal(number, handler)
