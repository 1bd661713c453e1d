"""The example of a worker in Python that decodes and encodes with PyAV, in an environment of its own."""

from pathlib import Path

from tests.media import clips, look
from tests.worker.world import ROOT, World, wait_until


def test_pyav_writes_every_frame_at_its_time(world: World, tmp_path: Path) -> None:
    """examples/pyav_worker.py keeps a variable frame rate and the audio, and changes the frames."""
    interpreter = look.python_with("boto3==1.43.108", "av==19.0.2", "numpy==2.5.5")
    world.clip, world.lasts = _variable_rate(tmp_path / "segment.mp4"), {"duration-seconds": "3/2"}
    world.add_job()
    process = world.launch([interpreter, str(ROOT / "examples" / "pyav_worker.py")], TMPDIR=str(tmp_path))
    try:
        wait_until(lambda: world.processed or (world.attempts and world.attempts[0].failures), 40)
    finally:
        process.terminate()
        out, errors = process.communicate()
    assert world.processed == [0], (out, errors)
    processed = tmp_path / "processed.mp4"
    processed.write_bytes(world.output(0)["Bytes"])
    before, after = look.decoded_frames(world.clip), look.decoded_frames(processed)
    assert len(after) == 24
    assert look.largest_shift_ms(before, after) == 0
    assert not {each.content for each in before} & {each.content for each in after}
    assert look.packets(world.clip, "a:0") == look.packets(processed, "a:0")


def _variable_rate(path: Path) -> Path:
    """24 frames with B-frames: the first half at 24 frames per second, the second half at 12; and audio."""
    video = ("-f", "lavfi", "-i", "testsrc2=size=64x64:rate=24", "-frames:v", "24")
    audio = ("-f", "lavfi", "-t", "1.5", "-i", "sine=sample_rate=48000", "-c:a", "aac")
    times = ("-vf", "setpts='(N+max(0,N-12))/24/TB'", "-fps_mode", "passthrough", "-c:v", "libx264", "-bf", "2")
    clips.ffmpeg(*video[:-2], *audio[:6], *times, *video[-2:], *audio[6:], str(path))
    return path
