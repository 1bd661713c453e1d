"""The user's command for a segment."""

import sys
import threading
import time
from pathlib import Path

import pytest

from local.command import Commands, fill, parse_command
from local.errors import JobFailed, UsageError

PYTHON = sys.executable


def commands(script: str, *more: str) -> Commands:
    return Commands((PYTHON, "-c", script, *more), {})


def test_words_are_split_as_a_shell_would_and_no_shell_runs() -> None:
    """Quotes group, and a semicolon is just a character."""
    words = parse_command(f"{PYTHON} -vf 'a b;c' {{input}} out={{output}}", {})
    assert words == (PYTHON, "-vf", "a b;c", "{input}", "out={output}")
    assert fill(words, Path("/x y/in.mp4"), Path("/o.mp4")) == [PYTHON, "-vf", "a b;c", "/x y/in.mp4", "out=/o.mp4"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f"{PYTHON} {{input}}", "no {output}"),
        (f"{PYTHON} {{output}}", "no {input}"),
        ("", "no {input}"),
        (f"{PYTHON} '{{input}} {{output}}", "cannot be read: No closing quotation"),
        ("no-such-program {input} {output}", "'no-such-program' is not found"),
    ],
)
def test_a_command_that_cannot_work_is_refused_before_anything_is_done(text: str, complaint: str) -> None:
    """The complaint says what is missing."""
    with pytest.raises(UsageError) as refused:
        parse_command(text, {"PATH": ""})
    assert complaint in str(refused.value)


def test_a_failure_names_the_segment_after_what_was_said_last(tmp_path: Path) -> None:
    """Five lines at most; of a line that was overwritten only the last state."""
    script = "import sys; [print(n) for n in range(9)]; print('10%\\r100%'); sys.exit(3)"
    with pytest.raises(JobFailed) as failed:
        commands(script).run(7, tmp_path / "in", tmp_path / "out")
    assert str(failed.value) == "5\n6\n7\n8\n100%\nsegment 7: the segment command ended with 3"


def test_a_command_that_writes_nothing_has_failed(tmp_path: Path) -> None:
    """Exit code 0 is not enough."""
    with pytest.raises(JobFailed, match="segment 2: the segment command ended well but wrote no output"):
        commands("pass").run(2, tmp_path / "in", tmp_path / "out")


def test_what_runs_can_be_ended_from_another_thread(tmp_path: Path) -> None:
    """It is killed with what it started, and nothing is started afterwards."""
    mark = tmp_path / "mark"
    script = f"import pathlib, time; pathlib.Path({str(mark)!r}).touch(); time.sleep(60)"
    running, errors = commands(script), list[Exception]()

    def work() -> None:
        try:
            running.run(0, tmp_path / "in", tmp_path / "out")
        except JobFailed as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not mark.exists():
        time.sleep(0.01)
    running.end()
    thread.join(10)
    assert [str(error) for error in errors] == ["segment 0: the segment command was killed by SIGKILL"]
    with pytest.raises(JobFailed, match="not started"):
        running.run(1, tmp_path / "in", tmp_path / "out")
