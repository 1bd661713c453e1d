"""`make sam-local`: each function once in a container, by `sam local invoke`, with a source in the local cloud.

The containers are given events/s3_put.json and events/reassembly.json as they are. The bucket that the first one names
is made for this, beside the stack's own: the functions deployed in the local cloud hear nothing of what is put there.
"""

# ruff: noqa: T201 - a command line prints

import argparse
import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from media_worker.aws import Aws
from media_worker.jobs import Job, JobStatus, now_s, read_job
from media_worker.keys import build_output_segment_key, build_segment_key, parse_input_key
from media_worker.messages import ChunkRequest, parse_chunking_body
from media_worker.storage import describe

from local import cloud as clouds
from local import film
from local.checkout import ROOT, state_directory
from local.deployment import STACK_NAME, isolated
from local.errors import JobFailed, LocalError
from local.relay import reachable_from_containers
from local.sample import sample
from local.stack import find_stack
from local.submission import Submission, remove_job, submit

_CHUNKING_EVENT, _REASSEMBLY_EVENT = "events/s3_put.json", "events/reassembly.json"
# It asks for nothing, so what it takes is the cold start. The emulator measures neither that nor the memory: it counts
# the start as part of the call, and reports the configured size as what was used.
_NOTHING_TO_DO_EVENT = "events/s3_test_event.json"


