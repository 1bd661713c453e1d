"""Functions in containers: how they reach the local cloud, and how events and reports are read."""

import http.server
import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from media_worker_cli.errors import CommandError
from media_worker_cli.local.sam_local import reachable_from_containers, read_duration_ms, read_upload

BODY = b"x" * 1_000_000


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_the_relay_forwards_in_both_directions(port: int) -> None:
    """A client of the relay gets complete answers. After the end of the block the relay is closed."""
    with reachable_from_containers(port, gateway="127.0.0.1") as url:
        assert not url.endswith(f":{port}")
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(2):
            with direct.open(url, timeout=10) as answer:
                assert answer.read() == BODY
    with pytest.raises(OSError, match="refused"), direct.open(url, timeout=10):
        pass


def test_a_bridge_in_a_virtual_machine(port: int) -> None:
    """If the gateway is not an address of this machine, the URL has Docker Desktop's name for the host."""
    with reachable_from_containers(port, gateway="192.0.2.1") as url:
        assert url == f"http://host.docker.internal:{port}"


def test_the_duration_is_read_from_the_report() -> None:
    """The duration, not the init duration or the billed duration."""
    report = "REPORT RequestId: 1\tInit Duration: 0.1 ms\tDuration: 12.5 ms\tBilled Duration: 13 ms\t"
    assert read_duration_ms(["START", report, "END"]) == 12.5


def test_the_event_names_the_bucket() -> None:
    """The source is uploaded to the bucket in events/s3_put.json, not to the stack's."""
    request = read_upload()
    assert (request.bucket, request.job_id) == ("media-worker-input", "job-1")


def test_an_event_without_a_source_is_refused(tmp_path: Path) -> None:
    """The error names the file."""
    record = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": {"key": "elsewhere"}}}
    body = json.dumps({"Records": [record]})
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "s3_put.json").write_text(json.dumps({"Records": [{"body": body}]}))
    with pytest.raises(CommandError, match=r"s3_put\.json does not announce a source"):
        read_upload(tmp_path)
