"""Functions in containers: the way from there to the local cloud, and what is read of events and reports."""

import http.server
import json
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.errors import LocalError
from local.relay import reachable_from_containers
from local.sam_local import read_duration_ms, read_upload

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


def test_the_relay_passes_on_both_ways(port: int) -> None:
    """A container that reaches the machine's address on the bridge gets whole answers of the local cloud."""
    with reachable_from_containers(port, gateway="127.0.0.1") as url:
        assert not url.endswith(f":{port}")
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for _ in range(2):
            with direct.open(url, timeout=10) as answer:
                assert answer.read() == BODY
    with pytest.raises(OSError, match="refused"), direct.open(url, timeout=10):
        pass


def test_a_bridge_in_a_virtual_machine(port: int) -> None:
    """Where the bridge's address is none of this machine's, the name that Docker Desktop gives it is used."""
    with reachable_from_containers(port, gateway="192.0.2.1") as url:
        assert url == f"http://host.docker.internal:{port}"


def test_the_report_is_read() -> None:
    """The duration, not the billed one."""
    report = "REPORT RequestId: 1\tInit Duration: 0.1 ms\tDuration: 12.5 ms\tBilled Duration: 13 ms\t"
    assert read_duration_ms(["START", report, "END"]) == 12.5


def test_the_event_names_the_bucket() -> None:
    """The source goes where events/s3_put.json says, whatever the stack's bucket is called."""
    request = read_upload()
    assert (request.bucket, request.job_id) == ("media-worker-input", "job-1")


def test_an_event_about_nothing(tmp_path: Path) -> None:
    """An event that names no source is said to."""
    record = {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "b"}, "object": {"key": "elsewhere"}}}
    body = json.dumps({"Records": [record]})
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "s3_put.json").write_text(json.dumps({"Records": [{"body": body}]}))
    with pytest.raises(LocalError, match="about no source"):
        read_upload(tmp_path)
