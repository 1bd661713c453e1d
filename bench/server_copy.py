"""The lower bound for the copy engine: S3 copies the bytes of a split or a join, and nothing else happens."""

from pathlib import Path

from media_worker.aws import Aws
from media_worker.byte_ranges import ByteRange
from media_worker.keys import build_final_key, build_output_segment_key, build_segment_key, build_source_key
from media_worker.s3 import Target, describe, write_once


def split(aws: Aws, job_id: str, folder: Path, total: int) -> None:
    """Copy ranges of equal size of the source into `total` objects, one after the other."""
    del folder
    source = describe(aws, aws.settings.input_bucket_name, build_source_key(job_id))
    assert source
    for index in range(total):
        begin, end = source.size_bytes * index // total, source.size_bytes * (index + 1) // total
        target = Target(source.bucket, build_segment_key(job_id, index, total, "sbs"), ("source-etag", source.etag))
        write_once(aws, target, [ByteRange(0, begin, end - begin)], [source])


def join(aws: Aws, job_id: str, folder: Path, total: int) -> None:
    """Copy all segments into one object."""
    del folder
    bucket = aws.settings.output_bucket_name
    found = [describe(aws, bucket, build_output_segment_key(job_id, index)) for index in range(total)]
    segments = [segment for segment in found if segment]
    contents = [ByteRange(index, 0, segment.size_bytes) for index, segment in enumerate(segments)]
    write_once(aws, Target(bucket, build_final_key(job_id), ("source-etag", "server")), contents, segments)
