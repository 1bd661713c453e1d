"""`make sam-local`: run each function once in a container, with `sam local invoke`, against the local cloud.

The containers get events/s3_put.json and events/reassembly.json. The input bucket that the first event names is created
beside the stack's own bucket and sends no events, so the functions in the local cloud do not handle the same upload.
"""

# ruff: noqa: T201 - a command line prints

import argparse
import contextlib
import json
import os
import shlex
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import docker  # type: ignore[import-untyped]
import docker.errors  # type: ignore[import-untyped]
from botocore.exceptions import ClientError
from media_worker.aws import Aws
from media_worker.jobs import Job, JobStatus, now_s, read_job
from media_worker.keys import build_output_segment_key, build_segment_key, parse_input_key
from media_worker.messages import ChunkRequest, parse_chunking_body

from media_worker_cli import fetching
from media_worker_cli.errors import CommandError, JobFailed
from media_worker_cli.local import cloud as clouds
from media_worker_cli.local.cloud import HOST, state_directory
from media_worker_cli.local.commands import use_local_cloud
from media_worker_cli.local.deployment import ROOT, STACK_NAME
from media_worker_cli.local.ffmpeg import count_frames
from media_worker_cli.local.sample import sample
from media_worker_cli.stack import find_stack
from media_worker_cli.submission import Submission, remove_job, submit

_CHUNKING_EVENT, _REASSEMBLY_EVENT = "events/s3_put.json", "events/reassembly.json"
# This event needs no work, so its duration is the cold start. The emulator does not report one by itself: it counts the
# init as part of the invocation. It does not measure memory either, but reports the configured size as used.
_NO_WORK_EVENT = "events/s3_test_event.json"
_BLOCK_BYTES = 65_536
_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Sam:
    """The sam command in this checkout: extra flags for `sam local invoke`, and the environment for the functions."""

    flags: tuple[str, ...]
    environment: Mapping[str, str]

    def build(self) -> None:
        """Run `sam build`."""
        self._run(["build"], sys.stderr)

    def invoke(self, *arguments: str) -> float:
        """Run `sam local invoke`. Returns the duration in milliseconds, including the cold start.

        Raises:
            CommandError: sam failed, or the function returned a message to the queue.
        """
        answer, lines = self._run(["local", "invoke", *arguments, *self.flags], subprocess.PIPE)
        if json.loads(answer.strip().splitlines()[-1]) != {"batchItemFailures": []}:
            raise CommandError(f"the function returned its message to the queue: {answer.strip()}")
        return read_duration_ms(lines)

    def _run(self, arguments: list[str], stdout: Any) -> tuple[str, list[str]]:
        """Run sam and show its stderr. Returns its stdout, and the lines of stderr."""
        argv = [str(Path(sys.executable).with_name("sam")), *arguments]
        print("$", shlex.join(["sam", *arguments]), file=sys.stderr)
        lines = []
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
                lines.append(line.strip())
            answer = process.stdout.read() if process.stdout else ""
        if process.returncode:
            raise CommandError(f"sam {arguments[0]} exited with {process.returncode}")
        return answer, lines


def read_duration_ms(lines: list[str]) -> float:
    """The duration in the REPORT line that Lambda and its emulator write at the end of an invocation."""
    (report,) = (line for line in lines if line.startswith("REPORT "))
    (duration,) = (part for part in report.split("\t") if part.startswith("Duration: "))
    return float(duration.removeprefix("Duration: ").removesuffix(" ms"))


def read_upload(root: Path = ROOT) -> ChunkRequest:
    """The upload that the chunking event announces."""
    (record,) = json.loads((root / _CHUNKING_EVENT).read_text())["Records"]
    (notification,) = json.loads(record["body"])["Records"]
    (request,) = parse_chunking_body(record["body"], notification["s3"]["bucket"]["name"])
    if not isinstance(request, ChunkRequest) or parse_input_key(request.key) is None:
        raise CommandError(f"{_CHUNKING_EVENT} does not announce a source")
    return request


@contextlib.contextmanager
def submitted_job(aws: Aws, request: ChunkRequest, source: Path, segment_seconds: Decimal) -> Iterator[Aws]:
    """Submit the event's job to the event's bucket, and delete the job at the end. Yields clients for that bucket."""
    aws = replace(aws, settings=replace(aws.settings, input_bucket_name=request.bucket))
    aws.s3.create_bucket(Bucket=request.bucket)
    _delete_job(aws, request.job_id)
    try:
        submit(aws, Submission(request.job_id, source, segment_duration_s=segment_seconds), lambda _: None)
        yield aws
    finally:
        _delete_job(aws, request.job_id)


def _delete_job(aws: Aws, job_id: str) -> None:
    """Delete a job's objects and rows, so that the same job can run again."""
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


def require_status(aws: Aws, job_id: str, status: JobStatus) -> Job:
    """The job, if it has this status.

    Raises:
        JobFailed: it has another one.
    """
    job = read_job(aws, job_id)
    if job is None or job.status is not status:
        raise JobFailed(f"job {job_id} is {job and job.status}, expected {status}: {job and job.error}")
    return job


