"""Settings from a file of NAME=value lines."""

from pathlib import Path

import pytest

from local.env_file import read_env_file
from local.errors import UsageError

TEXT = """\
# made by Terraform
INPUT_BUCKET_NAME=their-input
export JOBS_TABLE_NAME='their-jobs'

CHUNKING_QUEUE_URL = no
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "stack.env"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("NAME=plain", "plain"),
        ("NAME=", ""),
        ("NAME=a=b", "a=b"),
        ("NAME=https://sqs.us-east-1.amazonaws.com/1/q", "https://sqs.us-east-1.amazonaws.com/1/q"),
        ("NAME=with # no comment", "with # no comment"),
        ("  NAME='two words'  ", "two words"),
        ('export NAME="two words" # why', "two words"),
    ],
)
def test_line(tmp_path: Path, line: str, value: str) -> None:
    """A value is what follows the first equals sign, without the quotes around it."""
    assert read_env_file(write(tmp_path, line)) == {"NAME": value}


def test_comments_and_blank_lines(tmp_path: Path) -> None:
    """Comments and blank lines say nothing."""
    text = "".join(TEXT.splitlines(keepends=True)[:4])
    assert read_env_file(write(tmp_path, text)) == {"INPUT_BUCKET_NAME": "their-input", "JOBS_TABLE_NAME": "their-jobs"}


def test_bad_line_is_named(tmp_path: Path) -> None:
    """A line that is none names itself and its place."""
    with pytest.raises(UsageError, match=r"stack\.env, line 5: want NAME=value, got 'CHUNKING_QUEUE_URL = no'"):
        read_env_file(write(tmp_path, TEXT))


@pytest.mark.parametrize("value", ["'open", "'one' 'two'"])
def test_bad_quotes(tmp_path: Path, value: str) -> None:
    """Quotes that do not hold one value are a mistake."""
    with pytest.raises(UsageError, match=r"line 1: "):
        read_env_file(write(tmp_path, f"NAME={value}"))


def test_no_file(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(UsageError, match=r"cannot read .*missing\.env: No such file"):
        read_env_file(tmp_path / "missing.env")
