"""Locks between processes."""

import subprocess
import sys
from pathlib import Path

from media_worker_cli.local.locks import Lock


def test_a_lock_is_visible_while_it_is_held(tmp_path: Path) -> None:
    """A shared lock counts as held, an exclusive one as held and as exclusive."""
    lock = Lock(tmp_path / "new" / "lock")
    assert not lock.is_held()
    with lock.shared():
        assert lock.is_held()
        assert not lock.is_exclusive()
    with lock.exclusive():
        assert lock.is_held()
        assert lock.is_exclusive()
    assert not lock.is_held()


def test_a_lock_passed_to_a_process_is_held_until_it_ends(tmp_path: Path) -> None:
    """Also when it is killed. The local cloud is found by such a lock."""
    lock = Lock(tmp_path / "lock")
    with lock.exclusive() as file:
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[file.fileno()])
    with process:
        assert lock.is_exclusive()
        process.kill()
    assert not lock.is_exclusive()
