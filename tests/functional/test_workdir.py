"""Work directories: private, removed whatever happens, and never somebody else's."""

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
Usage = namedtuple("Usage", "total used free")  # noqa: PYI024  # what shutil returns is one


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def free_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much room there is, as the test says."""
    free = [0]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, free[0]))
    return free


def start_worker(temporary: Path) -> tuple["subprocess.Popen[str]", Path]:
    """A process that works in a directory of its own."""
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(temporary)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout
    return worker, Path(worker.stdout.readline().strip())


def end(worker: "subprocess.Popen[str]") -> None:
    worker.communicate()


def test_a_directory_is_private_and_removed(temporary: Path) -> None:
    """Nobody else reads the media, and nothing stays."""
    with work_directory() as path:
        assert path.parent.parent == temporary
        assert path.stat().st_mode & 0o777 == 0o700
        assert path.parent.stat().st_mode & 0o777 == 0o700
        (path / "media").write_text("x")
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_directory_is_removed_after_an_error(temporary: Path, error: type[BaseException]) -> None:
    """Whatever it is."""
    with pytest.raises(error), work_directory() as path:
        raise error
    assert not path.exists()


def test_two_at_a_time_do_not_disturb_each_other(temporary: Path) -> None:
    """The second is made while the first is in use, also in the same process."""
    with work_directory() as one:
        (one / "media").write_text("x")
        with work_directory() as two:
            assert one != two
            assert (one / "media").exists()
        assert one.exists()


def test_what_a_killed_process_left_is_removed(temporary: Path, logs: Logs) -> None:
    """Killed as Lambda kills: without a word. The next one finds /tmp empty again."""
    worker, left = start_worker(temporary)
    worker.send_signal(signal.SIGKILL)
    end(worker)
    assert (left / "media").exists()
    with work_directory() as path:
        assert list(path.parent.iterdir()) == [path]
    assert logs.the("removing what a killed invocation left")["work_directory"] == str(left)


def test_what_a_living_process_works_on_stays(temporary: Path) -> None:
    """Several workers may share a machine."""
    worker, theirs = start_worker(temporary)
    with work_directory():
        assert (theirs / "media").exists()
    assert (theirs / "media").exists()
    end(worker)
    assert not theirs.exists()


def test_a_directory_that_was_half_removed_is_removed(temporary: Path) -> None:
    """Whatever is left in it: a process can be killed while it tidies up."""
    left = temporary / "media-worker" / "left"
    left.mkdir(parents=True)
    (left / "00000.mp4").write_text("x")
    with work_directory():
        assert not left.exists()


def test_what_is_no_directory_is_left_alone(temporary: Path) -> None:
    """It is not of our making."""
    root = temporary / "media-worker"
    root.mkdir()
    (root / "note").write_text("x")
    with work_directory():
        pass
    assert (root / "note").exists()


def test_a_link_is_not_followed(temporary: Path) -> None:
    """Whoever shares /tmp with us cannot make us end a process, or empty a directory, that is not ours."""
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


def test_a_root_that_is_a_link_stops_the_work(temporary: Path) -> None:
    """Media does not go where somebody else points."""
    (temporary / "media-worker").symlink_to(temporary)
    with pytest.raises(NotADirectoryError, match="media-worker"), work_directory():
        pytest.fail("it followed the link")


def test_programs_do_not_inherit_the_lock(temporary: Path) -> None:
    """An ffmpeg that outlives us would keep our leftovers locked."""
    with work_directory() as path:
        descriptors = [os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir() if entry.exists()]
        assert str(path) in descriptors
        listed = subprocess.run(
            ["/bin/ls", "-l", "/proc/self/fd"], capture_output=True, text=True, check=True, close_fds=False
        ).stdout
    assert str(path) not in listed


def test_room_is_needed_beside_the_media(tmp_path: Path, free_bytes: list[int]) -> None:
    """Exactly enough with the margin is enough."""
    free_bytes[0] = 1000 + 64 * 1024 * 1024
    require_room(tmp_path, 1000, "a source")
    with pytest.raises(NoRoom):
        require_room(tmp_path, 1001, "a source")


def test_a_source_without_room_fails_before_its_download(stack: Stack, clip: ClipMaker, free_bytes: list[int]) -> None:
    """The error says how much is needed, how much there is, and what to do."""
    free_bytes[0] = 10_000_000
    fetched: list[object] = []
    stack.aws.s3.meta.events.register("before-call.s3.GetObject", lambda **call: fetched.append(call))
    stack.add_job()
    stack.upload(clip("plain"))
    assert stack.chunk() == []
    assert stack.job().status is JobStatus.FAILED
    assert stack.job().error == (
        "a source of 0 MB needs 68 MB of temporary space and 10 MB are free: give the function a larger "
        "EphemeralStorage (10,240 MB at most) or upload a smaller file"
    )
    assert fetched == []
    assert stack.leftovers() == []


def test_segments_without_room_fail_before_their_download(stack: Stack, clip: ClipMaker, free_bytes: list[int]) -> None:
    """Twice their sum is needed: for them and for the final."""
    free_bytes[0] = 10**12
    stack.add_job()
    stack.upload(clip("plain"))
    stack.chunk()
    stack.process_segments()
    total = sum(len(stack.read("test-output", f"jobs/job-1/segments/{index}.mp4")) for index in range(3))
    free_bytes[0] = 2 * total + workdir._MARGIN_BYTES - 1
    assert stack.reassemble() == []
    assert stack.job().status is JobStatus.FAILED
    assert (stack.job().error or "").startswith("joining 3 segments of ")
