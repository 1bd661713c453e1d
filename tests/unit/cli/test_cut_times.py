"""Cut times on the command line: a file of seconds, or the scene list of PySceneDetect."""

import re
from decimal import Decimal
from pathlib import Path

import pytest
from media_worker_cli.cut_times import read_cut_times
from media_worker_cli.errors import UsageError
from media_worker_cli.main import build_parser
from media_worker_cli.submission import Submission, build_row

SCENES = """\
Timecode List:,00:00:04.004,00:00:09.510
Scene Number,Start Frame,Start Timecode,Start Time (seconds),End Frame,End Timecode,End Time (seconds),Length (frames)
1,1,00:00:00.000,0.000,96,00:00:04.004,4.004,96
2,97,00:00:04.004,4.004,228,00:00:09.510,9.510,132
3,229,00:00:09.510,9.510,240,00:00:10.010,10.010,12
"""


@pytest.mark.parametrize(
    ("text", "times"),
    [
        ("4.5\n\n# a comment\n 1\n4.5\n", ["1", "4.5"]),
        ("\ufeff0.1\r\n2\r\n", ["0.1", "2"]),
        (SCENES, ["0.000", "4.004", "9.510"]),
        (SCENES.partition("\n")[2], ["0.000", "4.004", "9.510"]),
    ],
)
def test_a_file_of_cut_times(tmp_path: Path, text: str, times: list[str]) -> None:
    """In order, each once, exactly as written; with PySceneDetect, the start of each scene."""
    path = tmp_path / "cuts"
    path.write_text(text, "utf-8")
    assert read_cut_times(path) == tuple(map(Decimal, times))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "has 0 cut times: it must have from 1 to 10000"),
        ("1\nsoon\n", "line 2: 'soon' is not a time in seconds"),
        ("-1\n", "line 1: '-1' is not a time"),
        ("1e99\n", "is not a time"),
        ("nan\n", "is not a time"),
        ("1,2\n", "line 1: '1,2' is not a time"),
        (SCENES + "4,241\n", "line 6: '' is not a time"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, text: str, complaint: str) -> None:
    """The error names the file and the line."""
    path = tmp_path / "cuts"
    path.write_text(text)
    with pytest.raises(UsageError, match=f"{re.escape(str(path))}.*{re.escape(complaint)}"):
        read_cut_times(path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """It is missing, or it is not text."""
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for name in ("missing", "binary"):
        with pytest.raises(UsageError, match=f"cannot read .*{name}"):
            read_cut_times(tmp_path / name)


def submission(*options: str) -> Submission:
    return Submission.of(build_parser().parse_args(["submit", "a.mp4", *options]))


def test_the_row_has_the_cuts(tmp_path: Path) -> None:
    """Only what was given."""
    (tmp_path / "cuts").write_text("3\n1.5\n")
    given = submission("--cut-times", str(tmp_path / "cuts"), "--cut-tolerance", "0.5", "--max-segment-seconds", "60")
    row = build_row(given, 0, 0)
    assert row["cut_times_s"] == [Decimal("1.5"), Decimal(3)]
    assert (row["cut_tolerance_sec"], row["max_segment_duration_sec"]) == (Decimal("0.5"), 60)
    assert build_row(submission("--segments", "7"), 0, 0)["segments"] == 7
    assert not {"segments", "cut_times_s", "cut_tolerance_sec", "max_segment_duration_sec"} & set(
        build_row(submission(), 0, 0)
    )


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--segments", "3", "--segment-seconds", "4"], "--segment-seconds: not allowed with argument --segments"),
        (["--segments", "3", "--cut-times", "f"], "--cut-times: not allowed with argument --segments"),
        (["--segments", "0"], "'0' is not a whole number from 1 to 99999"),
    ],
)
def test_options_that_exclude_each_other(
    options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names both."""
    with pytest.raises(SystemExit):
        submission(*options)
    assert complaint in capsys.readouterr().err


def test_options_that_contradict_each_other() -> None:
    """A tolerance without cut times, and a maximum below the minimum."""
    with pytest.raises(UsageError, match="no meaning without --cut-times"):
        submission("--cut-tolerance", "1")
    with pytest.raises(UsageError, match="--max-segment-seconds is less than --segment-seconds"):
        submission("--max-segment-seconds", "1", "--segment-seconds", "2")
