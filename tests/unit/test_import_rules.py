"""Which module of the package may import what."""

import ast
from collections.abc import Iterator
from pathlib import Path

import media_worker
import pytest

PACKAGE = Path(media_worker.__file__).parent
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}

# The shell. All other modules get clients as an argument, or need none.
FUNCTIONS_SHELL = {"aws", "best_effort", "s3", "jobs"}
WORKER_SHELL = {"attempts", "segment_output", "segment_queue", "worker", "worker_segment"}
USES_AWS_SDK = FUNCTIONS_SHELL | WORKER_SHELL
# ffmpeg, and the command of a segment worker.
STARTS_PROGRAMS = {"engines.ffmpeg", "segment_command", "supervisor"}
AWS_LIBRARIES = {"boto3", "botocore", "s3transfer"}
# Neither clients nor files.
PURE = {"byte_ranges", "deadline", "errors", "heartbeat", "keys", "messages", "engines.commands"} | {
    name for name in MODULES if name.startswith("mp4.")
}


def imports_of(name: str) -> Iterator[str]:
    """The absolute names of all modules that a module imports, inside functions and for type checkers too."""
    package = ("media_worker", *name.split(".")[:-1])
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def libraries_of(name: str) -> set[str]:
    return {imported.partition(".")[0] for imported in imports_of(name)}


def own_modules_of(name: str) -> set[str]:
    """The modules of this package that a module imports."""
    own = {imported.removeprefix("media_worker.") for imported in imports_of(name)}
    return {module for module in MODULES if module in own or module.removesuffix(".__init__") in own}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_only_the_shell_imports_the_aws_sdk(name: str) -> None:
    """Clients are created in aws.py and passed as arguments."""
    assert bool(libraries_of(name) & AWS_LIBRARIES) == (name in USES_AWS_SDK)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_few_modules_start_programs(name: str) -> None:
    """They limit what a program may do."""
    assert ("subprocess" in libraries_of(name)) == (name in STARTS_PROGRAMS)


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_do_no_io(name: str) -> None:
    """They compute values from values, so a test needs neither a cloud nor a file."""
    shell = {"aws", "s3", "jobs", "completions", "lease", "telemetry", "workdir", "main"}
    assert not libraries_of(name) & {"subprocess", "socket", "urllib.request", "http", "tempfile", *AWS_LIBRARIES}
    assert not own_modules_of(name) & shell


def test_the_s3_layer_knows_no_media() -> None:
    """It moves byte ranges of anything."""
    assert not {module for module in own_modules_of("s3") if module.startswith(("mp4", "engines"))}


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("mp4.")))
def test_the_mp4_package_stands_alone(name: str) -> None:
    """It imports nothing of the package but the byte-range type and the limits of the keys."""
    others = {module for module in own_modules_of(name) if not module.startswith("mp4.")}
    assert others <= {"byte_ranges", "keys"}


def test_the_rules_see_real_imports() -> None:
    """A rule that looked at nothing would never fail."""
    assert "s3" in own_modules_of("reassembly")
    assert "boto3" in libraries_of("aws")
    assert {"mp4.boxes"} <= own_modules_of("mp4.writer")
