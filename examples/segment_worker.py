"""A segment worker in Python: the kit receives segments, and this program says what is done with them.

    SEGMENT_QUEUE_URL=... INPUT_BUCKET_NAME=... python examples/segment_worker.py

`media-worker status --env` prints the environment of the local cloud. To run a command for each segment no program is
needed: `media-worker work -- ffmpeg -i {input} -vf negate -c:a copy {output}`.
"""

import os
import shutil

from media_worker.worker import Worker

if __name__ == "__main__":
    for segment in Worker.connect(os.environ).segments():
        with segment:
            # Your model goes here. Errors are recorded, and the segment is processed again.
            shutil.copyfile(segment.input, segment.output)
