"""What `make coldstart` complains about."""

import pytest
from media_worker_cli.local.deployment import ROOT

from bench.coldstart import Program, complaints


def measured(name: str, cpu_s: float, *superfluous: str) -> Program:
    return Program(name, "", cpu_s=[cpu_s], superfluous=list(superfluous))


def test_a_dear_import_is_told() -> None:
    """The complaint says how dear it is; what costs just the limit is fine."""
    handlers = [measured("chunking", 1.4), measured("reassembly", 1.3)]
    assert complaints(measured("boto3", 1.0), handlers, 1.3) == [
        "importing chunking costs 1.40 times boto3: at most 1.3 is fine"
    ]


def test_a_superfluous_package_is_told() -> None:
    """However cheap it is."""
    assert complaints(measured("boto3", 1.0), [measured("chunking", 1.0, "pydantic")], 1.3) == [
        "chunking imports pydantic"
    ]


@pytest.mark.parametrize("function", ["chunking", "reassembly"])
def test_handlers_import_nothing_superfluous(function: str) -> None:
    """No model library, no tracer: a first call needs neither."""
    program = Program(function, "import app", [str(ROOT / "functions" / function), str(ROOT / "shared")])
    cpu_s, wall_s = program.run()
    assert cpu_s > 0
    assert wall_s > 0
    assert program.superfluous == []


def test_a_superfluous_package_is_seen() -> None:
    """The list is looked for in the very process that imported."""
    program = Program("rich", "import rich")
    program.run()
    assert program.superfluous == ["rich"]
