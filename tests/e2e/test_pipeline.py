"""The commands, against the real template deployed into the local cloud."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from media_worker.jobs import JobStatus
from media_worker_cli.local.ffmpeg import ffmpeg_path

from tests.e2e.conftest import ROOT, CommandLine
from tests.fidelity.recorders import make_clips
from tests.media import clips, look

NEGATE = "ffmpeg -v error -i {input} -map 0 -vf negate -c:v libx264 -preset ultrafast -c:a copy {output}"


def wait_for(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.1)


def contents(samples: list[look.Sample]) -> list[str]:
    return [sample.content for sample in samples]


def assert_same_media(final: Path, source: Path) -> None:
    assert contents(look.decoded_frames(final)) == contents(look.decoded_frames(source))
    for track in ("a:0", "a:1"):
        assert contents(look.packets(final, track)) == contents(look.packets(source, track))


def test_the_final_of_a_run_equals_the_source(cloud: CommandLine, clip: Path, tmp_path: Path) -> None:
    """Without a segment command, the final has every frame and every audio packet. Seconds may have fractions."""
    final, keep = tmp_path / "new" / "final.mp4", tmp_path / "keep"
    ended = cloud("run", clip, "--out", final, "--segment-seconds", "2.5", "--keep", keep, "--json")
    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    assert (summary["status"], summary["final"], summary["segments"]) == ("completed", str(final), 4)
    assert (summary["frames_in"], summary["frames_out"]) == (250, 250)
    assert {"upload", "chunking: split", "reassembly: join"} <= {step["step"] for step in summary["steps"]}
    assert_same_media(final, clip)
    assert look.is_fast_start(final)
    kept = [path.relative_to(keep).as_posix() for path in sorted(keep.rglob("*.mp4"))]
    assert kept == [f"{folder}/0000{n}.mp4" for folder in ("processed", "segments") for n in range(4)]
    languages = [stream["tags"]["language"] for stream in look.streams(final) if stream["codec_type"] == "audio"]
    assert languages == ["eng", "deu"]


def test_a_command_that_returns_video_only(cloud: CommandLine, tmp_path: Path) -> None:
    """The final has the source's two audio tracks, subtitles and chapters, sample for sample."""
    (source,) = make_clips(tmp_path, ["multitrack.mp4"])
    final = tmp_path / "final.mp4"
    command = "ffmpeg -v error -i {input} -an -c:v libx264 -preset ultrafast {output}"
    ended = cloud("run", source, "--out", final, "--segment-seconds", "2", "--segment-command", command, "--json")
    assert ended.code == 0, ended.err
    summary = json.loads(ended.out)
    assert (summary["segments"], summary["tracks_used"]) == (3, "source")
    assert (summary["frames_in"], summary["frames_out"]) == (150, 150)
    for track in ("a:0", "a:1", "s:0"):
        assert look.packets(final, track) == look.packets(source, track)
    for track in ("a:0", "a:1"):
        decoded = [clips.ffmpeg("-i", str(path), "-map", f"0:{track}", "-f", "md5", "-") for path in (final, source)]
        assert decoded[0] == decoded[1]
    chapters = [clips.ffmpeg("-i", str(path), "-f", "ffmetadata", "-") for path in (final, source)]
    assert chapters[0] == chapters[1]
    assert chapters[0].count("[CHAPTER]") == 3


def test_two_runs_at_once_do_not_disturb_each_other(cloud: CommandLine, clip: Path, tmp_path: Path) -> None:
    """Each run processes its own segments with its own command, whichever run receives them from the shared queue."""
    plain, negated = tmp_path / "plain.mp4", tmp_path / "negated.mp4"
    both = [
        cloud.start("run", clip, "--out", plain, "--segment-seconds", "1"),
        cloud.start("run", clip, "--out", negated, "--segment-seconds", "1", "--segment-command", NEGATE),
    ]
    for process in both:
        ended = cloud.wait(process)
        assert ended.code == 0, ended.err
        assert "frames in = frames out: 250" in ended.out
    assert_same_media(plain, clip)
    original, changed = contents(look.decoded_frames(clip)), contents(look.decoded_frames(negated))
    assert len(changed) == len(original)
    assert not set(changed) & set(original)


def test_a_source_that_is_not_a_video(cloud: CommandLine, tmp_path: Path) -> None:
    """The job and the command fail, and the last line says what is wrong with the file."""
    source, final = tmp_path / "notes.mp4", tmp_path / "final.mp4"
    source.write_text("Nothing to see here.\n")
    ended = cloud("run", source, "--out", final, "--json")
    assert ended.code == 1
    assert "cannot read it as a video" in ended.last_error
    failed = json.loads(ended.out)
    assert failed["status"] == "failed"
    assert failed["error"] in ended.last_error
    assert not final.exists()


def test_a_segment_command_that_fails(cloud: CommandLine, clip: Path, tmp_path: Path) -> None:
    """The run fails, shows the last lines of the command, and names the segment."""
    command = f"{sys.executable} -uc \"import sys; print('{{input}}{{output}}'); sys.exit('no more pixels')\""
    ended = cloud("run", clip, "--out", tmp_path / "final.mp4", "--segment-seconds", "20", "--segment-command", command)
    assert (ended.code, ended.out) == (1, "")
    *_, failure, last = ended.err.splitlines()
    assert re.fullmatch(r"segment 0 failed 3 times on \S+: no more pixels", failure)
    assert last == "media-worker: the command exited with 1"


