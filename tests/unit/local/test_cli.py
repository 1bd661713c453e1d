"""The command line's arguments, and how errors end it."""

import argparse
from decimal import Decimal
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, NoCredentialsError

from local import commands
from local.cli import build_parser, main
from local.errors import JobFailed


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "ten", "1" * 39])
def test_seconds_have_to_be_a_number_above_zero(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What DynamoDB cannot hold is refused, too."""
    with pytest.raises(SystemExit) as refused:
        build_parser().parse_args(["run", "a.mp4", "--out", "b.mp4", f"--segment-seconds={text}"])
    assert refused.value.code == 2
    assert "is no number of seconds above 0" in capsys.readouterr().err


def test_seconds_are_kept_as_typed() -> None:
    """A tenth of a second is a tenth."""
    arguments = build_parser().parse_args(["submit", "a.mp4", "--segment-seconds", "0.1"])
    assert arguments.segment_seconds == Decimal("0.1")


@pytest.mark.parametrize(
    ("error", "code", "last_line"),
    [
        (JobFailed("details\nsegment 3: it failed"), 1, "media-worker: segment 3: it failed"),
        (NoCredentialsError(), 2, "media-worker: Unable to locate credentials"),
        (ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "GetObject"), 2, "media-worker: An error"),
        (ClientError({"Error": {"Code": "SlowDown", "Message": "no"}}, "GetObject"), 1, "media-worker: An error"),
        (OSError(28, "No space left on device"), 1, "media-worker: OSError: [Errno 28] No space left on device"),
        (KeyboardInterrupt(), 130, "media-worker: interrupted"),
    ],
)
def test_no_error_of_the_world_is_a_traceback(
    error: BaseException,
    code: int,
    last_line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The exit code tells whose it is; the last line says what it is."""

    def fail(_: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(commands, "status", fail)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert main(["status"]) == code
    assert capsys.readouterr().err.splitlines()[-1].startswith(last_line)


def test_segments_of_two_runs_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder to keep them in has to be empty."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    source, keep = tmp_path / "a.mp4", tmp_path / "keep"
    source.touch()
    keep.mkdir()
    (keep / "old.mp4").touch()
    assert main(["run", str(source), "--out", str(tmp_path / "b.mp4"), "--keep", str(keep)]) == 2
