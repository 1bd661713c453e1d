"""`sam build` and `sam deploy` of this checkout into the local cloud, and the environment of clients that use it."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import boto3

from media_worker_cli.errors import CloudError
from media_worker_cli.local.ffmpeg import ffmpeg_path
from media_worker_cli.local.locks import Lock

# A wheel holds what is deployed. In a checkout, it is the checkout itself.
_IN_WHEEL = Path(__file__).resolve().with_name("checkout")
ROOT = _IN_WHEEL if _IN_WHEEL.is_dir() else Path(__file__).resolve().parents[3]
STACK_NAME = "media-worker"
REGION = "us-east-1"

_CONFIG = Path(__file__).with_name("samconfig.toml")
# All local clouds of a checkout, or of an installation, share one build. An installation may be read-only.
_STATE_HOME = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
BUILDS = _STATE_HOME / "media-worker" if ROOT == _IN_WHEEL else ROOT / ".local"
CACHE = BUILDS / "cache" if ROOT == _IN_WHEEL else ROOT / ".cache"
_ARTIFACTS_BUCKET = "media-worker-artifacts"
# Clients need credentials to sign requests. ministack accepts any.
_DUMMY = "local"
_TAIL_LINES = 15

# The files of a deployment. A change to any other file needs no new deployment.
_DEPLOYED = ("template.yaml", "events.yaml", "watching.yaml", "functions", "shared", "layers")
_NOT_DEPLOYED = {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".DS_Store"}


def client_environment(endpoint: str) -> dict[str, str]:
    """The environment that makes AWS clients use the local cloud and nothing else."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": _DUMMY,
        "AWS_SECRET_ACCESS_KEY": _DUMMY,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }


def isolated(environ: Mapping[str, str], endpoint: str) -> dict[str, str]:
    """A copy of the environment that uses the local cloud and has none of the user's AWS settings."""
    kept = {name: value for name, value in environ.items() if not name.startswith("AWS_")}
    return kept | client_environment(endpoint)


def parameters() -> tuple[str, ...]:
    """The template parameters that ministack needs.

    ministack does not mount layers at /opt. It also takes no MaximumConcurrency from a parameter (it expects a number
    and gets a string); without one, it runs up to five invocations of a function at once.
    """
    return (f"FfmpegPath={ffmpeg_path()}", "MaximumConcurrency=0")


def fingerprint(root: Path, parameters: Iterable[str]) -> str:
    """A hash of everything that is deployed. If it is unchanged, no new deployment is needed."""
    digest = hashlib.sha256()
    for text in parameters:
        digest.update(f"{text}\0".encode())
    digest.update(_CONFIG.read_bytes())
    for name in _DEPLOYED:
        for path in sorted(_files(root / name)):
            size = path.stat().st_size
            digest.update(f"{path.relative_to(root).as_posix()}\0{os.access(path, os.X_OK)}\0{size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def current_fingerprint() -> str:
    """The fingerprint of this checkout, its parameters and this Python."""
    return fingerprint(ROOT, (*parameters(), sys.version))


def deploy(endpoint: str, environ: Mapping[str, str], state: Path, fingerprint: str) -> None:
    """Build, unless the last build has this fingerprint, and deploy.

    Raises:
        CloudError: sam failed. The message holds the end of its output.
    """
    quiet = {"SAM_CLI_TELEMETRY": "0", "SAM_CLI_POLL_DELAY": "0.3", "__SAM_CLI_APP_DIR": str(state / "sam")}
    environment = isolated(environ, endpoint) | quiet
    (state / "sam").mkdir(exist_ok=True)
    log = state / "sam.log"
    log.unlink(missing_ok=True)
    _create_artifacts_bucket(endpoint)
    # Held until the end of the deployment, which uploads the build.
    with Lock(BUILDS / "build.lock").exclusive():
        _build(environment, log, fingerprint)
        template = str(BUILDS / "build" / "template.yaml")
        _sam(["deploy", "--template-file", template, "--parameter-overrides", *parameters()], environment, log)


def _build(environment: Mapping[str, str], log: Path, fingerprint: str) -> None:
    stamp = BUILDS / "build.stamp"
    if stamp.is_file() and stamp.read_text() == fingerprint:
        return
    stamp.unlink(missing_ok=True)
    folders = ["--build-dir", str(BUILDS / "build"), "--cache-dir", str(BUILDS / "build-cache")]
    _sam(["build", "--template-file", str(ROOT / "template.yaml"), *folders], environment, log)
    stamp.write_text(fingerprint)


def _sam(arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
    sam = Path(sys.executable).with_name("sam")
    if not sam.is_file():
        raise CloudError(f"{sam} is missing: run `make setup`")
    argv = [str(sam), *arguments, "--config-file", str(_CONFIG)]
    with log.open("a") as output:
        code = subprocess.run(
            argv, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        ).returncode
    if code != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
        raise CloudError(f"{tail}\nsam {arguments[0]} exited with {code}; its whole output is in {log}")


def _create_artifacts_bucket(endpoint: str) -> None:
    s3 = boto3.client(
        "s3", endpoint_url=endpoint, region_name=REGION, aws_access_key_id=_DUMMY, aws_secret_access_key=_DUMMY
    )
    s3.create_bucket(Bucket=_ARTIFACTS_BUCKET)


def _files(path: Path) -> Iterator[Path]:
    """The file, or all files below the folder, that are deployed."""
    if path.is_file():
        yield path
    for directory, subdirectories, names in path.walk():
        subdirectories[:] = [name for name in subdirectories if name not in _NOT_DEPLOYED]
        yield from (directory / name for name in names if name not in _NOT_DEPLOYED and not name.endswith(".pyc"))
