"""`sam build` and `sam deploy` of this checkout's template into the local cloud."""

import fcntl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import boto3

from local.binaries import ffmpeg_path
from local.checkout import ROOT
from local.errors import CloudError

STACK_NAME = "media-worker"
REGION = "us-east-1"

# The build is the same for every local cloud of a checkout, so it is kept beside the checkout, not beside the cloud.
_BUILDS = ROOT / ".local"
_CONFIG = ROOT / "local" / "samconfig.toml"
_ARTIFACTS = "media-worker-artifacts"
# Clients sign with something; ministack takes anything.
_DUMMY = "local"
_TAIL_LINES = 15


def client_environment(endpoint: str) -> dict[str, str]:
    """What makes an AWS client talk to the local cloud, and to nothing else."""
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
    """An environment without anything that the user has set for AWS, pointing to the local cloud."""
    kept = {name: value for name, value in environ.items() if not name.startswith("AWS_")}
    return kept | client_environment(endpoint)


def parameters() -> tuple[str, ...]:
    """The template's parameters that differ on a laptop, because of what ministack does not do.

    Layers are not mounted at /opt. A mapping's MaximumConcurrency has to be a number, and a parameter is text; without
    one, ministack runs five invocations of a function at once.
    """
    return (f"FfmpegPath={ffmpeg_path()}", "MaximumConcurrency=0")


def deploy(endpoint: str, environ: Mapping[str, str], state: Path, fingerprint: str) -> None:
    """Build, unless this very state of the checkout was built last, and deploy.

    Raises:
        CloudError: sam refused; the message holds the end of what it said.
    """
    quiet = {"SAM_CLI_TELEMETRY": "0", "SAM_CLI_POLL_DELAY": "0.3", "__SAM_CLI_APP_DIR": str(state / "sam")}
    environment = isolated(environ, endpoint) | quiet
    (state / "sam").mkdir(exist_ok=True)
    log = state / "sam.log"
    log.unlink(missing_ok=True)
    _create_artifacts_bucket(endpoint)
    with _exclusive_build():
        _build(environment, log, fingerprint)
        template = str(_BUILDS / "build" / "template.yaml")
        _sam(["deploy", "--template-file", template, "--parameter-overrides", *parameters()], environment, log)


def _build(environment: Mapping[str, str], log: Path, fingerprint: str) -> None:
    stamp = _BUILDS / "build.stamp"
    if stamp.is_file() and stamp.read_text() == fingerprint:
        return
    stamp.unlink(missing_ok=True)
    places = ["--build-dir", str(_BUILDS / "build"), "--cache-dir", str(_BUILDS / "build-cache")]
    _sam(["build", "--template-file", str(ROOT / "template.yaml"), *places], environment, log)
    stamp.write_text(fingerprint)


def _sam(arguments: list[str], environment: Mapping[str, str], log: Path) -> None:
    sam = Path(sys.executable).with_name("sam")
    if not sam.is_file():
        raise CloudError(f"{sam} is missing: `make setup` installs it")
    argv = [str(sam), *arguments, "--config-file", str(_CONFIG)]
    with log.open("a") as output:
        code = subprocess.run(
            argv, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        ).returncode
    if code != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
        raise CloudError(f"{tail}\nsam {arguments[0]} ended with {code}; all that it said is in {log}")


def _create_artifacts_bucket(endpoint: str) -> None:
    s3 = boto3.client(
        "s3", endpoint_url=endpoint, region_name=REGION, aws_access_key_id=_DUMMY, aws_secret_access_key=_DUMMY
    )
    s3.create_bucket(Bucket=_ARTIFACTS)


@contextmanager
def _exclusive_build() -> Iterator[None]:
    """Two clouds of one checkout share the build: one builds, and packs it up, while the other waits."""
    _BUILDS.mkdir(exist_ok=True)
    with (_BUILDS / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
