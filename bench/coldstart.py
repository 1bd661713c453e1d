"""What importing a handler costs: `make coldstart`. More than 1.3 times boto3 with the same clients is an error.

Each import happens in a fresh process. The programs take turns, so that what else the machine does hits all of them
alike, and what is compared is processor time: an import is one thread's work, and other processes do not count in it.
"""

# ruff: noqa: T201 - a measurement prints

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
# Large packages that a first call does not need; Powertools would take them along when somebody asks for a parser
# or a tracer.
NEVER = ("pydantic", "aws_xray_sdk", "aws_encryption_sdk", "redis", "requests", "rich")
# What the shared layer holds beside media_worker: shared/requirements.txt.
LAYER = ("aws_lambda_powertools", "jmespath", "typing_extensions.py")

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
_ENVIRONMENT = {
    "INPUT_BUCKET_NAME": "input",
    "OUTPUT_BUCKET_NAME": "output",
    "JOBS_TABLE_NAME": "jobs",
    "SEGMENT_COMPLETIONS_TABLE_NAME": "completions",
    "REASSEMBLY_TRIGGERED_TABLE_NAME": "triggered",
    "CHUNKING_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/123456789012/chunking",
    "REASSEMBLY_QUEUE_URL": "https://sqs.us-east-1.amazonaws.com/123456789012/reassembly",
    "POWERTOOLS_SERVICE_NAME": "coldstart",
    # As Lambda gives them: clients look no further for credentials.
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@dataclass(slots=True)
class Program:
    """One thing to import, and what it has cost so far."""

    name: str
    imports: str
    path: list[str] = field(default_factory=list)
    environment: Mapping[str, str] = field(default_factory=dict)
    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)
    superfluous: list[str] = field(default_factory=list)

    def run(self) -> tuple[float, float]:
        """Import it in a fresh process; processor and wall seconds."""
        done = subprocess.run(
            [sys.executable, "-c", _CLOCK.format(path=self.path, imports=self.imports, never=NEVER)],
            env={**_ENVIRONMENT, **self.environment},
            stdout=subprocess.PIPE,
            check=True,
        )
        cpu_s, wall_s, self.superfluous = json.loads(done.stdout.splitlines()[-1])
        return cpu_s, wall_s

    @property
    def median_cpu_s(self) -> float:
        """The processor time of one import."""
        return statistics.median(self.cpu_s)


def measure(programs: list[Program], rounds: int) -> None:
    """Import each once unmeasured, which writes its bytecode, and then in turn."""
    for program in programs:
        program.run()
    for _ in range(rounds):
        for program in programs:
            cpu_s, wall_s = program.run()
            program.cpu_s.append(cpu_s)
            program.wall_s.append(wall_s)


def copy_layer(directory: Path) -> Path:
    """The shared layer without bytecode, as it is deployed: Lambda compiles it at each cold start."""
    (site_packages,) = {str(Path(path)) for path in sys.path if path.endswith("site-packages")}
    without_bytecode = shutil.ignore_patterns("__pycache__")
    for source in (ROOT / "shared" / "media_worker", *(Path(site_packages, name) for name in LAYER)):
        if source.is_dir():
            shutil.copytree(source, directory / source.name, ignore=without_bytecode)
        else:
            shutil.copy(source, directory)
    return directory


def describe(programs: list[Program]) -> str:
    """A table, the first program being what the others are compared with."""
    lines = [f"{'median of ' + str(len(programs[0].cpu_s)):36} {'processor':>10} {'wall':>8} {'ratio':>6}"]
    for program in programs:
        cpu_s, wall_s = program.median_cpu_s, statistics.median(program.wall_s)
        ratio = cpu_s / programs[0].median_cpu_s
        lines.append(f"{program.name:36} {cpu_s * 1000:7.0f} ms {wall_s * 1000:5.0f} ms {ratio:6.2f}")
    return "\n".join(lines)


def complaints(base: Program, handlers: list[Program], limit: float) -> list[str]:
    """What is wrong, in words."""
    ratios = {one.name: one.median_cpu_s / base.median_cpu_s for one in handlers}
    found = [
        f"importing {name} costs {ratio:.2f} times {base.name}: at most {limit} is fine"
        for name, ratio in ratios.items()
        if ratio > limit
    ]
    return found + [f"{one.name} imports {name}" for one in handlers for name in one.superfluous]


def main() -> int:
    """Measure; 1 when a handler costs too much or imports what it should not."""
    parser = argparse.ArgumentParser(prog="coldstart", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--limit", type=float, default=LIMIT)
    arguments = parser.parse_args()
    shared, functions = str(ROOT / "shared"), ROOT / "functions"
    with tempfile.TemporaryDirectory() as directory:
        base = Program("boto3 and its three clients", _BOTO3)
        handlers = [
            Program(f"functions/{name}/app.py", "import app", [str(functions / name), shared])
            for name in ("chunking", "reassembly")
        ]
        layer = str(copy_layer(Path(directory)))
        # Not judged: layers hold no bytecode by design, and whether the runtime's own boto3 has any is AWS's affair.
        uncompiled = Program(
            "the same, no bytecode in the layer",
            "import app",
            [str(functions / "chunking"), layer],
            {"PYTHONDONTWRITEBYTECODE": "1"},
        )
        measure([base, *handlers, uncompiled], arguments.rounds)
    print(describe([base, *handlers, uncompiled]))
    found = complaints(base, handlers, arguments.limit)
    for complaint in found:
        print(complaint, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
