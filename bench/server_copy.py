"""Two lower bounds for the copy engine. S3 copies the bytes of a split or a join, and nothing else happens (`server`).
Or there is a header in front of each object, so its first part, of 5 MiB, must be uploaded (`minimum`).
"""

from media_worker.aws import Aws
from media_worker.byte_ranges import ByteRange, Content
from media_worker.keys import build_final_key, build_output_segment_key, build_segment_key, build_source_key
from media_worker.s3 import Target, describe, write_once

HEADER = bytes(60_000)  # about the size of a segment's


def split(aws: Aws, job_id: str, total: int, header: bytes) -> None:
    """Copy ranges of equal size of the source into `total` objects, one after the other."""
    source = describe(aws, aws.settings.input_bucket_name, build_source_key(job_id))
    assert source
    for index in range(total):
        begin, end = source.size_bytes * index // total, source.size_bytes * (index + 1) // total
        target = Target(source.bucket, build_segment_key(job_id, index, total, "sbs"), ("source-etag", source.etag))
        write_once(aws, target, [header, ByteRange(0, begin, end - begin)], [source])


def join(aws: Aws, job_id: str, total: int, header: bytes) -> None:
    """Copy all segments into one object."""
    bucket = aws.settings.output_bucket_name
    found = [describe(aws, bucket, build_output_segment_key(job_id, index)) for index in range(total)]
    segments = [segment for segment in found if segment]
    contents: list[Content] = [
        header,
        *(ByteRange(index, 0, segment.size_bytes) for index, segment in enumerate(segments)),
    ]
    write_once(aws, Target(bucket, build_final_key(job_id), ("source-etag", "server")), contents, segments)
