"""The state machine over attempts finds nothing in the code as it is, and finds the bugs that are put in.

`make attempts` runs many more examples than `make test`, and puts in all bugs.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.errors import Flaky
from hypothesis.stateful import run_state_machine_as_test
from media_worker import chunking, completions, lease, reassembly
from media_worker.aws import Aws
from media_worker.completions import Completion
from media_worker.engines.copy import Media
from media_worker.lease import LeaseStore
from media_worker.mp4 import SplitPlan, plan_split
from media_worker.plan import Plan
from media_worker.s3 import StoredObject, describe

from tests.crash import server
from tests.crash.attempts import AttemptsMachine, Disturbance
from tests.crash.studio import Studio
from tests.crash.world import Cloud

# The sample of `make test`; `make attempts` sets another number.
EXAMPLES = int(os.environ.get("ATTEMPTS_EXAMPLES", "0"))

AttemptsMachine.TestCase.settings = settings(
    max_examples=EXAMPLES or 5,
    phases=(Phase.generate,),  # an example takes seconds: shrinking one takes many minutes
    stateful_step_count=12,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
TestAttempts = AttemptsMachine.TestCase


@pytest.fixture(scope="module", autouse=True)
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with server.running() as endpoint:
        AttemptsMachine.cloud = Cloud.at(endpoint)
        AttemptsMachine.studio = Studio.open(tmp_path_factory.mktemp("attempts"))
        yield


# Bugs that are put in. Deliveries are forked, so they have them too.


def nothing(*_: Any) -> None:
    """In place of a check."""


def cut_again(plan: Plan, media: Media) -> tuple[Plan, SplitPlan]:
    return plan, plan_split(media.movie, Fraction(2), media.read, media.read_many)


def put(aws: Aws, item: dict[str, Any]) -> None:
    aws.dynamodb.put_item(TableName=aws.settings.segment_completions_table_name, Item=item)


def describe_without_plan(aws: Aws, bucket: str, key: str) -> StoredObject | None:
    found = describe(aws, bucket, key)
    return replace(found, metadata={}) if found and "/segments/" in key else found


ANY_COMPLETION = (Completion, "counts_for", lambda *_: True)
ANY_RECORD = ((completions, "require_current_plan", nothing), (completions, "_put_if_current", put))
ANY_PROCESSED = (reassembly, "describe", describe_without_plan)
NO_FRAME_CHECK = (reassembly, "check_segments", lambda *_: 1)
NO_FINAL_CHECK = (reassembly, "check_final", nothing)
ENDLESS_LEASE = (lease, "LEASE_S", 10**8)

# For each bug, what shows it: with that in every example, fewer examples are needed.
BUGS: Mapping[str, tuple[Disturbance | None, Sequence[tuple[Any, str, Any]]]] = {
    "a retry plans again": (None, [(chunking, "find_plan", nothing)]),
    "a retry cuts elsewhere than the plan": (None, [(chunking, "_carry_out", cut_again)]),
    "digests are ignored": ("stale segments", [ANY_COMPLETION, *ANY_RECORD, ANY_PROCESSED]),
    "frames are not checked before the join": ("a short segment", [NO_FRAME_CHECK]),
    "frames are not checked at all": ("a short segment", [NO_FRAME_CHECK, NO_FINAL_CHECK]),
    "the final is not checked": ("a short join", [NO_FINAL_CHECK]),
    "a lease is never released": (None, [(LeaseStore, "_release", nothing), ENDLESS_LEASE]),
}
QUICKLY_FOUND = ("frames are not checked at all",)


@pytest.mark.parametrize("bug", BUGS if EXAMPLES else QUICKLY_FOUND)
def test_a_bug_is_found(bug: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In fewer than a hundred examples, which are the same on every run."""
    focus, patches = BUGS[bug]
    for patch in patches:
        monkeypatch.setattr(*patch)
    monkeypatch.setattr(AttemptsMachine, "focus", focus)
    monkeypatch.setattr(AttemptsMachine, "number", 0)
    began_at = time.monotonic()
    same = settings(AttemptsMachine.TestCase.settings, max_examples=100, derandomize=True, report_multiple_bugs=False)
    with pytest.raises((AssertionError, Flaky)):  # flaky: threads may order their calls differently when it is repeated
        run_state_machine_as_test(AttemptsMachine, settings=same)
    if EXAMPLES:
        with capsys.disabled():  # Hypothesis has repeated the last example
            print(f"\n{bug}: {AttemptsMachine.number - 1} examples, {time.monotonic() - began_at:.0f} s")  # noqa: T201
