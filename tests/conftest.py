"""Settings for all tests: no test reaches AWS, and none changes the process for the next one."""

import functools
import gc
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import botocore.session
import pytest
from moto.core.botocore_stubber import BotocoreStubber

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

# One loader for all clients of a process: parsing botocore's models takes most of the time that a client takes.
setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))  # noqa: B010

_process_request, _one_request = BotocoreStubber.process_request, threading.RLock()


def _process_atomically(stubber: BotocoreStubber, request: Any) -> Any:
    """Check a condition and write in one step, as S3 and DynamoDB do; in moto two threads can pass one check."""
    if "sqs" in request.url:  # a long poll would keep the sender of its message out
        return _process_request(stubber, request)
    with _one_request:
        return _process_request(stubber, request)


setattr(BotocoreStubber, "process_request", _process_atomically)  # noqa: B010 (mypy refuses the assignment)


def pytest_collection_finish() -> None:
    """Keep the garbage collector from examining all imported modules again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _same_process_for_all() -> Iterator[None]:
    """Undo what a command does to its process: it sets signal handlers and disables logging."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    logging.disable(logging.NOTSET)
    for number, handler in handlers.items():
        signal.signal(number, handler)
