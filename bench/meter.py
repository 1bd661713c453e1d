"""The cost of some work, measured inside its process: seconds, bytes and S3 calls, memory, temporary space."""

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from botocore.utils import determine_content_length
from media_worker.aws import Aws

_SAMPLE_S = 0.05
_SENDING = frozenset({"PutObject", "UploadPart"})
_COMPLETING = frozenset({"PutObject", "CompleteMultipartUpload"})
# Of a segment and of the final. The plan is an object too, but nobody waits for it.
_MEDIA_SUFFIX = ".mp4"


@dataclass(slots=True)
class Cost:
    """The figures."""

    seconds: float = 0
    first_object_s: float = 0
    mb_in: float = 0
    mb_out: float = 0
    s3_calls: int = 0
    peak_rss_mb: float = 0
    peak_tmp_mb: float = 0

    def as_row(self) -> dict[str, float]:
        """As a row for JSON."""
        return asdict(self)


class Meter:
    """Watches an S3 client's calls and the temporary directory."""

    def __init__(self, aws: Aws) -> None:
        self.cost = Cost()
        self._lock = threading.Lock()
        self._begin = time.monotonic()
        self._end = threading.Event()
        events = aws.s3.meta.events
        events.register("request-created.s3", self._sent)
        events.register("after-call.s3", self._answered)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure the body."""
        sampler = threading.Thread(target=self._sample, daemon=True)
        sampler.start()
        self._begin = time.monotonic()
        try:
            yield
        finally:
            self.cost.seconds = time.monotonic() - self._begin
            self._end.set()
            sampler.join()
            self.cost.peak_rss_mb = peak_rss_mb()

    def _sent(self, request: Any, operation_name: str, **_: Any) -> None:
        with self._lock:
            self.cost.s3_calls += 1
            if operation_name in _SENDING:
                self.cost.mb_out += _body_bytes(request) / 1e6

    def _answered(self, model: Any, parsed: dict[str, Any], http_response: Any, **_: Any) -> None:
        with self._lock:
            if model.name == "GetObject":
                self.cost.mb_in += parsed.get("ContentLength", 0) / 1e6
            is_media = urlsplit(http_response.url).path.endswith(_MEDIA_SUFFIX)
            if model.name in _COMPLETING and is_media and not self.cost.first_object_s:
                self.cost.first_object_s = time.monotonic() - self._begin

    def _sample(self) -> None:
        folder = Path(tempfile.gettempdir())
        while not self._end.wait(_SAMPLE_S):
            self.cost.peak_tmp_mb = max(self.cost.peak_tmp_mb, _size_mb(folder))


def _body_bytes(request: Any) -> int:
    """The size of a request's body: from its headers if they have it, else from the body."""
    stated = request.headers.get("X-Amz-Decoded-Content-Length") or request.headers.get("Content-Length")
    return int(stated) if stated else determine_content_length(request.data or b"") or 0


def peak_rss_mb() -> float:
    """The peak resident set size of this process. The figure of getrusage would start with the parent's."""
    status = Path("/proc/self/status").read_text()
    kib = next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]
    return int(kib) * 1024 / 1e6


def _size_mb(folder: Path) -> float:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_blocks * 512
        except OSError:
            continue  # removed in the meantime
    return total / 1e6
