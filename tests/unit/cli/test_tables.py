"""Tables, times and the texts that options take."""

import pytest
from media_worker_cli.errors import UsageError
from media_worker_cli.tables import (
    as_table,
    describe_age,
    describe_clock,
    describe_size,
    in_short,
    parse_duration,
    parse_ranges,
)


def test_columns_are_aligned() -> None:
    """The last one is not padded, so that no line ends in spaces."""
    assert as_table(("A", "LONG", "C"), [("one", "2", "three"), ("1", "two", "")]) == [
        "A    LONG  C",
        "one  2     three",
        "1    two",
    ]


def test_times_and_sizes_for_a_person() -> None:
    """In whole units."""
    assert [describe_age(seconds) for seconds in (59, 60, 3_599, 7_200, 200_000)] == [
        "59 s",
        "1 min",
        "59 min",
        "2 h",
        "2 d",
    ]
    assert (describe_clock(3_723.4), describe_size(14_534_691)) == ("1:02:03", "14.5 MB")
    assert in_short("two\n\nlines ") == "two; lines"
    assert in_short("x" * 61) == "x" * 59 + "…"


def test_segments_are_given_as_ranges() -> None:
    """A range has both ends."""
    assert parse_ranges("3,7-9") == {3, 7, 8, 9}
    for text in ("", "a", "3,", "9-7", "-1", "1-2-3", "123456"):
        with pytest.raises(UsageError, match="is not a list of segments"):
            parse_ranges(text)


def test_a_time_has_a_unit() -> None:
    """In minutes, hours, days or weeks."""
    assert [parse_duration(text) for text in ("90s", "30min", "30m", "12h", "2d", "1w")] == [
        90,
        1_800,
        1_800,
        43_200,
        172_800,
        604_800,
    ]
    for text in ("2", "d", "2 years", "-1d"):
        with pytest.raises(UsageError, match="is not a duration"):
            parse_duration(text)
