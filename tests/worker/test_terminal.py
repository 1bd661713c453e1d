"""On a terminal, `media-worker work` shows bars and sentences instead of JSON."""

import os
import pty

from tests.worker.world import World, python


def test_a_terminal_shows_progress_and_sentences(world: World) -> None:
    """The bar names job and segment; what happens is told above it."""
    world.add_job()
    program = (
        "import shutil, sys, time; print('progress=0.42', flush=True); time.sleep(1.5); shutil.copy(*sys.argv[1:])"
    )
    ours, terminal = pty.openpty()
    process = world.start("--once", "--", *python(program, "{input}", "{output}"), stderr=terminal, TERM="xterm")
    os.close(terminal)
    out, _ = process.communicate(timeout=60)
    drawn = b""
    while data := _read(ours):
        drawn += data
    os.close(ours)
    text = drawn.decode(errors="replace")
    assert process.returncode == 0
    assert "job-1 segment 0 of 1" in text
    assert "42%" in text
    assert "job-1 segment 0: Segment processed" in text
    assert out == ""


def _read(file: int) -> bytes:
    try:
        return os.read(file, 65536)
    except OSError:  # the other end is closed
        return b""
