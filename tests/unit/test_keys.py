"""S3 keys: the parsers accept exactly what the builders build."""

from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from media_worker.keys import (
    MAX_SEGMENTS,
    OutputSegmentKey,
    SegmentKey,
    build_final_key,
    build_output_segment_key,
    build_segment_key,
    build_source_key,
    is_job_id,
    parse_input_key,
    parse_output_segment_key,
    parse_segment_key,
)

characters = st.characters(exclude_categories=("Cc", "Cs"), exclude_characters="/")
job_ids = st.text(characters, min_size=1).filter(is_job_id)
plans = st.integers(1, MAX_SEGMENTS).flatmap(lambda total: st.tuples(st.integers(0, total - 1), st.just(total)))

NOT_JOB_IDS = ["", ".", "..", "a/b", "/", "a\n", "\x00", "\x7f", "\x85", "a\ud800"]


@given(job_ids)
@example("with space + plus % percent")
@example("ünïcødé-映画")
@example("source.mp4")
def test_a_source_key_is_parsed_to_its_job(job_id: str) -> None:
    """parse(build(job)) == job, for every job id."""
    assert parse_input_key(build_source_key(job_id)) == job_id


@given(job_ids, plans, st.from_regex(r"[a-z0-9-]{1,32}", fullmatch=True))
def test_a_segment_key_is_parsed_to_its_parts(job_id: str, plan: tuple[int, int], mode: Any) -> None:
    """parse(build(x)) == x, for every segment."""
    key = build_segment_key(job_id, *plan, mode)
    assert parse_segment_key("bucket", key) == SegmentKey("bucket", job_id, *plan, mode)


@given(job_ids, st.integers(0, MAX_SEGMENTS - 1))
def test_a_processed_segments_key_is_parsed_to_its_parts(job_id: str, index: int) -> None:
    """parse(build(x)) == x, for every processed segment."""
    key = build_output_segment_key(job_id, index)
    assert parse_output_segment_key("bucket", key) == OutputSegmentKey("bucket", job_id, index)


@given(st.text())
def test_a_parsed_key_is_the_built_key(key: str) -> None:
    """No two keys mean the same source, and no text breaks the parsers."""
    if job_id := parse_input_key(key):
        assert build_source_key(job_id) == key
    assert parse_segment_key("bucket", key) is None
    assert parse_output_segment_key("bucket", key) is None


def test_keys_follow_the_contract() -> None:
    """Other software builds the same keys, so they never change."""
    assert build_source_key("j") == "input/j/source.mp4"
    assert build_segment_key("j", 7, 120, "sbs") == "segments/j/00007_00120_sbs.mp4"
    assert build_segment_key("j", 0, 1, "anaglyph") == "segments/j/00000_00001_anaglyph.mp4"
    assert build_output_segment_key("j", 7) == "jobs/j/segments/7.mp4"
    assert build_final_key("j") == "jobs/j/final.mp4"


@pytest.mark.parametrize(
    "key",
    [
        "input/job/source.mov",
        "input/job/source.mp4/",
        "input/job/other.mp4",
        "input/a/b/source.mp4",
        "input//source.mp4",
        "input/../source.mp4",
        "input/./source.mp4",
        "Input/job/source.mp4",
        "/input/job/source.mp4",
        "input/job/source.mp4\n",
        "input/jo\x00b/source.mp4",
        "segments/job/00000_00001_sbs.mp4",
    ],
)
def test_another_key_is_not_a_source(key: str) -> None:
    """Only input/{job_id}/source.mp4 has a job."""
    assert parse_input_key(key) is None


@pytest.mark.parametrize(
    "key",
    [
        "segments/job/0_1_sbs.mp4",
        "segments/job/00001_00001_sbs.mp4",
        "segments/job/00000_00000_sbs.mp4",
        "segments/job/00000_00001_VR.mp4",
        "segments/job/000000_00001_sbs.mp4",
        "segments/job/\u0660\u0660\u0660\u0660\u0660_00001_sbs.mp4",
        "segments/../00000_00001_sbs.mp4",
        "segments/a/b/00000_00001_sbs.mp4",
    ],
)
def test_another_key_is_not_a_segment(key: str) -> None:
    """Wrong digits, an index that is not below the total, a mode that is no label."""
    assert parse_segment_key("bucket", key) is None


@pytest.mark.parametrize(
    "key",
    [
        "jobs/job/segments/00.mp4",
        "jobs/job/segments/01.mp4",
        "jobs/job/segments/-1.mp4",
        "jobs/job/segments/99999.mp4",
        "jobs/job/segments/100000.mp4",
        "jobs/job/segments/.mp4",
        "jobs/job/final.mp4",
        "jobs/../segments/0.mp4",
    ],
)
def test_another_key_is_not_a_processed_segment(key: str) -> None:
    """An index has one spelling and is below the maximum number of segments."""
    assert parse_output_segment_key("bucket", key) is None


@pytest.mark.parametrize("job_id", NOT_JOB_IDS)
@pytest.mark.parametrize(
    "build",
    [
        build_source_key,
        build_final_key,
        lambda job_id: build_segment_key(job_id, 0, 1, "sbs"),
        lambda job_id: build_output_segment_key(job_id, 0),
    ],
)
def test_a_job_id_is_one_path_component(build: Callable[[str], str], job_id: str) -> None:
    """No builder builds a key outside its prefix."""
    with pytest.raises(ValueError, match="not one non-empty path component"):
        build(job_id)


@pytest.mark.parametrize(("index", "total"), [(-1, 1), (1, 1), (0, 0), (0, MAX_SEGMENTS + 1)])
def test_a_segments_index_is_below_the_total(index: int, total: int) -> None:
    """Keys have five digits, and no index outside the plan."""
    with pytest.raises(ValueError, match="expected 0 <= index < total"):
        build_segment_key("j", index, total, "sbs")


@pytest.mark.parametrize("index", [-1, MAX_SEGMENTS])
def test_a_processed_segments_index_is_in_range(index: int) -> None:
    """No key has an index outside the maximum number of segments."""
    with pytest.raises(ValueError, match="not in 0"):
        build_output_segment_key("j", index)


@pytest.mark.parametrize("mode", ["", "VR", "a_b", "a/b", "a\n", "m" * 33, "é", None, 1])
def test_a_mode_is_a_label(mode: Any) -> None:
    """Any other value is refused: it would make a key that is no segment's."""
    with pytest.raises(ValueError, match="is not 1 to 32 characters of a-z, 0-9 and -"):
        build_segment_key("j", 0, 1, mode)


def test_a_str_enum_gives_its_value() -> None:
    """The key has the value, not the name of the member."""

    class Kind(str, Enum):  # noqa: UP042 - as other people's code has it
        UPSCALE = "upscale-4x"

    assert build_segment_key("j", 0, 1, Kind.UPSCALE) == "segments/j/00000_00001_upscale-4x.mp4"
