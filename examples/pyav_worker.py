"""A segment worker that reads frames with PyAV, changes them, and writes them with the times that they had.

    pip install av==19.0.2 numpy==2.5.5
    python examples/pyav_worker.py

Replace `change` by your model. Audio is copied without decoding.
"""

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from media_worker.worker import Worker

# An output with these settings has each frame at the time that it has in the segment, also with a variable frame rate.
CODEC = "libx264"
OPTIONS = {"crf": "18", "preset": "medium"}


def change(image: np.ndarray) -> np.ndarray:
    """The processed frame, as height x width x 3 bytes (RGB): here, the negative."""
    return 255 - image


def process(source_path: Path, target_path: Path, report: Callable[[int], None]) -> None:
    """Process each presented frame of a segment."""
    with av.open(str(source_path)) as source, av.open(str(target_path), "w") as target:
        video = source.streams.video[0]
        audio = [stream for stream in source.streams if stream.type == "audio"]
        encoder = target.add_stream(CODEC, rate=video.average_rate or Fraction(25), options=OPTIONS)
        encoder.width, encoder.height, encoder.pix_fmt = video.width, video.height, "yuv420p"
        encoder.codec_context.time_base = video.time_base
        copies = {stream.index: target.add_stream_from_template(stream) for stream in audio}
        frames = 0
        for packet in source.demux(video, *audio):
            if packet.stream.index in copies:
                if packet.dts is not None:
                    packet.stream = copies[packet.stream.index]
                    target.mux(packet)
                continue
            for frame in packet.decode():
                changed = av.VideoFrame.from_ndarray(change(frame.to_ndarray(format="rgb24")), format="rgb24")
                changed.pts, changed.time_base = frame.pts, frame.time_base
                target.mux(encoder.encode(changed))
                frames += 1
                report(frames)
        target.mux(encoder.encode(None))


if __name__ == "__main__":
    for segment in Worker.connect(os.environ).segments():
        with segment as s:
            process(s.input, s.output, lambda frames: s.report(frame=frames))
