"""A small process between a worker and the user's command: it kills the command when the worker dies.

A worker can be killed at any moment, by the kernel when memory is short, for example. Without a supervisor its command
would occupy the GPU for hours, while another worker processes the segment again.

    python -I -S supervisor.py COMMAND...

Standard input is a pipe whose other end the worker holds: at its end of file, the worker has died. The supervisor leads
the command's process group, and exits as the command does.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

GRACE_S = 5.0
NOT_STARTED = 127


def main(argv: list[str]) -> int:
    """Run the command and return its exit code; a signal that ended it ends this process too."""
    # A handler, not SIG_IGN: the command would inherit that. The command gets the group's signals itself.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _ignore)
    try:
        command = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.stderr.write(f"{argv[0]}: {error.strerror}\n")
        return NOT_STARTED
    threading.Thread(target=_kill_after_worker, daemon=True).start()
    code = command.wait()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code not in {signal.SIGKILL, signal.SIGSTOP} else None
        os.kill(os.getpid(), -code)
    return code


def _ignore(number: int, frame: FrameType | None) -> None:
    del number, frame


def _kill_after_worker() -> None:
    while os.read(0, 1):
        pass
    with suppress(ProcessLookupError):
        os.killpg(0, signal.SIGTERM)
        time.sleep(GRACE_S)
        os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
