"""moto over HTTP in a process of its own, so that AWS survives the death of a handler: `python -m
tests.crash.server`.

It prints its port and ends when its stdin is closed, so nothing is left when the tests are killed.
"""

import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE, Popen

from media_worker_cli.local.deployment import ROOT

# Small parts, so that a multipart upload takes a small file.
PART_BYTES = 64 * 1024


@contextmanager
def running() -> Iterator[str]:
    """A server for the body; its endpoint."""
    argv = [sys.executable, "-m", "tests.crash.server"]
    with Popen(argv, cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()
            process.wait(10)


def serve() -> None:
    # Objects stay in memory: moto would create a file for each.
    os.environ["MOTO_S3_DEFAULT_KEY_BUFFER_SIZE"] = str(64 * 1024 * 1024)
    from moto import settings

    settings.S3_UPLOAD_PART_MIN_SIZE = PART_BYTES
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    WSGIRequestHandler.protocol_version = "HTTP/1.1"
    server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    serve()
