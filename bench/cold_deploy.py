"""A cold `sam build` and `sam deploy` with nothing but sam, make and a python3 with pip: `make bench-deploy`.

A new clone, an empty pip cache, an empty local cloud, and a PATH without uv, Docker or Python 3.13: a folder with
links to sam, make, python3 and the small Unix tools that makefiles use.
"""

# ruff: noqa: T201 - a benchmark prints

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import boto3
from media_worker_cli.local import cloud
from media_worker_cli.local.deployment import ROOT
from media_worker_cli.local.ffmpeg import ffmpeg_path

_LIMIT_S = 30.0
_TOOLS = ("sh", "bash", "env", "test", "echo", "mkdir", "cp", "mv", "rm", "find", "cat", "ls", "git", "dirname")
_STACK = "cold"


def main(architectures: list[str]) -> int:
    """Measure each architecture; 1 if one takes too long."""
    slow = False
    for architecture in architectures:
        with tempfile.TemporaryDirectory() as folder:
            build_s, deploy_s = measure(Path(folder), architecture)
        total_s = build_s + deploy_s
        slow |= total_s > _LIMIT_S
        print(f"{architecture}: sam build {build_s:.1f} s, sam deploy {deploy_s:.1f} s, together {total_s:.1f} s")
    return 1 if slow else 0


def measure(folder: Path, architecture: str) -> tuple[float, float]:
    """The seconds of a cold `sam build` and of a cold `sam deploy`."""
    checkout = folder / "checkout"
    git = shutil.which("git") or "git"
    subprocess.run([git, "clone", "--quiet", str(ROOT), str(checkout)], check=True)
    with _empty_cloud(folder / "cloud") as endpoint:
        environment = _bare_environment(folder, endpoint)
        given = ["--parameter-overrides", f"Architecture={architecture}", f"FfmpegPath={ffmpeg_path()}"]
        build_s = _timed([*_sam("build"), *given], checkout, environment)
        # The local cloud accepts no number from a parameter (media_worker_cli/local/deployment.py); AWS does.
        deploy_s = _timed([*_sam("deploy"), *given, "MaximumConcurrency=0"], checkout, environment)
        client = boto3.client(
            "cloudformation",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="local",
            aws_secret_access_key="local",  # noqa: S106 - the local cloud takes anything
        )
        (stack,) = client.describe_stacks(StackName=_STACK)["Stacks"]
        if stack["StackStatus"] != "CREATE_COMPLETE":
            raise SystemExit(f"{architecture}: the stack is {stack['StackStatus']}")
    return build_s, deploy_s


def _sam(command: str) -> list[str]:
    return ["sam", command, *(["--stack-name", _STACK] if command == "deploy" else [])]


@contextmanager
def _empty_cloud(state: Path) -> Iterator[str]:
    state.mkdir()
    try:
        yield cloud._start(state, os.environ).endpoint  # noqa: SLF001 - without the deployment that `up` makes
    finally:
        cloud.stop(state)


def _bare_environment(folder: Path, endpoint: str) -> Mapping[str, str]:
    programs = folder / "bin"
    programs.mkdir()
    (programs / "sam").symlink_to(Path(sys.executable).with_name("sam"))
    for name in ("make", *_TOOLS):
        if found := shutil.which(name):
            (programs / name).symlink_to(found)
    (programs / "python3").symlink_to(_python_with_pip())
    return {
        # pip's own settings (an index, certificates) are the machine's.
        **{name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))},
        "PATH": str(programs),
        "HOME": str(folder),
        "PIP_NO_CACHE_DIR": "1",
        "LANG": "C.UTF-8",
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "us-east-1",
        "SAM_CLI_TELEMETRY": "0",
    }


def _python_with_pip() -> str:
    """A python3 of this machine that has pip: not that of this environment, and preferably not 3.13."""
    question = "import sys, pip; print(sys.version_info[:2] == (3, 13), sys.executable)"
    found = []
    for folder in os.get_exec_path():
        if (python := Path(folder) / "python3").is_file():
            asked = subprocess.run([str(python), "-c", question], capture_output=True, text=True, check=False)
            if asked.returncode == 0 and sys.prefix not in asked.stdout:
                found.append(asked.stdout.strip())
    if not found:
        raise SystemExit("no python3 with pip on the PATH")
    return min(found).partition(" ")[2]


def _timed(argv: list[str], cwd: Path, environment: Mapping[str, str]) -> float:
    begin = time.monotonic()
    done = subprocess.run(
        argv, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return time.monotonic() - begin


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
