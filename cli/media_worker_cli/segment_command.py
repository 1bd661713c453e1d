"""Checking the user's command for a segment. It contains {input} and {output} and runs without a shell."""

import shlex
import shutil
from collections.abc import Mapping

from media_worker_cli.errors import UsageError


def parse_command(text: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The words of a command line, split as a shell splits them.

    Raises:
        UsageError: a quote is not closed, {input} or {output} is missing, or the program is not found.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"cannot parse the segment command: {error}: {text}") from error
    for placeholder in ("{input}", "{output}"):
        if not any(placeholder in word for word in words):
            raise UsageError(f"the segment command contains no {placeholder}: {text}")
    if not shutil.which(words[0], path=environ.get("PATH")):
        raise UsageError(f"the segment command's program {words[0]!r} is not found")
    return words
