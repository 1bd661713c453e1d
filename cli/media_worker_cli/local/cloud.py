"""The local cloud: one ministack process that listens on loopback, with the stack deployed into it.

The state directory holds `cloud.json` (the process, its port, what is deployed), `alive` (a file that the process keeps
locked until it ends, because a pid may be reused), `lock` and `users` (locks of the commands), `cloud.log` and `tmp`.
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
from typing import IO, TypeAlias

from media_worker_cli.errors import CloudError, RunInterrupted
from media_worker_cli.local import deployment
from media_worker_cli.local.locks import Lock

HOST = "127.0.0.1"
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 3.0
_START_ATTEMPTS = 3
_TAIL_LINES = 10

Report: TypeAlias = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Cloud:
    """A running local cloud. `deployed` is the fingerprint of what is deployed into it, or empty."""

    pid: int
    port: int
    deployed: str = ""

    @property
    def endpoint(self) -> str:
        """The endpoint URL for AWS clients."""
        return f"http://{HOST}:{self.port}"


def state_directory(environ: Mapping[str, str]) -> Path:
    """The local cloud's state directory. MEDIA_WORKER_STATE_DIR names another one, for a second cloud."""
    return Path(environ.get("MEDIA_WORKER_STATE_DIR") or deployment.BUILDS).resolve()


def find(state: Path) -> Cloud | None:
    """The running cloud of a state directory, or None."""
    if not (state / "alive").exists() or not Lock(state / "alive").is_exclusive():
        return None
    try:
        return Cloud(**json.loads((state / "cloud.json").read_text()))
    except (OSError, ValueError, TypeError):
        return None  # another process is just starting it and has not written the file yet


def bring_up(state: Path, environ: Mapping[str, str], report: Report) -> Cloud:
    """Start the cloud if it is not running, and deploy this checkout if it is not deployed.

    Raises:
        CloudError: the cloud did not start, the deployment failed, or a run that uses the cloud forbids it.
    """
    with Lock(state / "lock").exclusive():
        return _bring_up(state, environ, report)[0]


def stop(state: Path) -> bool:
    """Stop the cloud and every process that it started. Returns whether it was running."""
    with Lock(state / "lock").exclusive():
        return _stop(state)


@contextlib.contextmanager
def in_use(state: Path, environ: Mapping[str, str], report: Report) -> Iterator[Cloud]:
    """The cloud for one run, started if it is not running.

    It stays up afterwards for the next run. If the run is interrupted and leaves nothing, a cloud that was started for
    it is stopped, unless another run uses it by then.
    """
    users, lock = Lock(state / "users"), Lock(state / "lock")
    with contextlib.ExitStack() as use:
        with lock.exclusive():
            cloud, started = _bring_up(state, environ, report)
            use.enter_context(users.shared())
        try:
            yield cloud
            if started:
                report("the local cloud stays up for the next run; stop it with `media-worker down`")
        except RunInterrupted:
            raise
        except KeyboardInterrupt:
            use.close()
            with lock.exclusive():
                if started and not users.is_held():
                    _stop(state)
            raise


def is_answering(cloud: Cloud) -> bool:
    """Whether the cloud answers requests."""
    without_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with without_proxy.open(f"{cloud.endpoint}/_ministack/health", timeout=5) as response:
            return bool(response.status == HTTPStatus.OK)
    except OSError:
        return False


def _bring_up(state: Path, environ: Mapping[str, str], report: Report) -> tuple[Cloud, bool]:
    """The cloud, and whether it was started here. Needs the lock."""
    cloud, started = find(state), False
    if cloud is None:
        report("starting the local cloud")
        cloud, started = _start(state, environ), True
    try:
        # A deployment would kill functions at work, so a cloud that a run uses is not redeployed.
        may_deploy = started or not Lock(state / "users").is_held()
        return _deploy_if_changed(state, cloud, environ, report, may_deploy=may_deploy), started
    except BaseException:
        if started:
            _stop(state)
        raise


def _deploy_if_changed(
    state: Path, cloud: Cloud, environ: Mapping[str, str], report: Report, *, may_deploy: bool
) -> Cloud:
    fingerprint = deployment.current_fingerprint()
    if cloud.deployed == fingerprint:
        return cloud
    if not may_deploy:
        raise CloudError("the checkout has changed, but another run uses the local cloud: wait until that run ends")
    report("building and deploying the stack (sam build, sam deploy)")
    deployment.deploy(cloud.endpoint, environ, state, fingerprint)
    return _write(state, replace(cloud, deployed=fingerprint))


def _start(state: Path, environ: Mapping[str, str]) -> Cloud:
    _delete_leftovers(state)
    (state / "tmp").mkdir(parents=True)
    for _ in range(_START_ATTEMPTS):
        port = _free_port()
        with Lock(state / "alive").exclusive() as alive, (state / "cloud.log").open("w") as log:
            process = _spawn(state, environ, port, alive, log)
        try:
            cloud = _write(state, Cloud(process.pid, port))
            if _wait_until_answering(cloud, process):
                return cloud
        except BaseException:
            _kill(state, process.pid)
            raise
    tail = "\n".join((state / "cloud.log").read_text(errors="replace").splitlines()[-_TAIL_LINES:])
    raise CloudError(f"{tail}\nthe local cloud did not start; its whole output is in {state / 'cloud.log'}")


def _spawn(state: Path, environ: Mapping[str, str], port: int, alive: IO[str], log: IO[str]) -> subprocess.Popen[bytes]:
    """Start ministack in a session of its own: Ctrl-C does not reach it, and its children are in one process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "media_worker_cli.local.ministack"],
        env=_server_environment(state, environ, port),
        cwd=state,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=[alive.fileno()],
        start_new_session=True,
    )


def _server_environment(state: Path, environ: Mapping[str, str], port: int) -> dict[str, str]:
    """Ministack's environment, which the functions inherit. It has little of the user's own.

    ministack opens no other port and uses no Docker, even where there is one.
    """
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
    """Wait for the first answer. Returns False if the process ended, because another process took its port."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while process.poll() is None:
        if is_answering(cloud):
            return True
        if time.monotonic() > deadline:
            raise CloudError(f"the local cloud did not answer within {_START_TIMEOUT_S:.0f} s")
        time.sleep(0.1)
    return False


def _stop(state: Path) -> bool:
    cloud = find(state)
    if cloud:
        _kill(state, cloud.pid)
    _delete_leftovers(state)
    return cloud is not None


def _kill(state: Path, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_TIMEOUT_S
    while Lock(state / "alive").is_exclusive() and time.monotonic() < deadline:
        time.sleep(0.05)
    # A busy function does not notice that ministack has ended. It is in the same process group.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _delete_leftovers(state: Path) -> None:
    """Delete the files of a cloud that has ended or crashed."""
    (state / "cloud.json").unlink(missing_ok=True)
    shutil.rmtree(state / "tmp", ignore_errors=True)


def _write(state: Path, cloud: Cloud) -> Cloud:
    new = state / "cloud.json.new"
    new.write_text(json.dumps(asdict(cloud)))
    new.replace(state / "cloud.json")
    return cloud


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
