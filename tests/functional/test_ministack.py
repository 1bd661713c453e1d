"""The ministack of the local cloud: objects are on disk, stacks can be updated, and everything else is as before."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from media_worker_cli.local import cloud as clouds
from media_worker_cli.local import ministack
from ministack.services import s3 as s3_service
from ministack.services.cloudformation import provisioners

MIB = 1024 * 1024
BUCKET = "bucket"


@dataclass(frozen=True)
class Server:
    """A ministack without a stack."""

    s3: Any
    process: Path
    objects: Path

    def disk_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.objects.rglob("*"))

    def peak_bytes(self) -> int:
        found = re.search(r"VmHWM:\s+(\d+) kB", (self.process / "status").read_text())
        assert found
        return int(found[1]) * 1024

    def put(self, key: str, content: bytes, **options: str) -> Any:
        return self.s3.put_object(Bucket=BUCKET, Key=key, Body=content, **options)

    def get(self, key: str, **options: Any) -> bytes:
        body: bytes = self.s3.get_object(Bucket=BUCKET, Key=key, **options)["Body"].read()
        return body

    def compose(self, key: str, parts: list[bytes | tuple[str, int, int]], **condition: str) -> None:
        """An object of uploaded parts and of copied ranges: key, first and last byte."""
        target = {"Bucket": BUCKET, "Key": key}
        upload: dict[str, Any] = target | {"UploadId": self.s3.create_multipart_upload(**target)["UploadId"]}

        def send(number: int, part: bytes | tuple[str, int, int]) -> Any:
            if isinstance(part, bytes):
                return self.s3.upload_part(**upload, PartNumber=number, Body=part)["ETag"]
            source, first, last = part
            copied = self.s3.upload_part_copy(
                **upload,
                PartNumber=number,
                CopySource={"Bucket": BUCKET, "Key": source},
                CopySourceRange=f"bytes={first}-{last}",
            )
            return copied["CopyPartResult"]["ETag"]

        numbers = range(1, len(parts) + 1)
        with ThreadPoolExecutor(4) as pool:
            etags = list(pool.map(send, numbers, parts))
        listed = [{"PartNumber": number, "ETag": etag} for number, etag in zip(numbers, etags, strict=True)]
        self.s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": listed}, **condition)


def connect(endpoint: str, service: Literal["s3", "cloudformation"] = "s3") -> Any:
    credentials: dict[str, Any] = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    config = Config(proxies={}, max_pool_connections=16)
    return boto3.client(service, endpoint_url=endpoint, region_name="us-east-1", config=config, **credentials)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    state, port = tmp_path_factory.mktemp("state"), clouds._free_port()
    (state / "tmp").mkdir()
    environment = clouds._server_environment(state, os.environ, port)
    with subprocess.Popen([sys.executable, "-m", ministack.__name__], env=environment, cwd=state) as process:
        try:
            cloud = clouds.Cloud(process.pid, port)
            assert clouds._wait_until_answering(cloud, process)
            with closing(connect(cloud.endpoint)) as s3:
                s3.create_bucket(Bucket=BUCKET)
                yield Server(s3, Path(f"/proc/{process.pid}"), state / "tmp" / "s3")
        finally:
            process.terminate()


@pytest.fixture
def server(running: Server) -> Iterator[Server]:
    """With no object. Afterwards, deleted objects have left nothing on disk."""
    yield running
    for listed in running.s3.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        running.s3.delete_object(Bucket=BUCKET, Key=listed["Key"])
    assert running.disk_bytes() == 0


def code_of(error: pytest.ExceptionInfo[ClientError]) -> str:
    return error.value.response["Error"]["Code"]


def test_memory_does_not_grow_with_an_object(server: Server) -> None:
    """256 MiB are uploaded in parts, copied in parts and read. The memory grows by less than half of that."""
    before = server.peak_bytes()
    part = os.urandom(8 * MIB)
    size = 32 * len(part)
    server.compose("source", [bytes([number]) + part[1:] for number in range(32)])
    uploaded = server.disk_bytes()
    ranges = [("source", first, min(first + 50 * MIB, size) - 1) for first in range(0, size, 50 * MIB)]
    server.compose("copy", [os.urandom(5 * MIB), *ranges])

    digests = [hashlib.sha256(), hashlib.sha256()]
    for key, skip, digest in (("source", 0, digests[0]), ("copy", 5 * MIB, digests[1])):
        body = server.s3.get_object(Bucket=BUCKET, Key=key)["Body"]
        body.read(skip)
        for chunk in body.iter_chunks(MIB):
            digest.update(chunk)
    assert digests[0].digest() == digests[1].digest()
    assert uploaded == size
    assert server.disk_bytes() == size + 5 * MIB, "a part copy takes no space"
    assert server.peak_bytes() - before < size / 2


def test_ranges_across_parts(server: Server) -> None:
    """A range may begin and end in any part, also of an object whose parts are copies of copies."""
    content = os.urandom(3000)
    server.put("a", content)
    server.compose("b", [content[:1000], ("a", 1000, 1999), content[2000:]])
    server.compose("c", [("b", 500, 2499), ("b", 999, 1000)])
    expected = content[500:2500] + content[999:1001]
    assert server.get("b") == content
    assert server.get("c") == expected
    for first, last in ((0, 0), (499, 500), (1, 1998), (1500, 9999), (2001, 2001)):
        assert server.get("c", Range=f"bytes={first}-{last}") == expected[first : last + 1]
    assert server.get("c", Range="bytes=-3") == expected[-3:]
    with pytest.raises(ClientError) as refused:
        server.get("c", Range="bytes=2002-")
    assert code_of(refused) == "InvalidRange"


def test_an_object_survives_its_source(server: Server) -> None:
    """A copy has the bytes of the time when it was made, whatever happens to its source."""
    server.put("source", b"first")
    server.compose("parts", [("source", 1, 3)])
    server.s3.copy_object(
        Bucket=BUCKET, Key="whole", CopySource={"Bucket": BUCKET, "Key": "source"}, ChecksumAlgorithm="SHA256"
    )
    server.put("source", b"other")
    assert (server.get("parts"), server.get("whole"), server.get("source")) == (b"irs", b"first", b"other")
    server.s3.delete_object(Bucket=BUCKET, Key="source")
    assert (server.get("parts"), server.get("whole")) == (b"irs", b"first")


def test_etags_are_those_of_s3(server: Server) -> None:
    """The MD5 of an object, and the MD5 of the MD5s of its parts."""
    server.put("a", b"abcdef")
    assert server.s3.head_object(Bucket=BUCKET, Key="a")["ETag"] == f'"{hashlib.md5(b"abcdef").hexdigest()}"'
    server.compose("b", [b"first", ("a", 2, 4)])
    expected = hashlib.md5(hashlib.md5(b"first").digest() + hashlib.md5(b"cde").digest()).hexdigest()
    head = server.s3.head_object(Bucket=BUCKET, Key="b")
    assert (head["ETag"], head["ContentLength"]) == (f'"{expected}-2"', 8)


def test_conditional_writes(server: Server) -> None:
    """The first PUT, or the first completed upload, of a key wins."""
    server.put("key", b"first", IfNoneMatch="*")
    with pytest.raises(ClientError) as put:
        server.put("key", b"second", IfNoneMatch="*")
    with pytest.raises(ClientError) as completed:
        server.compose("key", [b"third"], IfNoneMatch="*")
    assert code_of(put) == code_of(completed) == "PreconditionFailed"
    assert server.get("key") == b"first"
    for upload in server.s3.list_multipart_uploads(Bucket=BUCKET)["Uploads"]:
        server.s3.abort_multipart_upload(Bucket=BUCKET, Key="key", UploadId=upload["UploadId"])


def test_an_empty_object(server: Server) -> None:
    """It has no file."""
    server.put("empty", b"")
    assert server.get("empty") == b""


def test_versions(server: Server) -> None:
    """A bucket with versioning keeps the earlier bytes."""
    bucket = "versions"
    server.s3.create_bucket(Bucket=bucket)
    server.s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    written = [server.s3.put_object(Bucket=bucket, Key="key", Body=body)["VersionId"] for body in (b"one", b"two")]
    read = [server.s3.get_object(Bucket=bucket, Key="key", VersionId=version)["Body"].read() for version in written]
    assert read == [b"one", b"two"]
    for version in written:
        server.s3.delete_object(Bucket=bucket, Key="key", VersionId=version)


def test_an_unchanged_resource_of_a_nested_stack_keeps_its_attributes(server: Server) -> None:
    """An update of the nested stack may refer to them: the role of a function whose layer is new."""
    group = {"Type": "AWS::Logs::LogGroup", "Properties": {"LogGroupName": "/nested"}}
    child = {
        "Parameters": {"Days": {"Type": "Number"}},
        "Resources": {
            "Group": group,
            "Other": {"Type": "AWS::Logs::LogGroup", "Properties": {"RetentionInDays": {"Ref": "Days"}}},
        },
        "Outputs": {"Arn": {"Value": {"Fn::GetAtt": ["Group", "Arn"]}}},
    }
    server.put("child.json", json.dumps(child).encode())
    cloudformation = connect(server.s3.meta.endpoint_url, "cloudformation")
    for days, write in ((1, cloudformation.create_stack), (3, cloudformation.update_stack)):
        properties = {"TemplateURL": f"https://s3.amazonaws.com/{BUCKET}/child.json", "Parameters": {"Days": days}}
        nested = {"Type": "AWS::CloudFormation::Stack", "Properties": properties}
        outputs = {"Arn": {"Value": {"Fn::GetAtt": ["Nested", "Outputs.Arn"]}}}
        write(StackName="parent", TemplateBody=json.dumps({"Resources": {"Nested": nested}, "Outputs": outputs}))
        while (stack := cloudformation.describe_stacks(StackName="parent")["Stacks"][0])["StackStatus"].endswith(
            "PROGRESS"
        ):
            time.sleep(0.1)
        assert stack["StackStatus"] in {"CREATE_COMPLETE", "UPDATE_COMPLETE"}
        assert "log-group:/nested" in stack["Outputs"][0]["OutputValue"]
    cloudformation.delete_stack(StackName="parent")


def deployed(cloudformation: Any, name: str) -> Any:
    """The stack, after what is done to it has ended."""
    while True:
        stack = cloudformation.describe_stacks(StackName=name)["Stacks"][0]
        if not stack["StackStatus"].endswith("IN_PROGRESS"):
            return stack
        time.sleep(0.1)


def changed(original: ModuleType, name: str) -> ModuleType:
    """A part of ministack in which one function is another one."""
    module = ModuleType(original.__name__)
    vars(module).update(vars(original))
    vars(module)[name] = lambda: None
    return module


@pytest.mark.parametrize("name", ministack._ON_DISK)
def test_another_s3_service_is_refused(name: str) -> None:
    """Rather than kept in memory in part, or changed in the wrong spot."""
    with pytest.raises(ministack.UnknownMinistack, match=name):
        ministack.keep_on_disk(changed(s3_service, name))


def test_another_cloudformation_is_refused() -> None:
    """Rather than changed in the wrong spot."""
    name = "_cfn_nested_stack_deploy"
    with pytest.raises(ministack.UnknownMinistack, match=name):
        ministack.keep_attributes(changed(provisioners, name))


def test_the_cloud_does_not_start_with_another_ministack(tmp_path: Path) -> None:
    """The message names ministack's version and says what to do."""
    program = "from media_worker_cli.local.ministack import main, s3_service; s3_service._upload_part = print; main()"
    environment = os.environ | {"S3_DATA_DIR": str(tmp_path)}
    argv = [sys.executable, "-c", program]
    ended = subprocess.run(argv, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert re.search(r"^ministack [\d.]+ .*_upload_part.*install `media-worker\[local\]`", ended.stderr, re.MULTILINE)
