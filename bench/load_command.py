"""The segment command of bench/load.py: copies the segment, and logs the run.

Before it works, it asks S3 whether the processed segment is uploaded already. Such a run is wasted.
"""

import http.client
import json
import os
import shutil
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit


def is_uploaded(endpoint: str, bucket: str, key: str) -> bool:
    """Whether the local cloud, which checks no signatures, has the object."""
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=60)
    connection.request("HEAD", f"/{bucket}/{key}")
    return connection.getresponse().status == http.client.OK


def append(log: Path, line: dict[str, object]) -> None:
    """Append a line in one write, because many runs share the file."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        os.write(descriptor, (json.dumps(line) + "\n").encode())
    finally:
        os.close(descriptor)


def main(log: str, bucket: str, seconds: str, segment: str, output: str) -> None:
    """Log the run, work for so many seconds, and write the output."""
    job, index = os.environ["MEDIA_WORKER_JOB"], os.environ["MEDIA_WORKER_INDEX"]
    wasted = is_uploaded(os.environ["AWS_ENDPOINT_URL"], bucket, f"jobs/{job}/segments/{index}.mp4")
    append(Path(log), {"job": job, "index": int(index), "wasted": wasted})
    time.sleep(float(seconds))
    shutil.copyfile(segment, output)


if __name__ == "__main__":
    main(*sys.argv[1:])
