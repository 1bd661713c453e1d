"""The row of a new job."""

import re
from decimal import Decimal
from pathlib import Path

from local.submission import Submission, build_row, invent_job_id


def test_a_row_holds_what_the_contract_names() -> None:
    """What the user left open is not in it: the stack decides."""
    row = build_row(Submission("film-1", Path("/home/me/Film.mp4")), 1_700_000_000, 42)
    assert row == {
        "job_id": "film-1",
        "mode": "sbs",
        "status": "created",
        "created_at": 1_700_000_000,
        "uploaded_at": 1_700_000_000,
        "title": "Film.mp4",
        "source_file_size_bytes": 42,
    }


def test_a_row_holds_what_one_job_wants_different() -> None:
    """Segment length exactly as typed, and the engine."""
    wanted = Submission("film-1", Path("f.mp4"), "anaglyph", "ffmpeg", Decimal("2.5"))
    row = build_row(wanted, 0, 0)
    assert (row["mode"], row["engine"], row["segment_duration_sec"]) == ("anaglyph", "ffmpeg", Decimal("2.5"))


def test_job_ids_differ_and_tell_of_the_source() -> None:
    """A name that has nothing to tell in ASCII becomes `video`."""
    first, second = (invent_job_id(Path("/x/My Häuser & Co.final.mp4")) for _ in range(2))
    assert first != second
    assert re.fullmatch(r"my-h-user-co-final-[0-9a-f]{8}", first)
    assert re.fullmatch(r"video-[0-9a-f]{8}", invent_job_id(Path("/x/動画.mp4")))
    assert len(invent_job_id(Path("x" * 200))) == 49
