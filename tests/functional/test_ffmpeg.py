"""How ffmpeg is run and how it is ended. Shell scripts replace ffmpeg where the test looks from inside the process."""

import os
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest
from media_worker.deadline import RESERVE_S, Deadline
from media_worker.engines.ffmpeg import Fed, Ffmpeg
from media_worker.errors import FfmpegFailed, FfmpegStopped, TransferFailed
from media_worker.jobs import JobStatus

from tests.functional.conftest import ClipMaker
from tests.functional.stack import ENVIRONMENT, LambdaContext, Stack

REAL = ENVIRONMENT["FFMPEG_PATH"]


def script(folder: Path, *lines: str) -> str:
    """Write a program of these shell lines."""
    path = folder / "script"
    path.write_text("\n".join(("#!/bin/sh", *lines)))
    path.chmod(0o700)
    return str(path)


def ffmpeg(folder: Path, remaining_s: float = 60, path: str = REAL) -> Ffmpeg:
    context = LambdaContext(remaining_ms=int((remaining_s + RESERVE_S) * 1000))
    return Ffmpeg(path, folder, Deadline(context))


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def state_of(pid: int) -> str:
    """The process state: R running, S sleeping, T stopped."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for(path: Path) -> str:
    """Wait until a script has written a file; its text."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.01)
    raise TimeoutError(path)


def test_ffmpeg_gets_no_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile file that takes over ffmpeg finds no credentials."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    printed = ffmpeg(tmp_path).run([script(tmp_path, "exec /usr/bin/env")])
    # The variables that a shell sets.
    assert {line.partition("=")[0] for line in printed.splitlines()} <= {"PWD", "OLDPWD", "SHLVL", "_"}
    assert "secret" not in printed


def test_ffmpegs_standard_input_is_empty(tmp_path: Path) -> None:
    """The process can neither wait for a key press nor read our input."""
    reading, writing = os.pipe()
    os.write(writing, b"meant for us")
    os.close(writing)
    before = os.dup(0)
    os.dup2(reading, 0)
    try:
        assert ffmpeg(tmp_path).run([script(tmp_path, "exec /bin/cat")]) == ""
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(reading)


def test_ffmpeg_runs_in_its_work_directory(tmp_path: Path) -> None:
    """File names in command lines are relative to it."""
    assert ffmpeg(tmp_path).run([script(tmp_path, "pwd")]) == str(tmp_path)


def test_ffmpeg_inherits_no_open_file(tmp_path: Path) -> None:
    """Our connections and locks are not shared with ffmpeg."""
    with (tmp_path / "open").open("w") as ours:
        os.set_inheritable(ours.fileno(), True)  # even then
        printed = ffmpeg(tmp_path).run([script(tmp_path, "exec /bin/ls /proc/self/fd")])
    assert set(printed.split()) <= {"0", "1", "2", "3"}  # 3 is the directory that ls reads


def test_a_hung_ffmpeg_is_killed_at_the_deadline(tmp_path: Path) -> None:
    """The error has its last output."""
    path = script(tmp_path, "echo half a frame >&2", "exec /bin/sleep 60")
    with pytest.raises(FfmpegStopped, match="ffmpeg did not end within 1 s and was killed: half a frame"):
        ffmpeg(tmp_path, remaining_s=1).run([path])


