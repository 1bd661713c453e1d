"""The names of a stack's resources: from its outputs, or from a file of NAME=value lines."""

from pathlib import Path

import pytest
from media_worker_cli.errors import UsageError
from media_worker_cli.stack import environment_of, read_env_file

OUTPUTS = {
    "InputBucketName": "in",
    "OutputBucketName": "out",
    "JobsTableName": "jobs",
    "SegmentCompletionsTableName": "completions",
    "ReassemblyTriggeredTableName": "triggered",
    "ChunkingQueueUrl": "https://chunking",
    "ReassemblyQueueUrl": "https://reassembly",
    "SegmentQueueUrl": "https://segments",
    "Unknown": "unused",
}


def test_each_output_is_the_setting_with_the_same_name() -> None:
    """`InputBucketName` is INPUT_BUCKET_NAME. Other outputs are ignored."""
    environment = environment_of("mine", OUTPUTS)
    assert {name.replace("_", "").lower(): value for name, value in environment.items()} == {
        name.lower(): value for name, value in OUTPUTS.items() if name != "Unknown"
    }


def test_a_stack_of_another_kind_is_refused() -> None:
    """The error names the missing outputs."""
    outputs = {name: value for name, value in OUTPUTS.items() if not name.startswith("Seg")}
    with pytest.raises(UsageError, match=r"other is not .* no output SegmentCompletionsTableName, SegmentQueueUrl"):
        environment_of("other", outputs)


ENV_FILE = """\
# written by Terraform
INPUT_BUCKET_NAME=my-input
export JOBS_TABLE_NAME='my-jobs'

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
def test_an_env_line(tmp_path: Path, line: str, value: str) -> None:
    """The value is the text after the first equals sign, without the quotes around it."""
    assert read_env_file(write(tmp_path, line)) == {"NAME": value}


def test_comments_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    """They may be anywhere in the file."""
    text = "".join(ENV_FILE.splitlines(keepends=True)[:4])
    assert read_env_file(write(tmp_path, text)) == {"INPUT_BUCKET_NAME": "my-input", "JOBS_TABLE_NAME": "my-jobs"}


def test_a_bad_line_is_reported(tmp_path: Path) -> None:
    """The error names the file, the line number and the line."""
    with pytest.raises(UsageError, match=r"stack\.env, line 5: expected NAME=value, found 'CHUNKING_QUEUE_URL = no'"):
        read_env_file(write(tmp_path, ENV_FILE))


@pytest.mark.parametrize("value", ["'open", "'one' 'two'"])
def test_bad_quotes_are_reported(tmp_path: Path, value: str) -> None:
    """An open quote and a second value are errors."""
    with pytest.raises(UsageError, match=r"line 1: "):
        read_env_file(write(tmp_path, f"NAME={value}"))


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    """The error names it."""
    with pytest.raises(UsageError, match=r"cannot read .*missing\.env: No such file"):
        read_env_file(tmp_path / "missing.env")
