"""What an operator sees: one logger, one set of metrics for each invocation, and the duration of each step.

Every log line carries `event`, a stable machine-readable name; the message is prose and may change. Log keys and
metrics live in context variables: the long-running process has two queues in two threads, and uploads log from threads
of their own.

Segment workers run where Powertools is not installed: there, a plain logger writes the same lines, and metrics are not
published.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

if TYPE_CHECKING:
    from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

try:
    from aws_lambda_powertools import Logger
except ImportError:
    from media_worker.json_logger import JsonLogger as Logger  # type: ignore[assignment]

NAMESPACE = os.environ.get("POWERTOOLS_METRICS_NAMESPACE", "MediaWorker")
SERVICE = os.environ.get("POWERTOOLS_SERVICE_NAME", "media-worker")
# A dimension of each metric, so that two stacks in an account have series of their own. Empty: no such dimension.
STACK = os.environ.get("STACK_NAME", "")

_P = ParamSpec("_P")
_R = TypeVar("_R")
Handler: TypeAlias = Callable[[dict[str, Any], Any], Mapping[str, Any]]

logger = Logger(service=SERVICE)
_metrics: "ContextVar[AmazonCloudWatchEMFProvider | None]" = ContextVar("metrics", default=None)


def instrumented(handler: Handler) -> Handler:
    """A handler whose log lines carry the request id, and whose metrics are printed at the end in CloudWatch's embedded
    metric format.
    """
    from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import (  # noqa: PLC0415 - only in functions
        AmazonCloudWatchEMFProvider,
    )

    def run(event: dict[str, Any], context: Any) -> Mapping[str, Any]:
        metrics = AmazonCloudWatchEMFProvider(namespace=NAMESPACE, service=SERVICE)
        if STACK:
            metrics.set_default_dimensions(stack=STACK)
        token = _metrics.set(metrics)
        try:
            with log_keys(function_request_id=context.aws_request_id):
                answer: Mapping[str, Any] = metrics.log_metrics(handler, capture_cold_start_metric=True)(event, context)
                return answer
        finally:
            _metrics.reset(token)

    return run


@contextmanager
def log_keys(**keys: object) -> Iterator[None]:
    """Put these keys on every log line of the body, in this thread and in tasks that `submit` starts."""
    before = logger.thread_safe_get_current_keys()
    logger.thread_safe_append_keys(**keys)
    try:
        yield
    finally:
        logger.thread_safe_clear_keys()
        logger.thread_safe_append_keys(**before)


def submit(pool: Executor, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> "Future[_R]":
    """`pool.submit` for a task that keeps the log keys of its caller."""
    context = copy_context()
    return pool.submit(lambda: context.run(function, *args, **kwargs))


def count(name: str, number: int = 1) -> None:
    """Add to a counting metric."""
    _measure(name, "Count", number)


def _measure(name: str, unit: str, value: float) -> None:
    if metrics := _metrics.get():
        metrics.add_metric(name, unit, value)


@dataclass(slots=True)
class Steps:
    """Seconds and bytes of each step of one job's work, for the log, the metrics and the job's row."""

    _done: dict[str, dict[str, Decimal | int]] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, size_bytes: int = 0) -> Iterator[None]:
        """Time the body as a step. Every line logged in it names the step."""
        begin = time.monotonic()
        with log_keys(step=name):
            logger.info("Step started", event="step_started", bytes=size_bytes)
            try:
                yield
            except Exception as error:
                seconds = round(time.monotonic() - begin, 3)
                logger.warning("Step failed", event="step_failed", seconds=seconds, failure=type(error).__name__)
                raise
            seconds = time.monotonic() - begin
            logger.info("Step done", event="step_done", seconds=round(seconds, 3), bytes=size_bytes)
        self._done[name] = {"seconds": Decimal(f"{seconds:.3f}"), "bytes": size_bytes}
        _measure(f"{name.capitalize()}Seconds", "Seconds", seconds)
        if size_bytes:
            _measure(f"{name.capitalize()}Bytes", "Bytes", size_bytes)

    @property
    def report(self) -> Mapping[str, Mapping[str, Decimal | int]]:
        """`{step: {"seconds": ..., "bytes": ...}}` of the steps so far."""
        return self._done
