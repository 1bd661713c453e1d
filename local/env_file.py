"""A file of `NAME=value` lines: the settings of a stack that somebody else made."""

import re
import shlex
from pathlib import Path

from local.errors import UsageError

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_]\w*)=(.*)")


def read_env_file(path: Path) -> dict[str, str]:
    """The names and values of a file. Blank lines, `# comments`, quotes and a leading `export` are fine.

    Raises:
        UsageError: the file cannot be read, or a line is something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no text'}") from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not (text := line.strip()) or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise UsageError(f"{path}, line {number}: want NAME=value, got {text!r}")
        found[match[1]] = _unquoted(match[2], f"{path}, line {number}")
    return found


def _unquoted(value: str, where: str) -> str:
    """The value without the quotes around it; what is not quoted stays as it is, `#` and spaces too."""
    if not value.startswith(("'", '"')):
        return value.strip()
    try:
        words = shlex.split(value, comments=True)
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
    if len(words) != 1:
        raise UsageError(f"{where}: want one value, got {value}")
    return words[0]
