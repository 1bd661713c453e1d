"""The command `ui`: serve the page on loopback, and open it."""

# ruff: noqa: T201 - a command line prints

import socket
import sys
import webbrowser
from argparse import Namespace

from media_worker_cli.errors import CommandError, UsageError, install_command

_HOST = "127.0.0.1"
# Open pages hold a connection for their updates: without a limit the server would wait for them.
_SHUTDOWN_S = 1


def ui(arguments: Namespace) -> int:
    """Serve the page until interrupted.

    Raises:
        CommandError: the optional packages are not installed.
        UsageError: the port is not free.
    """
    try:
        import uvicorn  # noqa: PLC0415 - optional

        from media_worker_cli.ui.connection import Connection  # noqa: PLC0415
        from media_worker_cli.ui.security import Session  # noqa: PLC0415
        from media_worker_cli.ui.server import build_app  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise CommandError(f"{error.name} is not installed: install it with {install_command('ui')}") from error
    with _listen(arguments.port) as listener:
        session = Session(listener.getsockname()[1])
        config = uvicorn.Config(
            build_app(Connection(arguments.stack), session),
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=_SHUTDOWN_S,
        )
        print(f"the page is {session.url}\nCtrl-C stops the server", flush=True)
        if not arguments.no_open and not webbrowser.open(session.url):
            print("no browser was found: open the address yourself", file=sys.stderr)
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((_HOST, port))
    except (OSError, OverflowError) as error:
        raise UsageError(f"cannot listen on {_HOST}:{port}: {error}") from error
