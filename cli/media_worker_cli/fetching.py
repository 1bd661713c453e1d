"""Downloading a job's final."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from botocore.exceptions import ClientError
from media_worker.aws import Aws
from media_worker.keys import build_final_key

from media_worker_cli.errors import UsageError


def require_target(path: Path, source: Path | None = None) -> None:
    """Check that a file can be written, and create its folder.

    Raises:
        UsageError: it cannot be written, or it is the source.
    """
    if source and path.exists() and path.samefile(source):
        raise UsageError(f"--out {path} is the source itself")
    if path.is_dir():
        raise UsageError(f"--out {path} is a directory: give a file name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(path)
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def fetch(aws: Aws, job_id: str, path: Path, on_bytes: Callable[[int], None]) -> None:
    """Download a job's final. The file appears when it is complete.

    Raises:
        UsageError: the job has no final.
    """
    partial = _partial(path)
    try:
        with _final_required(job_id):
            aws.s3.download_file(
                aws.settings.output_bucket_name, build_final_key(job_id), str(partial), Callback=on_bytes
            )
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def final_size_bytes(aws: Aws, job_id: str) -> int:
    """The size of a job's final.

    Raises:
        UsageError: the job has no final.
    """
    with _final_required(job_id):
        head = aws.s3.head_object(Bucket=aws.settings.output_bucket_name, Key=build_final_key(job_id))
    return head["ContentLength"]


@contextmanager
def _final_required(job_id: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] in {"404", "NoSuchKey"}:
            raise UsageError(f"job {job_id!r} has no final") from error
        raise


def _partial(path: Path) -> Path:
    """The file that a download is written to until it is complete."""
    return path.with_name(f".{path.name}.partial")
