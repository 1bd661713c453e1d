"""The peak memory of each handler for a large source: `make bench-memory`. The engine is the one whose media passes
through the function.

Each handler runs in a process of its own, as in Lambda. The peak resident set size is the kernel's figure.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from media_worker.aws import Aws
from media_worker.completions import record_segment
from media_worker.keys import build_output_segment_key, build_segment_key, build_source_key, parse_segment_key
from media_worker.settings import Settings
from media_worker_cli.local.ffmpeg import ffmpeg_path

from bench.meter import peak_rss_mb
from bench.servers import s3_client, stack

_JOB = "memory"
_LIMIT_MB = 250
_CLIP_S = 5


def make_source(path: Path, size_bytes: int) -> int:
    """Make a long video in seconds: one encoded clip, repeated without re-encoding. Returns its length in seconds."""
    clip = path.with_name("clip.mp4")
    ffmpeg = [str(ffmpeg_path()), "-nostdin", "-v", "error", "-y"]
    pattern = f"testsrc2=size=1280x720:rate=30:duration={_CLIP_S},noise=alls=40:allf=t"
    _run(
        *(*ffmpeg, "-f", "lavfi", "-i", pattern, "-f", "lavfi", "-i", f"sine=duration={_CLIP_S}"),
        *("-c:v", "libx264", "-preset", "ultrafast", "-b:v", "40M", "-g", "60", "-pix_fmt", "yuv420p"),
        *("-c:a", "aac", str(clip)),
    )
    loops = round(size_bytes / clip.stat().st_size) - 1
    _run(*ffmpeg, "-stream_loop", str(loops), "-i", str(clip), "-c", "copy", str(path))
    return (loops + 1) * _CLIP_S


def run_handler(function: str, event: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """Run one handler in a process of its own. Returns its answer, seconds and peak memory."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.memory", "--handler", function],
        input=json.dumps(event),
        env={**environment, "PYTHONPATH": "shared:.", "PATH": os.environ["PATH"], "TMPDIR": tempfile.gettempdir()},
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _be_the_handler(function: str) -> None:
    from media_worker.handlers import build_chunking_handler, build_reassembly_handler  # noqa: PLC0415
    from media_worker.main import LocalContext  # noqa: PLC0415

    aws = Aws.connect(Settings.from_environment(os.environ))
    handler = build_chunking_handler(aws) if function == "chunking" else build_reassembly_handler(aws)
    begin = time.monotonic()
    answer = handler(json.load(sys.stdin), LocalContext(function))
    found = {"answer": answer, "seconds": time.monotonic() - begin, "peak_mb": peak_rss_mb()}
    sys.stdout.write("\n" + json.dumps(found) + "\n")


def measure(size_gb: float) -> int:
    """Print a row for each handler; 1 if one of them needs more than the limit."""
    with tempfile.TemporaryDirectory(prefix="media-worker-bench-") as folder, stack("300") as environment:
        source = Path(folder) / "source.mp4"
        make_source(source, int(size_gb * 1e9))
        aws = Aws.connect(Settings.from_environment(environment))
        aws.s3.upload_file(str(source), "bench-input", build_source_key(_JOB))
        row = {"job_id": _JOB, "status": "created", "mode": "sbs", "engine": "ffmpeg"}
        aws.dynamodb.put_item(TableName="Jobs", Item={name: {"S": value} for name, value in row.items()})
        size_mb = source.stat().st_size / 1e6
        source.unlink()
        event = {
            "eventName": "ObjectCreated:Put",
            "s3": {"bucket": {"name": "bench-input"}, "object": {"key": build_source_key(_JOB)}},
        }
        rows = {"chunking": run_handler("chunking", batch({"Records": [event]}), environment)}
        segments = _copy_segments(aws)
        rows["reassembly"] = run_handler("reassembly", batch({"job_id": _JOB}), environment)
        status = aws.dynamodb.get_item(TableName="Jobs", Key={"job_id": {"S": _JOB}})["Item"]["status"]["S"]
    sys.stdout.write(f"source {size_mb:,.0f} MB, {segments} segments, job {status}\n")
    for name, row in rows.items():
        sys.stdout.write(f"{name:11} peak {row['peak_mb']:5.0f} MB (limit {_LIMIT_MB}) in {row['seconds']:5.1f} s\n")
    within = status == "completed" and all(row["peak_mb"] < _LIMIT_MB for row in rows.values())
    return 0 if within else 1


def _copy_segments(aws: Aws) -> int:
    """The segment worker: copies each segment unchanged, inside S3."""
    s3 = s3_client(str(aws.settings.aws_endpoint_url_s3))
    listing = aws.s3.list_objects_v2(Bucket="bench-input", Prefix=f"segments/{_JOB}/")["Contents"]
    segments = [segment for entry in listing if (segment := parse_segment_key("bench-input", entry["Key"]))]
    for segment in segments:
        index = segment.segment_index
        source = build_segment_key(_JOB, index, segment.total_segments, segment.mode)
        key = build_output_segment_key(_JOB, index)
        s3.copy({"Bucket": "bench-input", "Key": source}, "bench-output", key)
        record_segment(aws, job_id=_JOB, segment_index=index, output_s3_uri=f"s3://bench-output/{key}")
    return len(segments)


def batch(body: Mapping[str, Any]) -> dict[str, Any]:
    """An SQS batch of one message."""
    record = {
        "messageId": "1",
        "receiptHandle": "1",
        "body": json.dumps(body),
        "attributes": {"ApproximateReceiveCount": "1"},
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:queue",
    }
    return {"Records": [record]}


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True)


def main() -> int:
    """Measure, or be the measured handler."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-gb", type=float, default=2)
    parser.add_argument("--handler", choices=("chunking", "reassembly"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.handler:
        _be_the_handler(arguments.handler)
        return 0
    return measure(arguments.size_gb)


if __name__ == "__main__":
    raise SystemExit(main())
