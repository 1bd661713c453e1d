"""The lower bound for an engine whose media passes through it: read everything and write it again, in parallel."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from media_worker.aws import Aws
from media_worker.byte_ranges import ByteRange
from media_worker.deadline import Deadline
from media_worker.keys import build_final_key, build_output_segment_key, build_segment_key, build_source_key
from media_worker.main import LocalContext
from media_worker.s3 import Target, describe, download, downloads, write_once

_AT_ONCE = 4


def split(aws: Aws, job_id: str, folder: Path, total: int) -> None:
    """Download the source and upload the same bytes as `total` objects."""
    source = describe(aws, aws.settings.input_bucket_name, build_source_key(job_id))
    assert source
    path = folder / "source"
    with downloads(aws) as manager:
        download(manager, source, path, Deadline(LocalContext("bound")))
    slices = [folder / str(index) for index in range(total)]
    _cut(path, slices)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        targets = [
            Target(source.bucket, build_segment_key(job_id, index, total, "sbs"), ("source-etag", source.etag))
            for index in range(total)
        ]
        list(pool.map(partial(_upload, aws), slices, targets))


def join(aws: Aws, job_id: str, folder: Path, total: int) -> None:
    """Download the segments and upload the same bytes as one object."""
    bucket = aws.settings.output_bucket_name
    whole = folder / "final"
    with downloads(aws) as manager, whole.open("wb") as final:
        for index in range(total):
            segment = describe(aws, bucket, build_output_segment_key(job_id, index))
            assert segment
            download(manager, segment, folder / str(index), Deadline(LocalContext("bound")))
        for index in range(total):
            with (folder / str(index)).open("rb") as segment_file:
                shutil.copyfileobj(segment_file, final, 1 << 20)
    _upload(aws, whole, Target(bucket, build_final_key(job_id), ("source-etag", "bound")))


def _upload(aws: Aws, path: Path, target: Target) -> None:
    write_once(aws, target, [ByteRange(0, 0, path.stat().st_size)], [path])


def _cut(path: Path, slices: list[Path]) -> None:
    """Copy the file into slices of equal size, block by block."""
    size = path.stat().st_size
    with path.open("rb") as source:
        for index, slice_path in enumerate(slices):
            with slice_path.open("wb") as target:
                remaining = size * (index + 1) // len(slices) - size * index // len(slices)
                while remaining:
                    block = source.read(min(remaining, 1 << 20))
                    target.write(block)
                    remaining -= len(block)
