"""`media-worker work` as a process: signals, exit codes, concurrency, GPUs, and what is left when it is killed."""

import json
import signal
from pathlib import Path

import pytest

from tests.worker.metadata import serving
from tests.worker.world import COPY, World, python, wait_until

SLOW = ("sh", "-c", "echo $$ > {output}.pid; cp {output}.pid $DIR/pid; sleep 600")


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def is_busy(world: World) -> bool:
    return any(each.state == "running" for each in world.attempts)


def command_pid(world: World) -> int:
    """The process of the slow command, once it runs."""
    file = world.directory / "pid"
    wait_until(lambda: file.exists() and file.read_text().strip())
    return int(file.read_text())


def test_it_works_until_there_is_nothing_to_do(world: World) -> None:
    """`--idle-exit` ends it with 0; the log is JSON lines with an event each."""
    world.add_job(4)
    process = world.start("--idle-exit", "1", "--concurrency", "2", "--", *COPY)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert world.processed == [0, 1, 2, 3]
    events = [json.loads(line)["event"] for line in out.splitlines()]
    assert events.count("segment_processed") == 4
    assert events.count("reassembly_requested") == 1


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_stops_the_command_and_returns_the_message(world: World, number: signal.Signals, code: int) -> None:
    """Within seconds, and nothing of the command is left."""
    world.add_job()
    process = world.start("--", *SLOW, DIR=str(world.directory))
    pid = command_pid(world)
    process.send_signal(number)
    process.communicate(timeout=30)  # SLOW takes minutes
    assert process.returncode == code
    assert world.messages() == (1, 0)
    assert not is_running(pid)
    assert world.attempts[0].state == "returned"


def test_a_killed_worker_leaves_no_command(world: World) -> None:
    """The supervisor kills it. The segment is free after the visibility timeout, and is processed by another worker."""
    world.add_job()
    process = world.start("--visibility", "7", "--", *SLOW, DIR=str(world.directory))
    pid = command_pid(world)
    process.kill()
    process.communicate()
    wait_until(lambda: not is_running(pid))
    other = world.start("--once", "--", *COPY)
    other.communicate(timeout=60)
    assert other.returncode == 0
    assert world.processed == [0]
    assert "ended without reporting" in world.attempts[0].failures[0].error


def test_a_spot_interruption_stops_it(world: World) -> None:
    """The notice comes from the instance metadata service."""
    world.add_job()
    with serving() as metadata:
        metadata.entries["/latest/meta-data/instance-id"] = "i-0abc"
        metadata.entries["/latest/meta-data/spot/instance-action"] = '{"action": "terminate"}'
        process = world.start(
            *("--", *SLOW),
            DIR=str(world.directory),
            AWS_EC2_METADATA_SERVICE_ENDPOINT=metadata.url,
            AWS_EC2_METADATA_DISABLED="false",
        )
        command_pid(world)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert world.messages() == (1, 0)
    assert world.attempts[0].worker == "i-0abc"


def test_once_says_by_its_exit_code_how_it_went(world: World) -> None:
    """One segment, whatever else is in the queue."""
    world.add_job(2)
    process = world.start("--once", "--", "false")
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert sum(world.messages()) == 2


def test_each_gpu_has_a_segment(world: World) -> None:
    """CUDA_VISIBLE_DEVICES names it."""
    world.add_job(4)
    # Each segment waits until both GPUs have one, so that neither slot can process all of them.
    program = """
import os, pathlib, shutil, sys, time
folder = pathlib.Path(sys.argv[3])
with (folder / f"gpu-{os.environ['CUDA_VISIBLE_DEVICES']}").open("a") as file:
    file.write(os.environ["MEDIA_WORKER_INDEX"])
while len(list(folder.glob("gpu-*"))) < 2:
    time.sleep(0.05)
shutil.copy(*sys.argv[1:3])
"""
    command = python(program, "{input}", "{output}", str(world.directory))
    process = world.start("--gpus", "0,3", "--idle-exit", "1", "--", *command)
    process.communicate(timeout=60)
    done = [(world.directory / f"gpu-{gpu}").read_text() for gpu in (0, 3)]
    assert sorted("".join(done)) == ["0", "1", "2", "3"]
    assert all(done)


def test_placeholders_and_environment_describe_the_segment(world: World) -> None:
    """Words in braces that are no placeholders stay as they are."""
    world.add_job()
    told = world.directory / "told"
    words = "{frames} {first_frame} {fps} {start} {duration} {mode} {attempt} {job} {index} {other}"
    program = (
        "import os, shutil, sys; shutil.copy(*sys.argv[1:3]); e = os.environ;"
        "open(sys.argv[3], 'w').write(sys.argv[4] + ' ' + e['MEDIA_WORKER_FRAMES'] + e['MEDIA_WORKER_FPS'])"
    )
    world.start("--once", "--", *python(program, "{input}", "{output}", str(told), words)).communicate(timeout=60)
    assert told.read_text() == "24 0 24 0.000000 1.000000 sbs 1 job-1 0 {other} 2424"


def test_a_missing_program_is_told_before_the_first_segment(world: World) -> None:
    """No segment is received for it."""
    world.add_job()
    process = world.start("--", "no-such-program", "{input}")
    _, errors = process.communicate(timeout=60)
    assert process.returncode
    assert "the command's program 'no-such-program' is not found" in errors
    assert world.messages() == (1, 0)


def test_workers_that_are_killed_lose_nothing(world: World) -> None:
    """Two workers; three times one of them is killed and another one started. Each segment is recorded, and the join is
    requested once.
    """
    world.add_job(12)
    slow = python("import shutil, sys, time; time.sleep(0.7); shutil.copy(*sys.argv[1:])", "{input}", "{output}")
    options = ("--visibility", "6", "--idle-exit", "8", "--", *slow)
    workers = [world.start(*options) for _ in range(2)]
    for kills in range(3):
        wait_until(lambda: len(world.processed) >= 2 * kills and is_busy(world), 30)  # noqa: B023 - called at once
        victim = workers.pop(0)
        victim.kill()
        victim.communicate()
        workers.append(world.start(*options))
    for worker in workers:
        worker.communicate(timeout=60)
    assert world.processed == list(range(12))
    assert world.messages() == (0, 0)
    assert world.messages("reassembly") == (1, 0)
    assert [each.state for each in world.attempts] == ["done"] * 12
