"""Video files on this machine: fetching the final, counting frames."""

import subprocess
from collections.abc import Callable
from pathlib import Path

from botocore.exceptions import ClientError
from media_worker.aws import Aws
from media_worker.keys import build_final_key

from local.binaries import ffprobe_path
from local.errors import UsageError


def require_source(path: Path) -> None:
    """Stop before a source that cannot be read.

    Raises:
        UsageError: it is missing, a directory, or not ours to read.
    """
    try:
        with path.open("rb"):
            return
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def require_target(path: Path, source: Path | None = None) -> None:
    """Make the folder of a file that will be written.

    Raises:
        UsageError: nothing can be written there, or it is the source.
    """
    if source and path.exists() and path.samefile(source):
        raise UsageError(f"--out {path} is the source itself")
    if path.is_dir():
        raise UsageError(f"--out {path} is a directory: give a file's name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial(path)
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


def fetch(aws: Aws, job_id: str, path: Path, on_bytes: Callable[[int], None]) -> None:
    """Download a job's final. The file is there when all of it is.

    Raises:
        UsageError: there is no final.
    """
    partial = _partial(path)
    try:
        aws.s3.download_file(aws.settings.output_bucket_name, build_final_key(job_id), str(partial), Callback=on_bytes)
        partial.replace(path)
    except ClientError as error:
        if error.response["Error"]["Code"] in {"404", "NoSuchKey"}:
            raise UsageError(f"job {job_id!r} has no final") from error
        raise
    finally:
        partial.unlink(missing_ok=True)


def final_size_bytes(aws: Aws, job_id: str) -> int:
    """The size of a job's final.

    Raises:
        UsageError: there is no final.
    """
    try:
        head = aws.s3.head_object(Bucket=aws.settings.output_bucket_name, Key=build_final_key(job_id))
    except ClientError as error:
        if error.response["Error"]["Code"] in {"404", "NoSuchKey"}:
            raise UsageError(f"job {job_id!r} has no final") from error
        raise
    return head["ContentLength"]


def count_frames(path: Path) -> int | None:
    """The number of video packets of the first video that is no cover picture; None when nothing can be counted."""
    entries = ["-select_streams", "V:0", "-count_packets", "-show_entries", "stream=nb_read_packets"]
    argv = [str(ffprobe_path()), "-v", "error", *entries, "-of", "csv=p=0", f"file:{path}"]
    counted = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    first = counted.stdout.strip().partition("\n")[0].strip(",")
    return int(first) if first.isdigit() else None


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")
