"""Settings that must fit each other, each with its reason. Those of one queue or bucket are in files of their own."""

from typing import Any

import pytest

type Json = dict[str, Any]

DAY_S = 86_400
# README, "Limits": peak of a handler, whatever the source.
HANDLER_PEAK_MB = 250
# Lambda gives processor by memory; this much is a whole core.
LAMBDA_CORE_MB = 1769
NEW_ACCOUNT_CONCURRENCY = 10


def seconds_until_given_up(resources: Json, defaults: Json, queue: str) -> int:
    """The longest that a message can take to its last receive when every invocation dies without a word."""
    visibility: int = resources[queue]["Properties"]["VisibilityTimeout"]
    receives: int = defaults["MaxReceiveCount"]
    return visibility * receives


@pytest.mark.parametrize("name", ["ChunkingQueue", "ReassemblyQueue"])
def test_a_message_is_given_up_before_it_is_forgotten(resources: Json, defaults: Json, name: str) -> None:
    """All receives fit into the queue's retention many times over: a message that ends at its age is lost without a
    dead letter, and nobody hears of it.
    """
    retention_s = resources[name]["Properties"]["MessageRetentionPeriod"]
    assert seconds_until_given_up(resources, defaults, name) * 10 < retention_s


def test_a_segment_is_given_up_before_it_is_forgotten(resources: Json, defaults: Json, template: Json) -> None:
    """With the defaults a segment's receives fit into its queue's retention, as above; with the longest visibility that
    can be set, at least eight of them do.
    """
    retention_s = resources["SegmentQueue"]["Properties"]["MessageRetentionPeriod"]
    assert seconds_until_given_up(resources, defaults, "SegmentQueue") * 10 < retention_s
    longest_s = template["Parameters"]["SegmentVisibilityTimeoutSeconds"]["MaxValue"]
    assert longest_s * 8 <= retention_s


def test_segments_outlast_everything_that_names_them(template: Json, resources: Json) -> None:
    """Even at its least, the lifecycle keeps a segment for longer than 4 days in a queue and 14 as a dead letter can
    name it: SQS counts a dead letter's age from when the message was first sent.
    """
    least_days = template["Parameters"]["SegmentExpirationDays"]["MinValue"]
    for name in ("Chunking", "Segment", "Reassembly"):
        dead_letters_s = resources[f"{name}DeadLetterQueue"]["Properties"]["MessageRetentionPeriod"]
        assert dead_letters_s == 14 * DAY_S
        assert least_days * DAY_S > dead_letters_s


def test_unfinished_uploads_outlast_the_invocation(resources: Json, defaults: Json) -> None:
    """No lifecycle rule takes an upload from under a running invocation, nor from a retry on the same day."""
    for bucket in ("InputBucket", "OutputBucket"):
        (rule,) = (
            rule
            for rule in resources[bucket]["Properties"]["LifecycleConfiguration"]["Rules"]
            if "AbortIncompleteMultipartUpload" in rule
        )
        days = rule["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"]
        assert days * DAY_S > seconds_until_given_up(resources, defaults, "ChunkingQueue")


def test_concurrency_is_one_that_lambda_takes(defaults: Json, event_source: Json) -> None:
    """The default is a MaximumConcurrency that Lambda accepts.

    2 to 1,000: https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html
    """
    assert 2 <= event_source["ScalingConfig"]["MaximumConcurrency"] <= 1000
    assert defaults["MaximumConcurrency"] == event_source["ScalingConfig"]["MaximumConcurrency"]


def test_concurrency_fits_a_new_account(defaults: Json) -> None:
    """Both functions at their limit fit into the 10 concurrent executions of a new account, with two to spare.

    https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
    """
    assert 2 * defaults["MaximumConcurrency"] + 2 <= NEW_ACCOUNT_CONCURRENCY


def test_memory_does_not_pay_for_tmp(template: Json, function: Json, defaults: Json) -> None:
    """/tmp is its own 10,240 MB and not taken from the memory, so the memory is for the handler and ffmpeg alone: the
    least that can be set is twice the handler's peak, and the default is a whole core or more, which copying needs.
    """
    assert template["Parameters"]["MemorySize"]["MinValue"] >= 2 * HANDLER_PEAK_MB
    assert function["MemorySize"] == defaults["MemorySize"] >= LAMBDA_CORE_MB
    assert function["EphemeralStorage"]["Size"] == 10_240


def test_a_batch_has_one_tmp_and_one_timeout(defaults: Json, template: Json) -> None:
    """Messages of a batch share /tmp and the 900 s, so there is one; ten, the most that can be set, need no batching
    range, which SQS would ask for above that.
    """
    assert defaults["BatchSize"] == 1
    assert template["Parameters"]["BatchSize"]["MaxValue"] == 10


def test_logs_outlast_dead_letters(resources: Json, defaults: Json) -> None:
    """The line that says why a message became a dead letter is there as long as the dead letter, with the defaults."""
    for name in ("Chunking", "Reassembly"):
        dead_letters_s = resources[f"{name}DeadLetterQueue"]["Properties"]["MessageRetentionPeriod"]
        assert resources[f"{name}LogGroup"]["Properties"]["RetentionInDays"] * DAY_S > dead_letters_s
    assert defaults["LogRetentionDays"] == 30
