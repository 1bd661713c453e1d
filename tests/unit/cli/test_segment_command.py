"""The user's command for a segment."""

import sys
import threading
import time
from pathlib import Path

import pytest
from media_worker_cli.errors import JobFailed, UsageError
from media_worker_cli.segment_command import SegmentCommand, fill, parse_command

PYTHON = sys.executable


def command(script: str, *more: str) -> SegmentCommand:
    return SegmentCommand((PYTHON, "-c", script, *more), {})


def test_words_are_split_like_a_shell_splits_them() -> None:
    """Quotes group words. No shell runs, so a semicolon has no meaning."""
    words = parse_command(f"{PYTHON} -vf 'a b;c' {{input}} out={{output}}", {})
    assert words == (PYTHON, "-vf", "a b;c", "{input}", "out={output}")
    assert fill(words, Path("/x y/in.mp4"), Path("/o.mp4")) == [PYTHON, "-vf", "a b;c", "/x y/in.mp4", "out=/o.mp4"]


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


def test_a_failure_shows_the_last_lines_and_names_the_segment(tmp_path: Path) -> None:
    """At most five lines, and of an overwritten line only its last state."""
    script = "import sys; [print(n) for n in range(9)]; print('10%\\r100%'); sys.exit(3)"
    with pytest.raises(JobFailed) as failed:
        command(script).run(7, tmp_path / "in", tmp_path / "out")
    assert str(failed.value) == "5\n6\n7\n8\n100%\nsegment 7: the segment command exited with 3"


def test_a_command_that_writes_nothing_has_failed(tmp_path: Path) -> None:
    """Exit code 0 is not enough."""
    with pytest.raises(JobFailed, match="segment 2: the segment command succeeded but wrote no output"):
        command("pass").run(2, tmp_path / "in", tmp_path / "out")


def test_a_running_command_can_be_killed_from_another_thread(tmp_path: Path) -> None:
    """No command starts afterwards."""
    mark = tmp_path / "mark"
    script = f"import pathlib, time; pathlib.Path({str(mark)!r}).touch(); time.sleep(60)"
    running, errors = command(script), list[Exception]()

    def work() -> None:
        try:
            running.run(0, tmp_path / "in", tmp_path / "out")
        except JobFailed as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    while not mark.exists():
        time.sleep(0.01)
    running.kill()
    thread.join(10)
    assert [str(error) for error in errors] == ["segment 0: the segment command was killed by SIGKILL"]
    with pytest.raises(JobFailed, match="not started"):
        running.run(1, tmp_path / "in", tmp_path / "out")