def test_an_interrupted_run_leaves_a_running_cloud_running(cloud: CommandLine, clip: Path, tmp_path: Path) -> None:
    """Ctrl-C kills the segment commands. A cloud that was running before keeps running."""
    mark = tmp_path / "pids"
    sleeper = f"import os, sys, time; open('{mark}', 'a').write(f'{{os.getpid()}} '); time.sleep(300)"
    command = f'{sys.executable} -c "{sleeper}" {{input}} {{output}}'
    process = cloud.start("run", clip, "--out", tmp_path / "final.mp4", "--segment-command", command)
    wait_for(lambda: mark.exists() and mark.read_text().endswith(" "))
    ended = cloud.interrupt(process)
    assert (ended.code, ended.last_error) == (130, "media-worker: interrupted")
    assert not any(Path("/proc", pid).exists() for pid in mark.read_text().split())
    assert cloud("status").code == 0


def test_an_interrupted_run_is_resumed(cloud: CommandLine, clip: Path, tmp_path: Path) -> None:
    """What was processed before Ctrl-C is kept. Only the segment that was interrupted is processed twice."""
    final, starts, go_on = tmp_path / "final.mp4", tmp_path / "starts", tmp_path / "go_on"
    program = tmp_path / "command.py"
    program.write_text(
        "import pathlib, shutil, sys, time\n"
        f"starts = pathlib.Path({str(starts)!r})\n"
        "with starts.open('a') as file: file.write(sys.argv[3] + '\\n')\n"
        f"if len(starts.read_text().splitlines()) > 2 and not pathlib.Path({str(go_on)!r}).exists(): time.sleep(300)\n"
        "shutil.copy(*sys.argv[1:3])\n"
    )
    command = f"{sys.executable} {program} {{input}} {{output}} {{index}}"
    options: list[str | Path] = [
        "--out",
        final,
        "--segment-seconds",
        "2",
        "--segment-command",
        command,
        "--concurrency",
        "1",
    ]
    process = cloud.start("run", clip, *options)
    wait_for(lambda: starts.exists() and len(starts.read_text().splitlines()) == 3)
    ended = cloud.interrupt(process)
    assert ended.code == 130
    (job_id,) = re.findall(r"`--resume (\S+)`", ended.err)
    go_on.touch()
    resumed = cloud("run", clip, *options, "--resume", job_id, "--json")
    assert resumed.code == 0, resumed.err
    assert json.loads(resumed.out)["frames_out"] == 250
    assert_same_media(final, clip)
    started = starts.read_text().split()
    assert started[2] in started[3:]
    assert sorted(started[:2] + started[3:]) == ["0", "1", "2", "3", "4"]
    assert cloud("run", clip, *options, "--resume", job_id).code == 2


def test_an_interrupted_run_stops_the_cloud_that_it_started(clip: Path, tmp_path: Path) -> None:
    """After Ctrl-C no process is left."""
    own = CommandLine(tmp_path / "own")
    process = own.start("run", clip, "--out", tmp_path / "final.mp4")
    wait_for(own.processes)
    assert own.interrupt(process).code == 130
    assert own.processes() == []
    assert own("status").code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "missing.mp4", "--out", "{tmp}/final.mp4"], "cannot read missing.mp4: No such file or directory"),
        (["run", "{clip}", "--out", "{clip}"], "--out {clip} is the source itself"),
        (["run", "{clip}", "--out", "{tmp}"], "--out {tmp} is a directory: give a file name"),
        (["watch", "nobody"], "there is no job 'nobody'"),
        (
            ["fetch", "no/body", "--out", "{tmp}/final.mp4"],
            "'no/body' is not a job id: give one path component, as `submit` prints it",
        ),
    ],
)
def test_unusable_arguments(cloud: CommandLine, clip: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    """The error is one line, and the exit code is 2."""
    names = {"clip": clip, "tmp": tmp_path}
    ended = cloud(*(argument.format(**names) for argument in arguments))
    assert (ended.code, ended.err) == (2, f"media-worker: {message.format(**names)}\n")


def test_an_unknown_stack(cloud: CommandLine) -> None:
    """The error names the stack and the region."""
    environment = cloud.stack_environment() | {"AWS_REGION": "eu-central-1"}
    argv = [str(Path(sys.executable).with_name("media-worker")), "watch", "job", "--stack", "elsewhere"]
    ended = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (2, "media-worker: there is no stack 'elsewhere' in eu-central-1\n")


def test_the_cloud_uses_the_ffmpeg_of_the_layer(cloud: CommandLine) -> None:
    """It is the same file, byte for byte, as in the layer."""
    assert cloud("status").code == 0
    deployed = ROOT / ".local" / "build" / "FfmpegLayer" / "bin" / "ffmpeg"
    assert deployed.read_bytes() == ffmpeg_path().read_bytes()


def test_submit_watch_and_fetch_with_the_example_worker(cloud: CommandLine, clip: Path, tmp_path: Path) -> None:
    """A run of another video at the same time does not process the segments of the submitted job."""
    final = tmp_path / "final.mp4"
    submitted = cloud("submit", clip, "--segment-seconds", "4", "--mode", "anaglyph")
    assert submitted.code == 0, submitted.err
    job_id = submitted.out.strip()
    assert cloud("run", clip, "--out", tmp_path / "other.mp4", "--segment-seconds", "4").code == 0
    assert cloud("fetch", job_id, "--out", final).last_error == f"media-worker: job '{job_id}' has no final"
    with subprocess.Popen(
        [sys.executable, "examples/segment_worker.py"], env=cloud.stack_environment(), cwd=ROOT
    ) as worker:
        watched = cloud("watch", job_id)
        worker.terminate()
    assert (watched.code, watched.out) == (0, f"{job_id} is {JobStatus.COMPLETED}\n"), watched.err
    assert cloud("fetch", job_id, "--out", final).code == 0
    assert_same_media(final, clip)
