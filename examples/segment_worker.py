"""A segment worker: takes segments from the queue, runs a command on each, and uploads what the command wrote.

    python examples/segment_worker.py ffmpeg -i {input} -vf negate -c:a copy {output}

The environment holds SEGMENT_QUEUE_URL and the settings of the functions. For the local cloud,
`media-worker status --env` prints them.
"""

import os
import subprocess  # noqa: TID251 - it runs the user's command
import sys
from pathlib import Path

from media_worker.aws import Aws
from media_worker.keys import SegmentKey
from media_worker.settings import Settings
from media_worker.worker import process_next_message


def run_command(_segment: SegmentKey, source: Path, target: Path) -> None:
    """Run the command from this program's arguments, with the two file names filled in."""
    files = {"{input}": str(source), "{output}": str(target)}
    subprocess.run([files.get(word, word) for word in sys.argv[1:]], check=True)


if __name__ == "__main__":
    aws = Aws.connect(Settings.from_environment(os.environ))
    while True:
        process_next_message(aws, os.environ["SEGMENT_QUEUE_URL"], run_command)
