"""The verdict of `make coldstart`."""

import pytest
from media_worker_cli.local.deployment import ROOT

from bench.coldstart import Program, complaints


def measured(name: str, cpu_s: float, *superfluous: str) -> Program:
    return Program(name, "", cpu_s=[cpu_s], superfluous=list(superfluous))


def test_a_slow_import_is_reported() -> None:
    """The complaint has the ratio; exactly the limit is accepted."""
    handlers = [measured("chunking", 1.4), measured("reassembly", 1.3)]
    assert complaints(measured("boto3", 1.0), handlers, 1.3) == [
        "importing chunking takes 1.40 times as long as boto3: the limit is 1.3"
    ]


def test_a_superfluous_package_is_reported() -> None:
    """However fast it is imported."""
    assert complaints(measured("boto3", 1.0), [measured("chunking", 1.0, "pydantic")], 1.3) == [
        "chunking imports pydantic"
    ]


@pytest.mark.parametrize("function", ["chunking", "reassembly"])
def test_handlers_import_nothing_superfluous(function: str) -> None:
    """Neither a model library nor a tracer is imported by a handler."""
    program = Program(function, "import app", [str(ROOT / "functions" / function), str(ROOT / "shared")])
    cpu_s, wall_s = program.run()
    assert cpu_s > 0
    assert wall_s > 0
    assert program.superfluous == []


def test_a_superfluous_package_is_found() -> None:
    """The packages are looked up in the process that imported them."""
    program = Program("rich", "import rich")
    program.run()
    assert program.superfluous == ["rich"]
