"""The setting for the end of job rows."""

from dataclasses import MISSING, fields

import pytest
from media_worker.errors import SettingsError
from media_worker.settings import Settings

REQUIRED = {field.name.upper(): "x" for field in fields(Settings) if field.default is MISSING}


@pytest.mark.parametrize(("text", "days"), [("", None), ("0", None), ("90", 90)])
def test_job_rows_expire_after_days(text: str, days: int | None) -> None:
    """0 and nothing mean never."""
    assert Settings.from_environment(REQUIRED | {"JOB_EXPIRATION_DAYS": text}).job_expiration_days == days


def test_days_cannot_be_negative() -> None:
    """The error names the variable."""
    with pytest.raises(SettingsError, match="JOB_EXPIRATION_DAYS='-1' is not usable: must not be negative"):
        Settings.from_environment(REQUIRED | {"JOB_EXPIRATION_DAYS": "-1"})
