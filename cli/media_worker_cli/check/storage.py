"""What S3 must do: copy parts, refuse to replace an object, and remove segments after some days."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from botocore.exceptions import ClientError
from media_worker.keys import build_final_key

from media_worker_cli.check.smoke import SEGMENTS, Disproven, NotChecked, Smoke, permitted

_PRECONDITION_FAILED = 412


def part_copies(smoke: Smoke) -> str:
    """The segments of the copy engine are multipart objects, and a part of each was copied."""
    found = []
    for index in range(SEGMENTS):
        segment = smoke.segment(smoke.trial("copy"), index)
        _, _, parts = segment.etag.partition("-")
        if not parts or int(parts) < 2:  # noqa: PLR2004 - one uploaded part, one copied part
            raise Disproven(f"segment {index} was written in one part, although it has {segment.size_bytes} bytes")
        found.append(f"{segment.size_bytes / 1e6:.1f} MB in {parts} parts")
    head: Any = smoke.aws.s3.head_object(Bucket=segment.bucket, Key=segment.key, ChecksumMode="ENABLED")
    kind = head.get("ChecksumType") or next((name for name in head if name.startswith("Checksum")), "none")
    return f"{'; '.join(found)}; checksum of the object: {kind}"


def conditional_writes(smoke: Smoke) -> str:
    """S3 refuses to write an object that exists, by PutObject and by CompleteMultipartUpload."""
    trial = smoke.trial("copy")
    segment = smoke.segment(trial, 0)
    address: Any = {"Bucket": segment.bucket, "Key": segment.key}
    s3 = smoke.aws.s3
    _require_412("PutObject", lambda: s3.put_object(**address, Body=b"", IfNoneMatch="*"))
    upload: Any = address | {"UploadId": s3.create_multipart_upload(**address)["UploadId"]}
    try:
        etag = s3.upload_part(**upload, PartNumber=1, Body=b"x")["ETag"]
        parts: Any = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
        _require_412(
            "CompleteMultipartUpload",
            lambda: s3.complete_multipart_upload(**upload, MultipartUpload=parts, IfNoneMatch="*"),
        )
    finally:
        with suppress(ClientError):
            s3.abort_multipart_upload(**upload)
    return "412 for PutObject and for CompleteMultipartUpload"


def _require_412(name: str, write: Callable[[], Any]) -> None:
    try:
        write()
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == _PRECONDITION_FAILED:
            return
        raise
    raise Disproven(f"{name} with If-None-Match replaced an object", "use an S3 that supports conditional writes")


def expiry(smoke: Smoke) -> str:
    """Lifecycle rules of the buckets remove segments, and by their tag processed segments, but no finals."""
    aws, settings, trial = smoke.aws, smoke.aws.settings, smoke.trial("copy")
    bucket, key = smoke.processed(trial, 0)
    with permitted("s3:GetObjectTagging"):
        answer = aws.s3.get_object_tagging(Bucket=bucket, Key=key)
    tags = {each["Key"]: each["Value"] for each in answer["TagSet"]}
    tag = ", ".join(f"{name}={value}" for name, value in tags.items()) or "missing"
    segments = _expires_after(smoke, settings.input_bucket_name, smoke.segment(trial, 0).key, {})
    processed = _expires_after(smoke, bucket, key, tags)
    final = _expires_after(smoke, bucket, build_final_key(trial.job_id), {})
    if settings.aws_endpoint_url and {segments, processed, final} == {None}:
        raise NotChecked(
            f"the tag of processed segments is {tag}, but the buckets of this endpoint have no lifecycle rules"
        )
    if final is not None:
        raise Disproven(f"a lifecycle rule removes finals after {final} days", "limit the rule to the expiry tag")
    for what, days in (("segments", segments), (f"processed segments, whose tag is {tag}", processed)):
        if days is None:
            raise Disproven(
                f"no lifecycle rule removes {what}",
                "add the lifecycle rules of template.yaml to the buckets; for buckets of your own, they are in the "
                "outputs TodoInputBucketLifecycle and TodoOutputBucketLifecycle",
            )
    return f"segments after {segments} days, processed segments by the tag {tag} after {processed} days, finals never"


def _expires_after(smoke: Smoke, bucket: str, key: str, tags: Mapping[str, str]) -> int | None:
    """Days until a lifecycle rule removes the object, or None."""
    try:
        with permitted("s3:GetLifecycleConfiguration"):
            rules: Any = smoke.aws.s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchLifecycleConfiguration":
            return None
        raise
    days = [
        int(rule["Expiration"]["Days"])
        for rule in rules
        if rule["Status"] == "Enabled" and "Days" in rule.get("Expiration", {}) and _applies(rule, key, tags)
    ]
    return min(days, default=None)


def _applies(rule: Mapping[str, Any], key: str, tags: Mapping[str, str]) -> bool:
    """Whether the rule applies to the object, whatever its size."""
    chosen = rule.get("Filter", {})
    every = chosen.get("And", chosen)
    prefix = every.get("Prefix", rule.get("Prefix", "")) or ""
    wanted = [*every.get("Tags", ()), *([every["Tag"]] if "Tag" in every else ())]
    # S3 reports "larger than 0" for a rule without a limit.
    has_limits = any(every.get(name) for name in ("ObjectSizeGreaterThan", "ObjectSizeLessThan"))
    return key.startswith(prefix) and not has_limits and all(tags.get(tag["Key"]) == tag["Value"] for tag in wanted)
