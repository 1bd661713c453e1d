"""Uploading a source: a broken upload goes on where it stopped."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from media_worker.keys import build_source_key
from media_worker_cli import commands, uploading
from media_worker_cli.errors import UploadBroken, UsageError
from media_worker_cli.main import build_parser
from media_worker_cli.stack import Stack as CliStack
from media_worker_cli.submission import Submission, require_resumable, submit, upload_source
from media_worker_cli.uploading import MIN_PART_BYTES, plan_parts

from tests.functional.stack import INPUT, Stack


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two parts and a half, of different bytes."""
    path = tmp_path / "my video.mp4"
    path.write_bytes(b"".join(bytes([number]) * MIN_PART_BYTES for number in range(2)) + b"end")
    return path


class Breaking:
    """An S3 client whose connection breaks at the n-th part."""

    def __init__(self, client: Any, at: int, error: BaseException) -> None:
        self._client, self._left, self._error = client, at, error
        self.parts: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def upload_part(self, **arguments: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise self._error
        self.parts.append(arguments["PartNumber"])
        return self._client.upload_part(**arguments)


BROKEN = EndpointConnectionError(endpoint_url="https://s3")


@pytest.fixture
def breaking(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replaces the S3 client of the stack."""
    monkeypatch.setattr(uploading, "_PARTS_AT_ONCE", 1)
    real = stack.aws.s3

    def use(at: int = 99, error: BaseException = BROKEN) -> Any:
        client: Any = Breaking(real, at, error)
        stack.aws = replace(stack.aws, s3=client)
        return client

    return use


def uploaded(stack: Stack) -> bytes:
    return stack.read(INPUT, build_source_key("video-1"))


def test_a_broken_upload_goes_on_where_it_stopped(stack: Stack, source: Path, breaking: Any) -> None:
    """Parts that S3 has are not sent again. The error says how to resume."""
    breaking(at=2)
    submission, sizes = Submission("video-1", source), list[int]()
    with pytest.raises(
        UploadBroken, match=r"resume the upload with `media-worker submit '.*my video.mp4' --resume video-1`"
    ):
        submit(stack.aws, submission, sizes.append)
    client = breaking()
    sizes.clear()
    upload_source(stack.aws, submission, sizes.append)
    assert client.parts == [3]
    assert sizes == [MIN_PART_BYTES, MIN_PART_BYTES, 3]
    assert uploaded(stack) == source.read_bytes()


def test_a_part_that_was_changed_is_sent_again(stack: Stack, source: Path, breaking: Any) -> None:
    """The file was edited between the two attempts."""
    breaking(at=2)
    submission = Submission("video-1", source)
    with pytest.raises(UploadBroken):
        submit(stack.aws, submission, print)
    with source.open("r+b") as file:
        file.write(b"other")
    client = breaking()
    upload_source(stack.aws, submission, print)
    assert client.parts == [1, 3]
    assert uploaded(stack) == source.read_bytes()


def test_an_interrupt_says_how_to_resume(stack: Stack, source: Path, breaking: Any) -> None:
    """And stays an interrupt, which has its own exit code."""
    breaking(at=1, error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt, match="interrupted: resume the upload with"):
        submit(stack.aws, Submission("video-1", source), print)


def test_an_upload_that_was_complete_is_not_repeated(stack: Stack, source: Path, breaking: Any) -> None:
    """Only its answer was lost."""
    submit(stack.aws, Submission("video-1", source), print)
    client = breaking(at=0)
    upload_source(stack.aws, Submission("video-1", source), print)
    assert client.parts == []


def test_a_small_file_is_one_request(stack: Stack, tmp_path: Path, breaking: Any) -> None:
    """An empty one too: that it is no video is found by the chunking."""
    breaking(at=0)
    small = tmp_path / "small.mp4"
    small.write_bytes(b"small")
    submit(stack.aws, Submission("video-1", small), print)
    assert uploaded(stack) == b"small"


@pytest.mark.parametrize(
    ("attributes", "complaint"),
    [
        ({"status": {"S": "failed"}}, "job video-1 is failed: its source was uploaded"),
        ({"source_file_size_bytes": {"N": "7"}}, r"has \d+ bytes, but job video-1 is for a file of 7 bytes"),
    ],
)
def test_only_a_job_that_waits_for_this_file_is_resumed(
    stack: Stack, source: Path, attributes: dict[str, Any], complaint: str
) -> None:
    """Otherwise the new object would start a job again, or a job for another video."""
    stack.add_job("video-1", **attributes)
    with pytest.raises(UsageError, match=complaint):
        require_resumable(stack.aws, Submission("video-1", source))
    with pytest.raises(UsageError, match="there is no job 'video-2'"):
        require_resumable(stack.aws, Submission("video-2", source))


def test_the_command_resumes_a_job(
    stack: Stack, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints the job id again, and the job keeps its options."""
    stack.add_job("video-1", engine={"S": "copy"})
    monkeypatch.setattr(commands, "choose_stack", lambda _: CliStack("test", stack.aws, {}))
    arguments = build_parser().parse_args(["submit", str(source), "--resume", "video-1"])
    assert commands.submit(arguments) == 0
    assert capsys.readouterr().out == "video-1\n"
    assert stack.job("video-1").engine == "copy"
    assert uploaded(stack) == source.read_bytes()


def test_parts_cover_the_file_and_are_never_too_many() -> None:
    """S3 takes 10,000 parts of at least 5 MiB."""
    for size_bytes in (0, 1, MIN_PART_BYTES, MIN_PART_BYTES + 1, 10**9, 3 * 10**12):
        parts = plan_parts(size_bytes)
        assert sum(part.size_bytes for part in parts) == size_bytes
        assert len(parts) <= 10_000
        assert [part.offset for part in parts] == [
            sum(p.size_bytes for p in parts[:n]) for n in range(min(3, len(parts)))
        ] + [part.offset for part in parts[3:]]
