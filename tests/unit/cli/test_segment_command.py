"""The user's command for a segment."""

import sys

import pytest
from media_worker_cli.errors import UsageError
from media_worker_cli.segment_command import parse_command

PYTHON = sys.executable


def test_words_are_split_like_a_shell_splits_them() -> None:
    """Quotes group words. No shell runs, so a semicolon has no meaning."""
    words = parse_command(f"{PYTHON} -vf 'a b;c' {{input}} out={{output}}", {})
    assert words == (PYTHON, "-vf", "a b;c", "{input}", "out={output}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{PYTHON} {{input}}", "no {output}"),
        (f"{PYTHON} {{output}}", "no {input}"),
        ("", "no {input}"),
        (f"{PYTHON} '{{input}} {{output}}", "cannot parse the segment command: No closing quotation"),
        ("no-such-program {input} {output}", "'no-such-program' is not found"),
    ],
)
def test_a_command_that_cannot_work_is_refused_at_the_start(text: str, message: str) -> None:
    """The error says what is missing."""
    with pytest.raises(UsageError) as refused:
        parse_command(text, {"PATH": ""})
    assert message in str(refused.value)
