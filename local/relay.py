"""The way from a container to the local cloud, which listens on this machine's loopback alone."""

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator

import docker  # type: ignore[import-untyped]
import docker.errors  # type: ignore[import-untyped]

from local.cloud import HOST

_BLOCK = 65_536
_POLL_S = 0.05


def bridge_gateway() -> str | None:
    """The address of the machine on Docker's bridge, or None when containers share the machine's own network."""
    with contextlib.closing(docker.from_env()) as client:
        try:
            configuration = client.networks.get("bridge").attrs["IPAM"]["Config"]
        except docker.errors.NotFound:
            return None
    return str(configuration[0]["Gateway"])


@contextlib.contextmanager
def reachable_from_containers(port: int, gateway: str | None = None) -> Iterator[str]:
    """The URL under which a container reaches what listens on a port of this machine's loopback.

    On Linux the bridge's gateway is an address of this machine, so a relay listens there. Docker Desktop keeps the
    bridge inside its virtual machine and passes `host.docker.internal` on to the loopback.
    """
    gateway = gateway or bridge_gateway()
    if gateway is None:
        yield f"http://{HOST}:{port}"
        return
    try:
        relay = _Relay(gateway, port)
    except OSError:
        yield f"http://host.docker.internal:{port}"
        return
    with relay:
        threading.Thread(target=relay.serve_forever, args=(_POLL_S,), daemon=True).start()
        try:
            yield f"http://{gateway}:{relay.server_address[1]}"
        finally:
            relay.shutdown()


class _Relay(socketserver.ThreadingTCPServer):
    """Passes every connection on to a port of this machine's loopback."""

    daemon_threads = True

    def __init__(self, gateway: str, port: int) -> None:
        self.port = port
        super().__init__((gateway, 0), _Connection)


class _Connection(socketserver.BaseRequestHandler):
    server: _Relay

    def handle(self) -> None:
        """Copy both ways until both sides have said all."""
        with socket.create_connection((HOST, self.server.port)) as cloud:
            back = threading.Thread(target=_copy, args=(cloud, self.request), daemon=True)
            back.start()
            _copy(self.request, cloud)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(_BLOCK):
            target.sendall(block)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