@dataclass(frozen=True, slots=True)
class Sam:
    """The sam command in this checkout, with what it is told and the environment that the functions get."""

    flags: tuple[str, ...]
    environment: Mapping[str, str]

    def build(self) -> None:
        """`sam build`, as a person types it."""
        self._run(["build"], sys.stderr)

    def invoke(self, *arguments: str) -> float:
        """`sam local invoke`; the milliseconds that the call took, with the cold start in front of it.

        Raises:
            LocalError: sam failed, or the function gave a message back.
        """
        answer, said = self._run(["local", "invoke", *arguments, *self.flags], subprocess.PIPE)
        if json.loads(answer.strip().splitlines()[-1]) != {"batchItemFailures": []}:
            raise LocalError(f"the function did not finish its message: {answer.strip()}")
        return read_duration_ms(said)

    def _run(self, arguments: list[str], stdout: Any) -> tuple[str, list[str]]:
        """What sam printed, and what it and the function said, which is shown as it comes."""
        argv = [str(Path(sys.executable).with_name("sam")), *arguments]
        print("$", shlex.join(["sam", *arguments]), file=sys.stderr)
        said = []
        with subprocess.Popen(
            argv,
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr
            for line in process.stderr:
                print(line, end="", file=sys.stderr)
                said.append(line.strip())
            printed = process.stdout.read() if process.stdout else ""
        if process.returncode:
            raise LocalError(f"sam {arguments[0]} ended with {process.returncode}")
        return printed, said


def read_duration_ms(said: list[str]) -> float:
    """The duration in the line with which Lambda and its emulator report a call."""
    (report,) = (line for line in said if line.startswith("REPORT "))
    (duration,) = (part for part in report.split("\t") if part.startswith("Duration: "))
    return float(duration.removeprefix("Duration: ").removesuffix(" ms"))


def read_upload(events: Path = ROOT) -> ChunkRequest:
    """What the chunking event is about."""
    (record,) = json.loads((events / _CHUNKING_EVENT).read_text())["Records"]
    (notification,) = json.loads(record["body"])["Records"]
    (request,) = parse_chunking_body(record["body"], notification["s3"]["bucket"]["name"])
    if not isinstance(request, ChunkRequest) or parse_input_key(request.key) is None:
        raise LocalError(f"{_CHUNKING_EVENT} is about no source")
    return request


@contextlib.contextmanager
def job_of_its_own(aws: Aws, request: ChunkRequest, source: Path, segment_seconds: Decimal) -> Iterator[Aws]:
    """The event's bucket with the source in it, and the job's row; clients for which that is the input bucket."""
    aws = replace(aws, settings=replace(aws.settings, input_bucket_name=request.bucket))
    aws.s3.create_bucket(Bucket=request.bucket)
    _forget(aws, request.job_id)
    try:
        submit(aws, Submission(request.job_id, source, segment_duration_s=segment_seconds), lambda _: None)
        yield aws
    finally:
        _forget(aws, request.job_id)


def _forget(aws: Aws, job_id: str) -> None:
    """Let nothing of a job be there, so that the same job can be done again."""
    remove_job(aws, job_id)
    settings, key = aws.settings, {"job_id": {"S": job_id}}
    aws.dynamodb.delete_item(TableName=settings.jobs_table_name, Key=key)
    aws.dynamodb.delete_item(TableName=settings.reassembly_triggered_table_name, Key=key)
    rows = aws.dynamodb.query(
        TableName=settings.segment_completions_table_name,
        KeyConditionExpression="job_id = :job_id",
        ExpressionAttributeValues={":job_id": key["job_id"]},
    )["Items"]
    for row in rows:
        completion = {name: row[name] for name in ("job_id", "segment_index")}
        aws.dynamodb.delete_item(TableName=settings.segment_completions_table_name, Key=completion)


def look_at(aws: Aws, job_id: str, wanted: JobStatus) -> Job:
    """The job, which has to be in this status.

    Raises:
        JobFailed: it is in another one; says why.
    """
    job = read_job(aws, job_id)
    if job is None or job.status is not wanted:
        raise JobFailed(f"job {job_id} is {job and job.status}, not {wanted}: {job and job.error}")
    return job


def process_segments(aws: Aws, job: Job) -> int:
    """Take every segment for its own processed segment, without asking for the reassembly; their size together.

    Raises:
        JobFailed: a segment is not there.
    """
    settings, total, size_bytes = aws.settings, job.total_segments or 0, 0
    for index in range(total):
        key = build_segment_key(job.job_id, index, total, job.mode)
        segment = describe(aws, settings.input_bucket_name, key)
        if segment is None:
            raise JobFailed(f"segment {index} of {total} is not there: {key}")
        size_bytes += segment.size_bytes
        processed = build_output_segment_key(job.job_id, index)
        source = {"Bucket": segment.bucket, "Key": segment.key}
        aws.s3.copy_object(Bucket=settings.output_bucket_name, Key=processed, CopySource=source)  # type: ignore[arg-type]
        completion = {
            "job_id": {"S": job.job_id},
            "segment_index": {"N": str(index)},
            "output_s3_uri": {"S": f"s3://{settings.output_bucket_name}/{processed}"},
            "completed_at": {"N": str(now_s())},
        }
        aws.dynamodb.put_item(TableName=settings.segment_completions_table_name, Item=completion)
    return size_bytes


def run(source: Path, out: Path, segment_seconds: Decimal, flags: tuple[str, ...]) -> list[str]:
    """Cut a source and join it again, each in a container; what was seen."""
    film.require_target(out, source)
    request = read_upload()
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(clouds.occupied(state_directory(os.environ), dict(os.environ), _say))
        environment = isolated(os.environ, cloud.endpoint)
        os.environ.clear()
        os.environ.update(environment)
        deployed = find_stack(STACK_NAME, os.environ)
        aws = stack.enter_context(job_of_its_own(deployed.aws, request, source, segment_seconds))
        endpoint = stack.enter_context(reachable_from_containers(cloud.port))
        names = {**deployed.environment, "INPUT_BUCKET_NAME": request.bucket, "AWS_ENDPOINT_URL": endpoint}
        sam = Sam(flags, {**os.environ, **names, "SAM_CLI_TELEMETRY": "0"})
        sam.build()
        cold_start_ms = sam.invoke("-e", _NOTHING_TO_DO_EVENT)
        chunking_ms = sam.invoke("-e", _CHUNKING_EVENT)
        job = look_at(aws, request.job_id, JobStatus.CHUNKING_COMPLETE)
        size_bytes = process_segments(aws, job)
        reassembly_ms = sam.invoke("ReassemblyFunction", "-e", _REASSEMBLY_EVENT)
        look_at(aws, request.job_id, JobStatus.COMPLETED)
        film.fetch(aws, request.job_id, out, lambda _: None)
    frames_in, frames_out = film.count_frames(source), film.count_frames(out)
    if frames_in != frames_out:
        raise JobFailed(f"{frames_in} frames went in, {frames_out} came out")
    out_bytes = out.stat().st_size
    return [
        f"cold start of chunking    {cold_start_ms:6.0f} ms",
        f"chunking, from cold       {chunking_ms:6.0f} ms  {job.total_segments} segments, {size_bytes / 1e6:.1f} MB",
        f"reassembly, from cold     {reassembly_ms:6.0f} ms  {out}, {out_bytes / 1e6:.1f} MB",
        f"frames in = frames out: {frames_out}",
    ]


def main() -> int:
    """The exit codes are the command line's: 0 for a film, 1 for none, 2 for bad usage."""
    parser = argparse.ArgumentParser(prog="sam-local", description=__doc__)
    parser.add_argument("source", type=Path, nargs="?", help="a video; the sample when left out")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "sam-local.mp4")
    parser.add_argument("--segment-seconds", type=Decimal, default=Decimal(20))
    arguments = parser.parse_args()
    flags = tuple(shlex.split(os.environ.get("SAM_LOCAL_FLAGS", "")))
    try:
        print("\n".join(run(arguments.source or sample(), arguments.out, arguments.segment_seconds, flags)))
    except LocalError as error:
        print(f"sam-local: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
