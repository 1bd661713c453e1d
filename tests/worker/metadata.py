"""The metadata services of EC2 and ECS, on a real port."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "secret"


@dataclass
class Metadata:
    """What the services answer, by path, and what was asked of them."""

    url: str = ""
    entries: dict[str, str] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)


@contextmanager
def serving() -> Iterator[Metadata]:
    metadata = Metadata()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            metadata.requests.append(("PUT", self.path, body))
            self._answer(TOKEN if self.path == "/latest/api/token" else "{}")

        def do_GET(self) -> None:
            metadata.requests.append(("GET", self.path, ""))
            is_ec2 = self.path.startswith("/latest/")
            if is_ec2 and self.headers.get("X-aws-ec2-metadata-token") != TOKEN:
                self._answer("", 401)
            elif self.path in metadata.entries:
                self._answer(metadata.entries[self.path])
            else:
                self._answer("", 404)

        def _answer(self, text: str, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        metadata.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield metadata
        finally:
            server.shutdown()
            thread.join()


def ecs_task(status: str) -> str:
    return json.dumps({"TaskARN": "arn:aws:ecs:us-east-1:1:task/cluster/abc", "DesiredStatus": status})
