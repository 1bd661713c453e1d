"""Work directories are private and always removed, and other files are not touched."""

import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from media_worker import workdir
from media_worker.errors import NoRoom
from media_worker.jobs import JobStatus
from media_worker.mp4.reader import PEEK_BYTES
from media_worker.workdir import require_room, work_directory

from tests.functional.conftest import ClipMaker
from tests.functional.logs import Logs
from tests.functional.stack import Stack

WORKER = """
import sys, tempfile
from pathlib import Path
from media_worker.workdir import work_directory
tempfile.tempdir = sys.argv[1]
with work_directory() as path:
    (path / "media").write_bytes(bytes(1000))
    print(path, flush=True)
    sys.stdin.read()
"""
Usage = namedtuple("Usage", "total used free")  # noqa: PYI024  # shutil returns such a tuple


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def free_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The free disk space that the test sets."""
    free = [0]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, free[0]))
    return free


def start_worker(temporary: Path) -> tuple["subprocess.Popen[str]", Path]:
    """Start a process that holds a work directory."""
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(temporary)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout
    return worker, Path(worker.stdout.readline().strip())


def end(worker: "subprocess.Popen[str]") -> None:
    worker.communicate()


def test_a_directory_is_private_and_removed(temporary: Path) -> None:
    """Only its owner can read it, and it is removed at the end."""
    with work_directory() as path:
        assert path.parent.parent == temporary
        assert path.stat().st_mode & 0o777 == 0o700
        assert path.parent.stat().st_mode & 0o777 == 0o700
        (path / "media").write_text("x")
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_directory_is_removed_after_an_error(temporary: Path, error: type[BaseException]) -> None:
    """After any exception."""
    with pytest.raises(error), work_directory() as path:
        raise error
    assert not path.exists()


def test_two_directories_at_a_time_are_independent(temporary: Path) -> None:
    """In one process too."""
    with work_directory() as one:
        (one / "media").write_text("x")
        with work_directory() as two:
            assert one != two
            assert (one / "media").exists()
        assert one.exists()


def test_the_directory_of_a_killed_process_is_removed(temporary: Path, logs: Logs) -> None:
    """The next invocation finds /tmp empty."""
    worker, left = start_worker(temporary)
    worker.send_signal(signal.SIGKILL)
    end(worker)
    assert (left / "media").exists()
    with work_directory() as path:
        assert list(path.parent.iterdir()) == [path]
    assert logs.one("leftover_removed")["work_directory"] == str(left)


def test_the_directory_of_a_live_process_stays(temporary: Path) -> None:
    """Several workers may share a machine."""
    worker, its_directory = start_worker(temporary)
    with work_directory():
        assert (its_directory / "media").exists()
    assert (its_directory / "media").exists()
    end(worker)
    assert not its_directory.exists()


def test_a_partly_removed_directory_is_removed(temporary: Path) -> None:
    """A process can be killed while it removes its directory."""
    left = temporary / "media-worker" / "left"
    left.mkdir(parents=True)
    (left / "00000.mp4").write_text("x")
    with work_directory():
        assert not left.exists()


def test_other_files_are_left_alone(temporary: Path) -> None:
    """A file in the root is not ours."""
    root = temporary / "media-worker"
    root.mkdir()
    (root / "note").write_text("x")
    with work_directory():
        pass
    assert (root / "note").exists()


def test_a_link_is_not_followed(temporary: Path) -> None:
    """A symbolic link in a shared /tmp cannot make us kill a process or empty a directory elsewhere."""
    elsewhere = temporary / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "canary").write_text("x")
    root = temporary / "media-worker"
    root.mkdir()
    (root / "link").symlink_to(elsewhere)
    with subprocess.Popen(["/bin/sleep", "60"], cwd=elsewhere) as bystander:
        with work_directory():
            pass
        assert bystander.poll() is None
        bystander.kill()
    assert (elsewhere / "canary").exists()


def test_a_root_that_is_a_link_is_refused(temporary: Path) -> None:
    """Media is not written where a symbolic link points."""
    (temporary / "media-worker").symlink_to(temporary)
    with pytest.raises(NotADirectoryError, match="media-worker"), work_directory():
        pytest.fail("it followed the link")


def test_programs_do_not_inherit_the_lock(temporary: Path) -> None:
    """A child process that survives us would keep the directory locked."""
    with work_directory() as path:
        descriptors = [os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir() if entry.exists()]
        assert str(path) in descriptors
        listed = subprocess.run(
            ["/bin/ls", "-l", "/proc/self/fd"], capture_output=True, text=True, check=True, close_fds=False
        ).stdout
    assert str(path) not in listed


def test_a_margin_is_needed_beside_the_media(tmp_path: Path, free_bytes: list[int]) -> None:
    """Exactly the size and the margin is enough."""
    free_bytes[0] = 1000 + 64 * 1024 * 1024
    require_room(tmp_path, 1000, "a source")
    with pytest.raises(NoRoom):
        require_room(tmp_path, 1001, "a source")


def test_a_source_without_room_fails_before_its_download(stack: Stack, clip: ClipMaker, free_bytes: list[int]) -> None:
    """The error says how much is needed, how much is free, and what to do."""
    free_bytes[0] = 10_000_000
    read_bytes: list[int] = []
    stack.aws.s3.meta.events.register(
        "after-call.s3.GetObject", lambda parsed, **_: read_bytes.append(parsed["ContentLength"])
    )
    stack.add_job(engine={"S": "ffmpeg"})
    stack.upload(clip("plain"))
    assert stack.chunk() == []
    assert stack.job().status is JobStatus.FAILED
    error = stack.job().error or ""
    for words in ("needs 68 MB", "10 MB are free", "EphemeralStorage"):
        assert words in error
    assert sum(read_bytes) <= PEEK_BYTES, "more than its start was read"
    assert stack.leftovers() == []


def test_segments_without_room_fail_before_their_download(stack: Stack, clip: ClipMaker, free_bytes: list[int]) -> None:
    """Space for the remuxed segments is needed."""
    free_bytes[0] = 10**12
    stack.add_job(engine={"S": "ffmpeg"})
    stack.upload(clip("plain"))
    stack.chunk()
    stack.process_segments()
    total = sum(len(stack.read("test-output", f"jobs/job-1/segments/{index}.mp4")) for index in range(3))
    free_bytes[0] = total + workdir._MARGIN_BYTES - 1
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.FAILED
    assert (stack.job().error or "").startswith("remuxing 3 segments of ")
