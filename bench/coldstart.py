"""The import time of each handler: `make coldstart`. More than 1.3 times that of boto3 with the same clients is an
error.

Each import runs in a new process, and the programs take turns, so that other load affects all of them alike.
Processor time is compared, because an import is the work of one thread and other processes do not count in it.
"""

# ruff: noqa: T201 - a benchmark prints

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from media_worker_cli.local.deployment import ROOT

LIMIT = 1.3
ROUNDS = 10
# Large packages that no handler needs. Powertools imports some of them when its parser or tracer is used.
NEVER = ("pydantic", "aws_xray_sdk", "aws_encryption_sdk", "redis", "requests", "rich")

_CLOCK = """
import json, os, sys, time
sys.path[:0] = {path!r}
cpu, wall = time.process_time(), time.perf_counter()
{imports}
cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
print(json.dumps([cpu, wall, [name for name in {never!r} if name in sys.modules]]))
"""
_BOTO3 = """
import boto3
from botocore.config import Config
session, config = boto3.Session(region_name="us-east-1"), Config(retries={"mode": "standard"})
clients = [session.client(name, config=config) for name in ("s3", "sqs", "dynamodb")]
"""
# Enough for each handler to be imported without a network call.
HANDLER_ENVIRONMENT = {
    "INPUT_BUCKET_NAME": "input",
    "OUTPUT_BUCKET_NAME": "output",
    "JOBS_TABLE_NAME": "jobs",
    "SEGMENT_COMPLETIONS_TABLE_NAME": "completions",
    "REASSEMBLY_TRIGGERED_TABLE_NAME": "triggered",
    "CHUNKING_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/123456789012/chunking",
    "REASSEMBLY_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/123456789012/reassembly",
    "POWERTOOLS_SERVICE_NAME": "coldstart",
    # As in Lambda: boto3 looks no further for credentials.
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@dataclass(slots=True)
class Program:
    """A program to import, and its measurements so far."""

    name: str
    imports: str
    path: list[str] = field(default_factory=list)
    environment: Mapping[str, str] = field(default_factory=dict)
    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    superfluous: list[str] = field(default_factory=list)

    def run(self) -> tuple[float, float]:
        """Import it in a new process. Returns processor and wall seconds."""
        done = subprocess.run(
            [sys.executable, "-c", _CLOCK.format(path=self.path, imports=self.imports, never=NEVER)],
            env={**HANDLER_ENVIRONMENT, **self.environment},
            stdout=subprocess.PIPE,
            check=True,
        )
        cpu_s, wall_s, self.superfluous = json.loads(done.stdout.splitlines()[-1])
        return cpu_s, wall_s

    @property
    def median_cpu_s(self) -> float:
        """The median processor time of an import."""
        return statistics.median(self.cpu_s)


def measure(programs: list[Program], rounds: int) -> None:
    """Import each program once to write its bytecode, then in turn."""
    for program in programs:
        program.run()
    for _ in range(rounds):
        for program in programs:
            cpu_s, wall_s = program.run()
            program.cpu_s.append(cpu_s)
            program.wall_s.append(wall_s)


def build_layer(directory: Path, *variables: str) -> str:
    """Build the shared layer as `sam build` does. Returns its Python folder."""
    argv = [shutil.which("make") or "make", "--silent", "--directory", str(ROOT / "shared"), "build-SharedLayer"]
    subprocess.run([*argv, f"ARTIFACTS_DIR={directory}", *variables], check=True)
    return str(directory / "python")


def describe(programs: list[Program]) -> str:
    """A table. The ratio is that to the first program."""
    lines = [f"{'median of ' + str(len(programs[0].cpu_s)):36} {'processor':>10} {'wall':>8} {'ratio':>6}"]
    for program in programs:
        cpu_s, wall_s = program.median_cpu_s, statistics.median(program.wall_s)
        ratio = cpu_s / programs[0].median_cpu_s
        lines.append(f"{program.name:36} {cpu_s * 1000:7.0f} ms {wall_s * 1000:5.0f} ms {ratio:6.2f}")
    return "\n".join(lines)


def complaints(base: Program, handlers: list[Program], limit: float) -> list[str]:
    """Handlers that are too slow or import too much, in words."""
    ratios = {one.name: one.median_cpu_s / base.median_cpu_s for one in handlers}
    found = [
        f"importing {name} takes {ratio:.2f} times as long as {base.name}: the limit is {limit}"
        for name, ratio in ratios.items()
        if ratio > limit
    ]
    return found + [f"{one.name} imports {name}" for one in handlers for name in one.superfluous]


def _handler(name: str, function: str, layer: str) -> Program:
    """A handler with a layer that is read-only, as /opt is in Lambda: Python writes no bytecode to it."""
    path = [str(ROOT / "functions" / function), layer]
    return Program(name, "import app", path, {"PYTHONDONTWRITEBYTECODE": "1"})


def main() -> int:
    """Measure; 1 if a handler is too slow or imports what it should not."""
    parser = argparse.ArgumentParser(prog="coldstart", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--limit", type=float, default=LIMIT)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        base = Program("boto3 and its three clients", _BOTO3)
        layer = build_layer(Path(directory, "compiled"), f"PYTHON_3_13={sys.executable}")
        handlers = [_handler(f"functions/{name}/app.py", name, layer) for name in ("chunking", "reassembly")]
        # Not compared with the limit: what is built on a machine without Python 3.13.
        plain = build_layer(Path(directory, "plain"), "PYTHON_3_13=")
        uncompiled = _handler("chunking, no bytecode in the layer", "chunking", plain)
        measure([base, *handlers, uncompiled], arguments.rounds)
    print(describe([base, *handlers, uncompiled]))
    found = complaints(base, handlers, arguments.limit)
    for complaint in found:
        print(complaint, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