def test_a_hung_ffmpeg_returns_the_message(
    stack: Stack, tmp_path: Path, clip: ClipMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler leaves no process and no file, and the job is not failed yet."""
    pid = tmp_path / "pid"
    path = script(tmp_path, f"echo $$ > {pid}", "exec /bin/sleep 60")
    monkeypatch.setattr("media_worker.handlers.MIN_FOR_A_RECORD_S", 0)
    stack.aws = type(stack.aws).connect(type(stack.aws.settings).from_environment(ENVIRONMENT | {"FFMPEG_PATH": path}))
    stack.context.remaining_ms = 17_000
    stack.add_job(engine={"S": "ffmpeg"})
    stack.upload(clip("no_audio"))
    assert stack.chunk() == ["message-0"]
    assert stack.job().status is JobStatus.CHUNKING_IN_PROGRESS
    assert stack.leftovers() == []
    assert not is_running(int(pid.read_text()))


def test_a_missing_ffmpeg_is_retried_and_named(stack: Stack, clip: ClipMaker) -> None:
    """A missing layer is not the source's fault."""
    environment = ENVIRONMENT | {"FFMPEG_PATH": "/nowhere/ffmpeg"}
    stack.aws = type(stack.aws).connect(type(stack.aws.settings).from_environment(environment))
    stack.add_job(engine={"S": "ffmpeg"})
    stack.upload(clip("no_audio"))
    assert stack.chunk(receive_count=5) == ["message-0"]
    assert "/nowhere/ffmpeg" in (stack.job().error or "")


@pytest.mark.parametrize("name", ["SEGV", "KILL", "TERM"])
def test_an_ffmpeg_that_a_signal_ends_is_retried(tmp_path: Path, name: str) -> None:
    """It was killed or it crashed: a retry may succeed."""
    path = script(tmp_path, "echo last words >&2", f"kill -{name} $$", "exec /bin/sleep 60")
    with pytest.raises(FfmpegStopped, match=f"ffmpeg was killed by SIG{name}: last words"):
        ffmpeg(tmp_path).run([path])


def test_an_ffmpeg_without_disk_space_is_retried(tmp_path: Path, clip: ClipMaker) -> None:
    """A full disk is not the source's fault. Here ffmpeg writes to a device that is always full."""
    command = [REAL, "-v", "error", "-y", "-i", str(clip("plain")), "-c", "copy", "-f", "matroska", "/dev/full"]
    with pytest.raises(FfmpegStopped, match=r"ffmpeg ran out of disk space: .*No space left on device"):
        ffmpeg(tmp_path).run(command)


def test_a_failed_ffmpeg_reports_why(tmp_path: Path) -> None:
    """The error has command, exit code and last lines, and a reason for a person."""
    path = script(tmp_path, "echo '[mov @ 0x1] moov atom not found' >&2", "exit 183")
    with pytest.raises(FfmpegFailed) as caught:
        ffmpeg(tmp_path).run([path, "-i", "source"])
    assert str(caught.value) == f"ffmpeg exited with 183: [mov @ 0x1] moov atom not found [{path} -i source]"
    assert caught.value.reason == "moov atom not found"


def test_only_the_last_lines_of_stderr_are_kept(tmp_path: Path) -> None:
    """Neither many lines nor an endless line fill the memory."""
    path = script(
        tmp_path,
        "i=0; while [ $i -lt 2000 ]; do echo line $i >&2; i=$((i+1)); done",
        "/usr/bin/head -c 3000000 /dev/zero | /usr/bin/tr '\\0' x >&2",
        "echo >&2; echo the end >&2; exit 1",
    )
    with pytest.raises(FfmpegFailed, match="the end") as caught:
        ffmpeg(tmp_path).run([path])
    assert "line 1" not in str(caught.value)
    assert len(str(caught.value)) < 20 * 502


def test_an_error_in_the_reader_kills_ffmpeg(tmp_path: Path) -> None:
    """The process does not continue when the code that reads its output fails."""
    path = script(tmp_path, "echo $$", "exec /bin/sleep 60")
    with (  # noqa: PT012  # the last statement raises
        pytest.raises(OSError, match="upload failed"),
        ffmpeg(tmp_path).running([path]) as process,
    ):
        pid = int(next(process.lines()))
        raise OSError("upload failed")
    assert not is_running(pid)


def test_media_is_fed_to_ffmpegs_standard_input(tmp_path: Path) -> None:
    """Ffmpeg reads it while it is being read from S3."""
    fed = Fed(lambda: (block for block in (b"one ", b"two ", b"three")), 13)
    assert ffmpeg(tmp_path).run([script(tmp_path, "exec /bin/cat")], fed) == "one two three"


def test_ffmpeg_need_not_read_everything(tmp_path: Path) -> None:
    """It may end early, for example when it only looks at the header. The rest is not read."""
    read: list[int] = []

    def blocks() -> Generator[bytes]:
        for number in range(1000):
            read.append(number)
            yield bytes(100_000)

    assert ffmpeg(tmp_path).run([script(tmp_path, "exec /usr/bin/head -c 4")], Fed(blocks, 10**8))
    assert len(read) < 1000


def test_an_error_in_reading_the_media_ends_ffmpeg(tmp_path: Path) -> None:
    """The error is raised, not what ffmpeg says about truncated media."""

    def blocks() -> Generator[bytes]:
        yield b"one"
        raise TransferFailed("S3 broke off the transfer")

    with pytest.raises(TransferFailed, match="broke off"):
        ffmpeg(tmp_path).run([script(tmp_path, "exec /bin/cat")], Fed(blocks, 10))


def test_a_hung_ffmpeg_that_does_not_read_is_killed_at_the_deadline(tmp_path: Path) -> None:
    """The thread that feeds it ends with it."""

    def blocks() -> Generator[bytes]:
        while True:
            yield bytes(1 << 20)

    before = set(threading.enumerate())
    with pytest.raises(FfmpegStopped, match="did not end within 1 s"):
        ffmpeg(tmp_path, remaining_s=1).run([script(tmp_path, "exec /bin/sleep 60")], Fed(blocks, 1 << 30))
    for thread in set(threading.enumerate()) - before:
        thread.join(5)
        assert not thread.is_alive()
