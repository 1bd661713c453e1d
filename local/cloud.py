"""The local cloud: one ministack process on loopback with the stack deployed into it.

State directory: `cloud.json` (what runs, and what is deployed in it), `alive` (a file that the process holds locked for
as long as it lives, however it dies: no mistaken identity after a pid was used again), `cloud.log`, `tmp`.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import IO

from local import checkout, deployment
from local.errors import CloudError
from local.locks import Lock

HOST = "127.0.0.1"
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 3.0
_PORT_TRIES = 3
_TAIL_LINES = 10

type Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Cloud:
    """A running local cloud. `deployed` is the fingerprint of what was deployed into it; empty when nothing was yet."""

    pid: int
    port: int
    deployed: str = ""

    @property
    def endpoint(self) -> str:
        """The URL that AWS clients are given."""
        return f"http://{HOST}:{self.port}"


def find(state: Path) -> Cloud | None:
    """The cloud of a state directory, or None when none is running."""
    if not (state / "alive").exists() or not Lock(state / "alive").is_taken():
        return None
    try:
        return Cloud(**json.loads((state / "cloud.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None  # started this very moment by somebody who has not written it down yet


def current_fingerprint() -> str:
    """The fingerprint of the checkout as it is now."""
    return checkout.fingerprint(checkout.ROOT, (*deployment.parameters(), sys.version))


def bring_up(state: Path, environ: Mapping[str, str], report: Report, *, may_redeploy: bool) -> tuple[Cloud, bool]:
    """Start the cloud unless it is running, deploy unless this checkout is deployed. Says whether it was started here.

    Raises:
        CloudError: it did not start, or did not take the stack, or may not be redeployed.
    """
    cloud, started = find(state), False
    if cloud is None:
        report("starting the local cloud")
        cloud, started = _start(state, environ), True
    try:
        return _deploy_current(state, cloud, environ, report, may_redeploy=started or may_redeploy), started
    except BaseException:
        if started:
            stop(state)
        raise


def _deploy_current(
    state: Path, cloud: Cloud, environ: Mapping[str, str], report: Report, *, may_redeploy: bool
) -> Cloud:
    wanted = current_fingerprint()
    if cloud.deployed == wanted:
        return cloud
    if not may_redeploy:
        raise CloudError("the checkout has changed, and another run is using the local cloud: wait for its end")
    report("building and deploying the stack (sam build, sam deploy)")
    deployment.deploy(cloud.endpoint, environ, state, wanted)
    return _note(state, replace(cloud, deployed=wanted))


def stop(state: Path) -> bool:
    """End the cloud and everything that it started. Says whether one was running."""
    cloud = find(state)
    if cloud:
        _end(state, cloud.pid)
    _forget(state)
    return cloud is not None


def is_answering(cloud: Cloud) -> bool:
    """Whether the cloud takes requests."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{cloud.endpoint}/_ministack/health", timeout=5) as response:
            return bool(response.status == HTTPStatus.OK)
    except OSError:
        return False


def _start(state: Path, environ: Mapping[str, str]) -> Cloud:
    _forget(state)
    (state / "tmp").mkdir(parents=True)
    for _ in range(_PORT_TRIES):
        port = _free_port()
        with Lock(state / "alive").taken() as alive, (state / "cloud.log").open("w") as log:
            process = _spawn(state, environ, port, alive, log)
        try:
            cloud = _note(state, Cloud(process.pid, port))
            if _wait_until_answering(cloud, process):
                return cloud
        except BaseException:
            _end(state, process.pid)
            raise
    tail = "\n".join((state / "cloud.log").read_text(errors="replace").splitlines()[-_TAIL_LINES:])
    raise CloudError(f"{tail}\nthe local cloud did not start; all that it said is in {state / 'cloud.log'}")


def _spawn(state: Path, environ: Mapping[str, str], port: int, alive: IO[str], log: IO[str]) -> subprocess.Popen[bytes]:
    """A session of its own keeps a terminal's Ctrl-C away from it, and makes one group of all that it starts."""
    return subprocess.Popen(
        [sys.executable, "-m", "ministack"],
        env=_server_environment(state, environ, port),
        cwd=state,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=[alive.fileno()],
        start_new_session=True,
    )


def _server_environment(state: Path, environ: Mapping[str, str], port: int) -> dict[str, str]:
    """Little of the user's: the functions inherit it. One listener, and hands off a Docker that may be there."""
    return {
        "PATH": environ.get("PATH", os.defpath),
        "HOME": str(state),
        "TMPDIR": str(state / "tmp"),
        "LANG": "C.UTF-8",
        "BIND_HOST": HOST,
        "MINISTACK_HOST": HOST,
        "GATEWAY_PORT": str(port),
        "STATE_DIR": str(state / "tmp" / "state"),
        "S3_DATA_DIR": str(state / "tmp" / "s3"),
        "LAMBDA_EXECUTOR": "local",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "DOCKER_HOST": f"unix://{state / 'no-docker'}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def _wait_until_answering(cloud: Cloud, process: subprocess.Popen[bytes]) -> bool:
    give_up = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None:
        if is_answering(cloud):
            return True
        if time.monotonic() > give_up:
            raise CloudError(f"the local cloud did not answer within {_START_TIMEOUT_S:.0f} s")
        time.sleep(0.1)
    return False  # somebody else took the port between our look and its start


def _end(state: Path, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    give_up = time.monotonic() + _STOP_TIMEOUT_S
    while Lock(state / "alive").is_taken() and time.monotonic() < give_up:
        time.sleep(0.05)
    # A function that is busy does not notice that its cloud is gone; it is in the cloud's process group.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _forget(state: Path) -> None:
    """Remove what a cloud left that has ended, well or not."""
    (state / "cloud.json").unlink(missing_ok=True)
    shutil.rmtree(state / "tmp", ignore_errors=True)


def _note(state: Path, cloud: Cloud) -> Cloud:
    fresh = state / "cloud.json.new"
    fresh.write_text(json.dumps(asdict(cloud)))
    fresh.replace(state / "cloud.json")
    return cloud


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def occupied(state: Path, environ: Mapping[str, str], report: Report) -> Iterator[Cloud]:
    """The cloud, brought up when needed, for as long as one run needs it.

    It stays up afterwards, for the next run. But when the run is interrupted, a cloud that was started for it goes,
    unless another run is using it by then.
    """
    users, door = Lock(state / "users"), Lock(state / "lock")
    with contextlib.ExitStack() as occupancy:
        with door.taken():
            cloud, started = bring_up(state, environ, report, may_redeploy=not users.is_held())
            occupancy.enter_context(users.shared())
        try:
            yield cloud
            if started:
                report("the local cloud stays up for the next run; `media-worker down` stops it")
        except KeyboardInterrupt:
            occupancy.close()
            with door.taken():
                if started and not users.is_held():
                    stop(state)
            raise
