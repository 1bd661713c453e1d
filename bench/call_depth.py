"""How much code a newcomer meets before the first byte: `make bench-depth`.

For one chunking and one join in moto, prints how many files and functions of the package are executed, and how deep the
stack is (frames of the package) at the first call to S3 and at the first GET. Runs on older versions too:
`PYTHONPATH=<checkout>/shared:<checkout>:. python bench/call_depth.py`.
"""

# ruff: noqa: T201 - a benchmark prints

import inspect
import io
import json
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import CodeType, FrameType
from typing import Any
from unittest.mock import patch
from urllib.parse import quote_plus

ENVIRONMENT = {
    "INPUT_BUCKET_NAME": "input",
    "OUTPUT_BUCKET_NAME": "output",
    "JOBS_TABLE_NAME": "Jobs",
    "SEGMENT_COMPLETIONS_TABLE_NAME": "SegmentCompletions",
    "REASSEMBLY_TRIGGERED_TABLE_NAME": "ReassemblyTriggered",
    "CHUNKING_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/123456789012/chunking",
    "REASSEMBLY_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/123456789012/reassembly",
    "CHUNK_SEGMENT_DURATION_SEC": "2",
}
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
    "AWS_DEFAULT_REGION": "us-east-1",
}
_TABLES = {
    "Jobs": {"job_id": "S"},
    "SegmentCompletions": {"job_id": "S", "segment_index": "N"},
    "ReassemblyTriggered": {"job_id": "S"},
}
JOB = "job-1"


@dataclass
class Trace:
    """The executed code of the package, and the stack at the first calls to S3."""

    package: str
    executed: set[CodeType] = field(default_factory=set)
    first_call: tuple[str, list[str]] | None = None
    first_get: list[str] | None = None

    # The stack that submitted the task of a thread.
    _submitted_by: threading.local = field(default_factory=threading.local)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Trace this thread and the threads that the body starts."""
        submit = ThreadPoolExecutor.submit
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        try:
            with patch.object(ThreadPoolExecutor, "submit", self._submitter(submit)):
                yield
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def _submitter(self, submit: Callable[..., Any]) -> Callable[..., Any]:
        """`ThreadPoolExecutor.submit` for tasks that know the stack that submitted them."""

        def submit_traced(pool: ThreadPoolExecutor, task: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return submit(pool, partial(self._run, list(self._stack()), task, *args, **kwargs))

        return submit_traced

    def _run(self, submitted_by: list[str], task: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._submitted_by.stack = submitted_by
        return task(*args, **kwargs)

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(self.package):
            self.executed.add(frame.f_code)

    def called(self, model: Any, **_: Any) -> None:
        """An S3 call is about to be made: botocore's event `before-parameter-build`."""
        stack = list(self._stack())
        self.first_call = self.first_call or (model.name, stack)
        if model.name == "GetObject":
            self.first_get = self.first_get or stack

    def _stack(self) -> Iterator[str]:
        """The package's frames, innermost first, through the threads to the handler."""
        frame: FrameType | None = inspect.currentframe()
        while frame:
            if frame.f_code.co_filename.startswith(self.package):
                yield f"{Path(frame.f_code.co_filename).relative_to(self.package)}:{frame.f_code.co_name}"
            frame = frame.f_back
        yield from getattr(self._submitted_by, "stack", ())

    @property
    def files(self) -> set[str]:
        """The files of the executed functions."""
        return {code.co_filename for code in self.executed}

    @property
    def functions(self) -> int:
        """The number of executed functions, with lambdas and generator expressions."""
        return len(self.executed)


@dataclass(frozen=True)
class Context:
    """Lambda's context object."""

    function_name: str = "call-depth"
    memory_limit_in_mb: int = 2048
    invoked_function_arn: str = "arn:aws:lambda:us-east-1:123456789012:function:call-depth"
    aws_request_id: str = "request"

    def get_remaining_time_in_millis(self) -> int:
        """Always 15 minutes."""
        return 900_000


def measure(source: bytes) -> dict[str, Trace]:
    """The traces of one chunking and one join of a source, with the package that is on the path."""
    import media_worker  # noqa: PLC0415 - after the environment is set
    from media_worker.aws import Aws  # noqa: PLC0415
    from media_worker.handlers import build_chunking_handler, build_reassembly_handler  # noqa: PLC0415
    from media_worker.settings import Settings  # noqa: PLC0415

    package = str(Path(media_worker.__file__ or "").parent)
    aws = Aws.connect(Settings.from_environment(ENVIRONMENT))
    create_stack(aws)
    chunking = _trace(aws, package, build_chunking_handler(aws), submit(aws, source))
    process_segments(aws)
    join = _trace(aws, package, build_reassembly_handler(aws), {"job_id": JOB})
    require_completed(aws)
    return {"chunking": chunking, "join": join}


