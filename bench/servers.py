"""The servers of the benchmarks, all on loopback: SeaweedFS as S3, and moto for tables and queues."""

import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from media_worker_cli.local.ffmpeg import ffmpeg_path
from moto.server import ThreadedMotoServer

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_START_LIMIT_S = 60
_START_ATTEMPTS = 3
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench", "AWS_EC2_METADATA_DISABLED": "true"}


@contextmanager
def stack(segment_seconds: str) -> Iterator[Mapping[str, str]]:
    """Create buckets, tables and queues; the environment of the stack."""
    with seaweedfs() as s3_endpoint, moto() as endpoint:
        os.environ.update(_CREDENTIALS)
        environment = {
            "MALLOC_ARENA_MAX": "2",  # as in template.yaml
            **_CREDENTIALS,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ENDPOINT_URL_S3": s3_endpoint,
            "INPUT_BUCKET_NAME": "bench-input",
            "OUTPUT_BUCKET_NAME": "bench-output",
            "JOBS_TABLE_NAME": "Jobs",
            "SEGMENT_COMPLETIONS_TABLE_NAME": "SegmentCompletions",
            "REASSEMBLY_TRIGGERED_TABLE_NAME": "ReassemblyTriggered",
            "CHUNKING_QUEUE_URL": f"{endpoint}/123456789012/chunking",
            "REASSEMBLY_QUEUE_URL": f"{endpoint}/123456789012/reassembly",
            "CHUNK_SEGMENT_DURATION_SEC": segment_seconds,
            "FFMPEG_PATH": str(ffmpeg_path()),
        }
        _fill(environment)
        yield environment


@contextmanager
def moto() -> Iterator[str]:
    """Run moto; the endpoint for tables and queues."""
    (port,) = _free_ports(1)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    # The state of moto belongs to this process, not to the server.
    urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/moto-api/reset", method="POST")).close()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()


@contextmanager
def seaweedfs() -> Iterator[str]:
    """Run an S3-compatible server on this machine's disk; its endpoint."""
    with tempfile.TemporaryDirectory(prefix="media-worker-bench-") as folder:
        server, endpoint = _start_weed(Path(folder))
        try:
            yield endpoint
        finally:
            server.kill()  # its data is temporary
            server.wait()


def _start_weed(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start the server and wait until it answers. Another process may take a free port before it does."""
    log = folder / "weed.log"
    for _ in range(_START_ATTEMPTS):
        endpoint, command = _weed_command(folder)
        with log.open("wb") as output:
            server = subprocess.Popen(command, stdout=output, stderr=output)
        give_up = time.monotonic() + _START_LIMIT_S
        while server.poll() is None and time.monotonic() < give_up:
            if _answers(endpoint):
                return server, endpoint
            time.sleep(0.2)
        server.kill()
        server.wait()
    raise RuntimeError("SeaweedFS does not start: " + "\n".join(log.read_text().splitlines()[-5:]))


def _weed_command(folder: Path) -> tuple[str, list[str]]:
    names = [f"{name}.port{kind}" for name in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
    options = dict(zip(names, _free_ports(len(names)), strict=True))
    command = [
        *(str(Path(sys.executable).with_name("weed")), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *(f"-dir={folder}", "-s3", "-filer", "-volume.max=0", "-master.volumeSizeLimitMB=1024"),
        # No fixed ports, no telemetry.
        *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
        *(f"-{name}={value}" for name, value in options.items()),
    ]
    return f"http://127.0.0.1:{options['s3.port']}", command


def s3_client(endpoint: str) -> "S3Client":
    """A client for the S3 server."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"mode": "standard"}),
    )


def _answers(endpoint: str) -> bool:
    os.environ.update(_CREDENTIALS)
    try:
        s3_client(endpoint).create_bucket(Bucket="ready")
    except (ClientError, BotoCoreError):
        return False
    return True


def _fill(environment: Mapping[str, str]) -> None:
    s3 = s3_client(environment["AWS_ENDPOINT_URL_S3"])
    for bucket in (environment["INPUT_BUCKET_NAME"], environment["OUTPUT_BUCKET_NAME"]):
        s3.create_bucket(Bucket=bucket)
    endpoint = environment["AWS_ENDPOINT_URL"]
    sqs = boto3.client("sqs", endpoint_url=endpoint, region_name="us-east-1")
    dynamodb = boto3.client("dynamodb", endpoint_url=endpoint, region_name="us-east-1")
    for queue in ("chunking", "reassembly"):
        sqs.create_queue(QueueName=queue)
    keys = {"Jobs": ["job_id"], "SegmentCompletions": ["job_id", "segment_index"], "ReassemblyTriggered": ["job_id"]}
    for table, names in keys.items():
        dynamodb.create_table(
            TableName=table,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[
                {"AttributeName": name, "AttributeType": "N" if name == "segment_index" else "S"} for name in names
            ],
            KeySchema=[
                {"AttributeName": name, "KeyType": "RANGE" if name == "segment_index" else "HASH"} for name in names
            ],
        )


def _free_ports(count: int) -> list[int]:
    """Different free ports: each is held until the last is found."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
