"""The simplest way to split and join, as a reference: download everything, run ffmpeg, upload one file after another.

No plan, no parallelism, no checks, no lease.
"""

import subprocess
from pathlib import Path

from media_worker.aws import Aws
from media_worker.keys import build_final_key, build_output_segment_key, build_segment_key, build_source_key


def split(aws: Aws, job_id: str, folder: Path) -> None:
    """Download, split, then upload each segment."""
    source = folder / "source.mp4"
    aws.s3.download_file(aws.settings.input_bucket_name, build_source_key(job_id), str(source))
    seconds = str(float(aws.settings.chunk_segment_duration_sec))
    command = [aws.settings.ffmpeg_path, "-nostdin", "-v", "error", "-i", str(source), "-map", "0", "-c", "copy"]
    command += ["-f", "segment", "-segment_time", seconds, "-reset_timestamps", "1", str(folder / "%05d.mp4")]
    subprocess.run(command, check=True)
    paths = sorted(folder.glob("[0-9]*.mp4"))
    for index, path in enumerate(paths):
        key = build_segment_key(job_id, index, len(paths), "sbs")
        aws.s3.upload_file(str(path), aws.settings.input_bucket_name, key)


def join(aws: Aws, job_id: str, folder: Path, total: int) -> None:
    """Download each segment, join, then upload the final."""
    bucket = aws.settings.output_bucket_name
    names = [f"{index:05d}.mp4" for index in range(total)]
    for index, name in enumerate(names):
        aws.s3.download_file(bucket, build_output_segment_key(job_id, index), str(folder / name))
    (folder / "list.txt").write_text("".join(f"file '{name}'\n" for name in names))
    command = [aws.settings.ffmpeg_path, "-nostdin", "-v", "error", "-f", "concat", "-i", str(folder / "list.txt")]
    command += ["-map", "0", "-c", "copy", "-movflags", "+faststart", str(folder / "final.mp4")]
    subprocess.run(command, check=True)
    aws.s3.upload_file(str(folder / "final.mp4"), bucket, build_final_key(job_id))