def process_segments(aws: Aws, job: Job) -> int:
    """Copy every segment to its processed segment and record it, without triggering the reassembly.

    Returns the size of all segments in bytes.

    Raises:
        JobFailed: a segment is missing.
    """
    settings, total, size_bytes = aws.settings, job.total_segments or 0, 0
    for index in range(total):
        segment = {
            "Bucket": settings.input_bucket_name,
            "Key": build_segment_key(job.job_id, index, total, job.mode),
        }
        try:
            size_bytes += aws.s3.head_object(Bucket=segment["Bucket"], Key=segment["Key"])["ContentLength"]
        except ClientError as error:
            raise JobFailed(f"segment {index} of {total} cannot be read: {segment['Key']}: {error}") from error
        processed = build_output_segment_key(job.job_id, index)
        aws.s3.copy_object(Bucket=settings.output_bucket_name, Key=processed, CopySource=segment)  # type: ignore[arg-type]
        completion = {
            "job_id": {"S": job.job_id},
            "segment_index": {"N": str(index)},
            "output_s3_uri": {"S": f"s3://{settings.output_bucket_name}/{processed}"},
            "completed_at": {"N": str(now_s())},
        }
        aws.dynamodb.put_item(TableName=settings.segment_completions_table_name, Item=completion)
    return size_bytes


def run(source: Path, out: Path, segment_seconds: Decimal, flags: tuple[str, ...]) -> list[str]:
    """Split a source and join it again, each in a container. Returns the lines of the report."""
    fetching.require_target(out, source)
    request = read_upload()
    with contextlib.ExitStack() as stack:
        cloud = stack.enter_context(clouds.in_use(state_directory(os.environ), dict(os.environ), _report))
        use_local_cloud(cloud)
        deployed = find_stack(STACK_NAME, os.environ)
        aws = stack.enter_context(submitted_job(deployed.aws, request, source, segment_seconds))
        endpoint = stack.enter_context(reachable_from_containers(cloud.port))
        names = {**deployed.environment, "INPUT_BUCKET_NAME": request.bucket, "AWS_ENDPOINT_URL": endpoint}
        # The layer holds bytecode if the build finds Python 3.13: that of this process.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        sam = Sam(flags, {**os.environ, **names, "PATH": path, "SAM_CLI_TELEMETRY": "0"})
        sam.build()
        cold_start_ms = sam.invoke("-e", _NO_WORK_EVENT)
        chunking_ms = sam.invoke("-e", _CHUNKING_EVENT)
        job = require_status(aws, request.job_id, JobStatus.CHUNKING_COMPLETE)
        size_bytes = process_segments(aws, job)
        reassembly_ms = sam.invoke("ReassemblyFunction", "-e", _REASSEMBLY_EVENT)
        require_status(aws, request.job_id, JobStatus.COMPLETED)
        fetching.fetch(aws, request.job_id, out, lambda _: None)
    frames_in, frames_out = count_frames(source), count_frames(out)
    if frames_in != frames_out:
        raise JobFailed(f"the source has {frames_in} frames, the final has {frames_out}")
    out_bytes = out.stat().st_size
    return [
        f"cold start of chunking    {cold_start_ms:6.0f} ms",
        f"chunking, cold            {chunking_ms:6.0f} ms  {job.total_segments} segments, {size_bytes / 1e6:.1f} MB",
        f"reassembly, cold          {reassembly_ms:6.0f} ms  {out}, {out_bytes / 1e6:.1f} MB",
        f"frames in = frames out: {frames_out}",
    ]


# The network path from a container to the local cloud, which listens only on this machine's loopback


def bridge_gateway() -> str | None:
    """The address of this machine on Docker's bridge network, or None if containers share its network."""
    with contextlib.closing(docker.from_env()) as client:
        try:
            configuration = client.networks.get("bridge").attrs["IPAM"]["Config"]
        except docker.errors.NotFound:
            return None
    return str(configuration[0]["Gateway"])


@contextlib.contextmanager
def reachable_from_containers(port: int, gateway: str | None = None) -> Iterator[str]:
    """The URL at which a container reaches a port of this machine's loopback.

    On Linux the gateway of the bridge is an address of this machine, so a relay listens there. Docker Desktop has its
    bridge inside a virtual machine, and forwards `host.docker.internal` to the loopback.
    """
    gateway = gateway or bridge_gateway()
    if gateway is None:
        yield f"http://{HOST}:{port}"
        return
    try:
        relay = _Relay(gateway, port)
    except OSError:
        yield f"http://host.docker.internal:{port}"
        return
    with relay:
        threading.Thread(target=relay.serve_forever, args=(_POLL_S,), daemon=True).start()
        try:
            yield f"http://{gateway}:{relay.server_address[1]}"
        finally:
            relay.shutdown()


class _Relay(socketserver.ThreadingTCPServer):
    """Forwards every connection to a port of this machine's loopback."""

    daemon_threads = True

    def __init__(self, gateway: str, port: int) -> None:
        self.port = port
        super().__init__((gateway, 0), _Connection)


class _Connection(socketserver.BaseRequestHandler):
    server: _Relay

    def handle(self) -> None:
        """Copy in both directions until both sides have closed."""
        with socket.create_connection((HOST, self.server.port)) as cloud:
            answers = threading.Thread(target=_copy, args=(cloud, self.request), daemon=True)
            answers.start()
            _copy(self.request, cloud)
            answers.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(_BLOCK_BYTES):
            target.sendall(block)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def main() -> int:
    """Run the command line. The exit codes are those of `media-worker`."""
    parser = argparse.ArgumentParser(prog="sam-local", description=__doc__)
    parser.add_argument("source", type=Path, nargs="?", help="the video file (default: a sample)")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "sam-local.mp4", help="the file for the final video")
    parser.add_argument("--segment-seconds", type=Decimal, default=Decimal(20), help="minimum length of a segment")
    arguments = parser.parse_args()
    flags = tuple(shlex.split(os.environ.get("SAM_LOCAL_FLAGS", "")))
    try:
        print("\n".join(run(arguments.source or sample(), arguments.out, arguments.segment_seconds, flags)))
    except CommandError as error:
        print(f"sam-local: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
