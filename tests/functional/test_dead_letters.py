"""`media-worker dlq`: list, show and redrive the messages in the dead-letter queues."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from media_worker_cli import dead_letters, main
from media_worker_cli.dead_letters import job_id_in
from media_worker_cli.stack import Stack as Deployed
from moto import mock_aws

from tests.functional.conftest import ClipMaker
from tests.functional.stack import Stack, s3_event, sqs_event

type Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """A stack whose queues have dead-letter queues. The command uses it, whatever its name."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    with mock_aws():
        stack = Stack.create(temporary)
        stack.aws.sqs.create_queue(QueueName="segments")
        for name in ("chunking", "segments", "reassembly"):
            url = stack.aws.sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
            policy = {"deadLetterTargetArn": f"arn:aws:sqs:us-east-1:123456789012:{name}-dead", "maxReceiveCount": 6}
            stack.aws.sqs.set_queue_attributes(
                QueueUrl=url.removesuffix("-dead"), Attributes={"RedrivePolicy": json.dumps(policy)}
            )
        environment = {"SEGMENT_QUEUE_URL": queue("segments")}
        found = Deployed("test", stack.aws, environment)
        monkeypatch.setattr(dead_letters, "_WAIT_S", 0)  # moto needs no long polling
        monkeypatch.setattr(dead_letters, "choose_stack", lambda _: found)
        yield stack