def submit(aws: Any, source: bytes) -> Mapping[str, Any]:
    """Write the job's row and its source; the event of S3."""
    aws.s3.put_object(Bucket="input", Key=f"input/{JOB}/source.mp4", Body=source)
    item = {"job_id": {"S": JOB}, "status": {"S": "created"}, "mode": {"S": "sbs"}}
    aws.dynamodb.put_item(TableName="Jobs", Item=item)
    location = {"bucket": {"name": "input"}, "object": {"key": quote_plus(f"input/{JOB}/source.mp4", safe="/")}}
    return {"Records": [{"eventName": "ObjectCreated:Put", "s3": location}]}


def require_completed(aws: Any) -> None:
    """Check the job's status."""
    status = aws.dynamodb.get_item(TableName="Jobs", Key={"job_id": {"S": JOB}})["Item"]["status"]["S"]
    assert status == "completed", status


def deliver(handler: Callable[..., Mapping[str, Any]], body: Mapping[str, Any]) -> None:
    """Deliver a message to a handler, as SQS and Lambda do."""
    record = {
        "messageId": "1",
        "receiptHandle": "1",
        "body": json.dumps(body),
        "attributes": {"ApproximateReceiveCount": "1"},
        "eventSource": "aws:sqs",
    }
    answer = handler({"Records": [record]}, Context())
    assert not answer["batchItemFailures"]


def _trace(aws: Any, package: str, handler: Callable[..., Mapping[str, Any]], body: Mapping[str, Any]) -> Trace:
    trace = Trace(package)
    events = aws.s3.meta.events
    events.register("before-parameter-build.s3.*", trace.called)
    with trace.running():
        deliver(handler, body)
    events.unregister("before-parameter-build.s3.*", trace.called)
    return trace


def process_segments(aws: Any) -> None:
    """The segment worker: copies each segment unchanged and records it."""
    from media_worker.completions import record_segment  # noqa: PLC0415

    for entry in aws.s3.list_objects_v2(Bucket="input", Prefix=f"segments/{JOB}/")["Contents"]:
        if not entry["Key"].endswith(".mp4"):
            continue
        index = int(entry["Key"].rpartition("/")[2].partition("_")[0])
        segment = aws.s3.get_object(Bucket="input", Key=entry["Key"])
        key = f"jobs/{JOB}/segments/{index}.mp4"
        aws.s3.put_object(Bucket="output", Key=key, Body=segment["Body"].read(), Metadata=segment["Metadata"])
        # `plan` in this version, `source-etag` in older ones.
        made_from = {
            name.replace("-", "_"): segment["Metadata"][name]
            for name in ("plan", "source-etag")
            if name.replace("-", "_") in inspect.signature(record_segment).parameters
        }
        record_segment(aws, job_id=JOB, segment_index=index, output_s3_uri=f"s3://output/{key}", **made_from)


def create_stack(aws: Any) -> None:
    """The buckets, queues and tables."""
    for bucket in ("input", "output"):
        aws.s3.create_bucket(Bucket=bucket)
    for queue in ("chunking", "reassembly"):
        aws.sqs.create_queue(QueueName=queue)
    for table, keys in _TABLES.items():
        aws.dynamodb.create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": kind} for name, kind in keys.items()],
            KeySchema=[
                {"AttributeName": name, "KeyType": kind} for name, kind in zip(keys, ("HASH", "RANGE"), strict=False)
            ],
        )


def describe(name: str, trace: Trace, *, show_stack: bool) -> str:
    """A row of the table, and the stacks if they are wanted."""
    assert trace.first_call
    operation, stack = trace.first_call
    get = trace.first_get or []
    row = f"{name:9} {len(trace.files):5} {trace.functions:9} {len(stack):10} ({operation}) {len(get):9}"
    if show_stack:
        row += "".join(f"\n          {frame}" for frame in reversed(get))
    return row


def main() -> int:
    """Measure and print the table; with `--stack`, the stack of the first GET too."""
    os.environ.update(CREDENTIALS)
    from moto import mock_aws  # noqa: PLC0415 - after the environment is set

    from tests.media import clips  # noqa: PLC0415

    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        source = clips.make("plain", Path(folder) / "source.mp4").read_bytes()
    with mock_aws(), redirect_stdout(io.StringIO()):  # the handlers print their metrics
        traces = measure(source)
    print("          files functions depth: first S3 call, first GET")
    for name, trace in traces.items():
        print(describe(name, trace, show_stack="--stack" in sys.argv))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
