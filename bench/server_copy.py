"""What S3 itself needs to copy the bytes of a split or a join: part copies of whole ranges, and nothing else."""

from pathlib import Path

from media_worker.aws import Aws
from media_worker.composition import compose_once
from media_worker.keys import build_final_key, build_output_segment_key, build_segment_key, build_source_key
from media_worker.parts import Range, plan_parts
from media_worker.s3 import Target, describe


def split(aws: Aws, job_id: str, folder: Path, total: int) -> None:
    """Copy equal ranges of the source into so many objects, one after the other."""
    del folder
    source = describe(aws, aws.settings.input_bucket_name, build_source_key(job_id))
    assert source
    for index in range(total):
        begin, end = source.size_bytes * index // total, source.size_bytes * (index + 1) // total
        target = Target(source.bucket, build_segment_key(job_id, index, total, "sbs"), source.etag)
        compose_once(aws, [source], plan_parts([Range(0, begin, end - begin)]), target)


def join(aws: Aws, job_id: str, folder: Path, total: int) -> None:
    """Copy whole segments behind each other into one object."""
    del folder
    bucket = aws.settings.output_bucket_name
    found = [describe(aws, bucket, build_output_segment_key(job_id, index)) for index in range(total)]
    segments = [segment for segment in found if segment]
    pieces = [Range(index, 0, segment.size_bytes) for index, segment in enumerate(segments)]
    compose_once(aws, segments, plan_parts(pieces), Target(bucket, build_final_key(job_id), "server"))
