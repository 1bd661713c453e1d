"""Locks between processes."""

import subprocess
import sys
from pathlib import Path

from local.locks import Lock


def test_a_lock_is_seen_for_as_long_as_it_is_held(tmp_path: Path) -> None:
    """Shared locks stand beside each other; one that is held alone does not."""
    lock = Lock(tmp_path / "new" / "lock")
    assert not lock.is_held()
    with lock.shared():
        assert lock.is_held()
        assert not lock.is_taken()
    with lock.taken():
        assert lock.is_held()
        assert lock.is_taken()
    assert not lock.is_held()


def test_a_lock_passed_to_a_process_is_held_until_that_ends(tmp_path: Path) -> None:
    """However it ends: this is how we know that the cloud is alive."""
    lock = Lock(tmp_path / "lock")
    with lock.taken() as file:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[file.fileno()])
    with process:
        assert lock.is_taken()
        process.kill()
    assert not lock.is_taken()