@pytest.fixture
def dlq(deployed: Stack, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command. Returns its exit code, stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main.main(["dlq", *words])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def queue(name: str) -> str:
    return f"https://sqs.us-east-1.amazonaws.com/123456789012/{name}"


def add_dead_letter(stack: Stack, name: str, body: object) -> str:
    text = body if isinstance(body, str) else json.dumps(body)
    return stack.aws.sqs.send_message(QueueUrl=queue(f"{name}-dead"), MessageBody=text)["MessageId"]


def waiting(stack: Stack, name: str) -> int:
    attributes = stack.aws.sqs.get_queue_attributes(QueueUrl=queue(name), AttributeNames=["All"])["Attributes"]
    return int(attributes["ApproximateNumberOfMessages"])


def test_an_empty_list(dlq: Command) -> None:
    """The command says that the queues are empty, and succeeds."""
    assert dlq("list") == (0, "", "the dead-letter queues are empty\n")


def test_the_list_shows_the_reason(deployed: Stack, dlq: Command) -> None:
    """It is the job's error, on one line, or a description if there is none. Listing changes nothing."""
    deployed.add_job("job-1", status={"S": "failed"}, error={"S": "failed 5 times: no room\nit exited with 1"})
    add_dead_letter(deployed, "chunking", s3_event("input/job-1/source.mp4"))
    add_dead_letter(deployed, "reassembly", {"job_id": "job-2"})
    add_dead_letter(deployed, "reassembly", "not json")
    for _ in range(2):
        code, printed, _ = dlq("list", "--stack", "test")
        lines = printed.splitlines()
        assert code == 0
        assert [line.split("  ")[1::2] for line in lines] == [
            ["chunking", "job-1"],
            ["reassembly", "job-2"],
            ["reassembly", "-"],
        ]
        assert [line.split("  ")[4] for line in lines] == [
            "failed 5 times: no room; it exited with 1",
            "there is no such job",
            "the message names no job",
        ]
    assert (waiting(deployed, "chunking-dead"), waiting(deployed, "reassembly-dead")) == (1, 2)


def test_show_prints_the_whole_message(deployed: Stack, dlq: Command) -> None:
    """It is found by its message id or its job id."""
    message_id = add_dead_letter(deployed, "reassembly", {"job_id": "job-1"})
    deployed.add_job("job-1")
    for name in (message_id, "job-1"):
        code, printed, _ = dlq("show", name)
        assert code == 0
        assert message_id in printed
        assert "the job is created" in printed
        assert '{"job_id": "job-1"}' in printed


def test_a_redriven_job_completes(deployed: Stack, dlq: Command, clip: ClipMaker, tmp_path: Path) -> None:
    """The source was missing and is there now. The redriven message is a new one, and the failed job runs again."""
    deployed.add_job()
    event = s3_event("input/job-1/source.mp4")
    assert deployed.deliver(deployed.chunking, event) == []
    assert deployed.job().status == "failed"
    add_dead_letter(deployed, "chunking", event)
    add_dead_letter(deployed, "chunking", "rubbish")
    deployed.upload(clip("plain"))

    assert dlq("redrive", "job-1")[:2] == (0, "1 redriven\n")
    assert (waiting(deployed, "chunking"), waiting(deployed, "chunking-dead")) == (1, 1)
    (message,) = deployed.aws.sqs.receive_message(QueueUrl=queue("chunking"))["Messages"]
    assert deployed.chunking(sqs_event(message["Body"]), deployed.context)["batchItemFailures"] == []
    deployed.process_segments()
    assert deployed.reassemble() == []
    assert deployed.job().status == "completed"


@pytest.mark.parametrize("chosen", ["job-1", "--all"])
def test_a_message_that_workers_would_drop_is_not_redriven(deployed: Stack, dlq: Command, chosen: str) -> None:
    """It is about a segment of a failed job. The command says to retry the job first, and the message stays."""
    deployed.add_job("job-1", status={"S": "failed"})
    add_dead_letter(deployed, "segments", s3_event("segments/job-1/00000_00002_sbs.mp4"))
    code, out, err = dlq("redrive", chosen)
    assert (code, out) == (1, "")
    assert "run `media-worker retry job-1` first" in err
    assert (waiting(deployed, "segments"), waiting(deployed, "segments-dead")) == (0, 1)
    deployed.set_job("job-1", status={"S": "chunking_complete"})
    assert dlq("redrive", chosen)[0] == 0
    assert (waiting(deployed, "segments"), waiting(deployed, "segments-dead")) == (1, 0)


def test_redrive_needs_ids_or_all(deployed: Stack, dlq: Command) -> None:
    """No ids, both ids and --all, and unknown ids are usage errors."""
    add_dead_letter(deployed, "segments", {"job_id": "job-1"})
    assert dlq("redrive")[0] == 2
    assert dlq("redrive", "--all", "job-1")[0] == 2
    assert "not in a dead-letter queue: job-9" in dlq("redrive", "job-9")[2]
    assert waiting(deployed, "segments-dead") == 1
    assert dlq("redrive", "--all")[:2] == (0, "1 redriven\n")
    assert (waiting(deployed, "segments"), waiting(deployed, "segments-dead")) == (1, 0)


@pytest.mark.parametrize("name", ["chunking", "chunking-dead"])
def test_a_queue_given_by_its_url(deployed: Stack, dlq: Command, name: str) -> None:
    """The queue's own URL or its dead-letter queue's. Without a stack there is no job row to read the reason from."""
    add_dead_letter(deployed, "chunking", {"job_id": "job-1"})
    add_dead_letter(deployed, "reassembly", {"job_id": "job-2"})
    code, printed, _ = dlq("list", "--queue-url", queue(name))
    assert code == 0
    assert printed.endswith("job-1  unknown without the stack (--stack)\n")
    assert printed.count("\n") == 1


def test_a_queue_without_dead_letters(deployed: Stack, dlq: Command) -> None:
    """It is a usage error."""
    deployed.aws.sqs.create_queue(QueueName="lonely")
    assert dlq("list", "--queue-url", queue("lonely"))[0] == 2


@pytest.mark.parametrize(
    ("body", "job_id"),
    [
        ('{"job_id": "a b"}', "a b"),
        (json.dumps(s3_event("segments/a+b/00000_00002_sbs.mp4")), "a+b"),
        (json.dumps(s3_event("input/ä/source.mp4")), "ä"),
        (json.dumps(s3_event("elsewhere")), None),
        ('{"job_id": "a/b"}', None),
        ("[]", None),
        ("{", None),
    ],
)
def test_the_job_id_in_a_body(body: str, job_id: str | None) -> None:
    """Every kind of message in our queues is understood."""
    assert job_id_in(body) == job_id
