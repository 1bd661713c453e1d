"""Ways to split and join, compared: `make bench`. Prints a table and writes docs/performance.{json,svg}.

    plain    the whole file to disk, ffmpeg, one upload after another (bench/plain.py)
    ffmpeg   the engine whose media passes through the function
    copy     the copy engine
    bound    everything downloaded and uploaded in parallel, without media work (bench/bound.py)
    fragmented, mkv   the copy engine with a fragmented MP4, and a Matroska file that is remuxed on /tmp
    audio    the join of segments without audio, with the source's audio (its split is that of `copy`)
    server   what S3 itself needs to copy the bytes, in the same parts (bench/server_copy.py)
    minimum  the same with a header in front of each object, so its first 5 MiB pass through this process

Each runs in a process of its own, against one SeaweedFS on this machine's disk.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from media_worker.aws import Aws
from media_worker.completions import record_segment
from media_worker.handlers import build_chunking_handler, build_reassembly_handler
from media_worker.keys import build_output_segment_key, build_source_key, parse_segment_key
from media_worker.main import LocalContext
from media_worker.settings import Settings
from media_worker_cli.local.ffmpeg import ffmpeg_path

from bench import bound, plain, server_copy
from bench.memory import batch, make_source
from bench.meter import Meter
from bench.servers import s3_client, stack

WAYS = ("plain", "ffmpeg", "copy", "fragmented", "mkv", "audio", "bound", "server", "minimum")
# Those that run the handlers, with the engine that they name or with `auto`.
_ENGINES = {"ffmpeg": "ffmpeg", "copy": "copy", "fragmented": "auto", "mkv": "auto", "audio": "auto"}
# How ffmpeg writes the source of a way.
_CONTAINERS = {
    "fragmented": ("fragmented.mp4", "-movflags", "frag_keyframe+empty_moov+default_base_moof"),
    "mkv": ("source.mkv",),
}
STEPS = ("split", "join")
_STATUS_AFTER = {"split": "chunking_complete", "join": "completed"}
_SEGMENTS = 8


def run_way(way: str, step: str, job_id: str) -> None:
    """Run one step in this process and print its cost."""
    aws = Aws.connect(Settings.from_environment(os.environ))
    meter = Meter(aws)
    with meter.running():
        if way in _ENGINES:
            _run_engine(aws, step, job_id)
        else:
            _run_other(aws, way, step, job_id)
    sys.stdout.write("\n" + json.dumps(meter.cost.as_row()) + "\n")


def _run_other(aws: Aws, way: str, step: str, job_id: str) -> None:
    folder, is_split = Path(tempfile.mkdtemp()), step == "split"
    total = _SEGMENTS if is_split else _total(aws, job_id)
    if way == "plain":
        plain.split(aws, job_id, folder) if is_split else plain.join(aws, job_id, folder, total)
    elif way == "bound":
        (bound.split if is_split else bound.join)(aws, job_id, folder, total)
    else:
        header = server_copy.HEADER if way == "minimum" else b""
        (server_copy.split if is_split else server_copy.join)(aws, job_id, total, header)


def _run_engine(aws: Aws, step: str, job_id: str) -> None:
    if step == "split":
        location = {"bucket": {"name": aws.settings.input_bucket_name}, "object": {"key": build_source_key(job_id)}}
        event = batch({"Records": [{"eventName": "ObjectCreated:Put", "s3": location}]})
        answer = build_chunking_handler(aws)(event, LocalContext("bench"))
    else:
        answer = build_reassembly_handler(aws)(batch({"job_id": job_id}), LocalContext("bench"))
    assert not answer["batchItemFailures"]
    job = aws.dynamodb.get_item(TableName=aws.settings.jobs_table_name, Key={"job_id": {"S": job_id}})["Item"]
    assert job["status"]["S"] == _STATUS_AFTER[step], job


def measure(sizes_gb: list[float], ways: list[str]) -> list[dict[str, Any]]:
    """A row for each size, way and step."""
    rows = []
    for size_gb in sizes_gb:
        with tempfile.TemporaryDirectory(prefix="media-worker-bench-") as folder:
            source = Path(folder) / "source.mp4"
            duration_s = make_source(source, int(size_gb * 1e9))
            for way in ways:
                with stack(f"{duration_s / _SEGMENTS:.3f}") as environment:
                    rows += _measure_way(way, source, environment, size_gb)
    return rows


def _measure_way(way: str, source: Path, environment: Mapping[str, str], size_gb: float) -> list[dict[str, Any]]:
    aws = Aws.connect(Settings.from_environment(environment))
    aws.s3.upload_file(str(_in_container(way, source)), aws.settings.input_bucket_name, build_source_key(way))
    row = {"job_id": {"S": way}, "status": {"S": "created"}, "mode": {"S": "sbs"}}
    aws.dynamodb.put_item(TableName="Jobs", Item=row)
    rows = []
    for step in STEPS:
        cost = _in_process(way, step, environment)
        if (way, step) != ("audio", "split"):
            rows.append({"gb": size_gb, "way": way, "step": step, **cost})
            sys.stdout.write(_line(rows[-1]) + "\n")
            sys.stdout.flush()
        if step == "split" and way == "audio":
            _remove_audio(aws, way, source.parent)
        elif step == "split":
            _process_segments(aws, way)
    return rows


def _in_container(way: str, source: Path) -> Path:
    """The source in the container of this way."""
    if way not in _CONTAINERS:
        return source
    name, *options = _CONTAINERS[way]
    path = source.with_name(name)
    if not path.exists():
        _copy_tracks(source, path, "-map", "0", *options)
    return path


def _copy_tracks(source: Path, target: Path, *options: str) -> None:
    argv = [str(ffmpeg_path()), "-nostdin", "-v", "error", "-y", "-i", str(source)]
    subprocess.run([*argv, *options, "-c", "copy", str(target)], check=True)


def _in_process(way: str, step: str, environment: Mapping[str, str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="media-worker-bench-") as temporary:
        done = subprocess.run(
            [sys.executable, "-m", "bench.compare", "--run", way, step],
            env={
                **environment,
                "ENGINE": _ENGINES.get(way, "auto"),
                "PYTHONPATH": "shared:.",
                "PATH": os.environ["PATH"],
                "TMPDIR": temporary,
            },
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{way} {step} failed:\n{done.stdout}")
    cost: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return cost


def _process_segments(aws: Aws, job_id: str) -> None:
    """The segment worker: copies each segment unchanged, inside S3."""
    s3 = s3_client(str(aws.settings.aws_endpoint_url_s3))
    for key in _segment_keys(aws, job_id):
        parts = parse_segment_key("", key)
        assert parts
        target = build_output_segment_key(job_id, parts.segment_index)
        s3.copy({"Bucket": aws.settings.input_bucket_name, "Key": key}, aws.settings.output_bucket_name, target)
        uri = f"s3://{aws.settings.output_bucket_name}/{target}"
        record_segment(aws, job_id=job_id, segment_index=parts.segment_index, output_s3_uri=uri)


def _remove_audio(aws: Aws, job_id: str, folder: Path) -> None:
    """The segment worker: returns video only."""
    before, after = folder / "segment.mp4", folder / "processed.mp4"
    for key in _segment_keys(aws, job_id):
        parts = parse_segment_key("", key)
        assert parts
        aws.s3.download_file(aws.settings.input_bucket_name, key, str(before))
        _copy_tracks(before, after, "-map", "0:v")
        target = build_output_segment_key(job_id, parts.segment_index)
        aws.s3.upload_file(str(after), aws.settings.output_bucket_name, target)
        uri = f"s3://{aws.settings.output_bucket_name}/{target}"
        record_segment(aws, job_id=job_id, segment_index=parts.segment_index, output_s3_uri=uri)


def _segment_keys(aws: Aws, job_id: str) -> list[str]:
    listing = aws.s3.list_objects_v2(Bucket=aws.settings.input_bucket_name, Prefix=f"segments/{job_id}/")
    return [entry["Key"] for entry in listing["Contents"] if parse_segment_key("", entry["Key"])]


def _total(aws: Aws, job_id: str) -> int:
    return len(_segment_keys(aws, job_id))


def _line(row: Mapping[str, Any]) -> str:
    return (
        f"| {row['gb']:5.2f} | {row['step']:5} | {row['way']:10} | {row['seconds']:7.1f} "
        f"| {row['first_object_s']:6.1f} | {row['mb_in']:7.0f} | {row['mb_out']:7.0f} | {row['peak_rss_mb']:5.0f} "
        f"| {row['peak_tmp_mb']:6.0f} | {row['s3_calls']:5.0f} |"
    )


def main() -> int:
    """Measure, or be the measured process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-gb", type=float, nargs="+", default=[0.25, 1, 4])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--out", type=Path, help="folder for performance.json and performance.svg")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        way, step = options.run
        run_way(way, step, way)
        return 0
    if shutil.disk_usage(tempfile.gettempdir()).free < 6e9 * max(options.size_gb):
        parser.error("the temporary directory needs room for six times the largest source")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
    sys.stdout.write("|    GB | step  | way        | seconds | first  |   MB in |  MB out |   RSS |   /tmp | calls |\n")
    rows = measure(options.size_gb, options.ways)
    if options.out:
        from bench.chart import draw  # noqa: PLC0415 (importing matplotlib takes a second)

        (options.out / "performance.json").write_text(json.dumps(rows, indent=1) + "\n")
        draw(rows, options.out / "performance.svg")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
