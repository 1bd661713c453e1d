"""Settings: the environment is read once, and everything that is wrong with it is reported at once."""

from dataclasses import FrozenInstanceError
from fractions import Fraction

import pytest
from media_worker.errors import SettingsError
from media_worker.settings import Settings

REQUIRED = {
    "INPUT_BUCKET_NAME": "in",
    "OUTPUT_BUCKET_NAME": "out",
    "JOBS_TABLE_NAME": "jobs",
    "SEGMENT_COMPLETIONS_TABLE_NAME": "completions",
    "REASSEMBLY_TRIGGERED_TABLE_NAME": "triggered",
    "CHUNKING_QUEUE_URL": "https://chunking",
    "REASSEMBLY_QUEUE_URL": "https://reassembly",
}


def test_the_required_variables_are_enough() -> None:
    """All other settings have the default of the contract."""
    settings = Settings.from_environment(REQUIRED | {"SOMETHING_ELSE": "x"})
    assert settings == Settings(
        input_bucket_name="in",
        output_bucket_name="out",
        jobs_table_name="jobs",
        segment_completions_table_name="completions",
        reassembly_triggered_table_name="triggered",
        chunking_queue_url="https://chunking",
        reassembly_queue_url="https://reassembly",
        aws_region=None,
        aws_endpoint_url=None,
        aws_endpoint_url_s3=None,
        chunk_segment_duration_sec=Fraction(300),
        engine="auto",
        tracks="auto",
        ffmpeg_path="/opt/bin/ffmpeg",
        max_receive_count=6,
        expiry_tag=("kind", "processed-segment"),
    )


def test_every_setting_can_be_set() -> None:
    """Each optional variable is read, and numbers are exact."""
    settings = Settings.from_environment(
        REQUIRED
        | {
            "AWS_REGION": "eu-central-1",
            "AWS_ENDPOINT_URL": "http://localhost:4566",
            "AWS_ENDPOINT_URL_S3": "http://localhost:8333",
            "CHUNK_SEGMENT_DURATION_SEC": "0.1",
            "ENGINE": "ffmpeg",
            "FFMPEG_PATH": "/usr/bin/ffmpeg",
            "MAX_RECEIVE_COUNT": "3",
            "EXPIRY_TAG": "remove=yes=soon",
        }
    )
    assert settings.aws_region == "eu-central-1"
    assert settings.aws_endpoint_url == "http://localhost:4566"
    assert settings.aws_endpoint_url_s3 == "http://localhost:8333"
    assert settings.chunk_segment_duration_sec == Fraction(1, 10)
    assert settings.engine == "ffmpeg"
    assert settings.ffmpeg_path == "/usr/bin/ffmpeg"
    assert settings.max_receive_count == 3
    assert settings.expiry_tag == ("remove", "yes=soon")


@pytest.mark.parametrize("name", REQUIRED)
@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_variable_is_named(name: str, value: str | None) -> None:
    """An empty variable is a missing one."""
    environ = {key: text for key, text in (REQUIRED | {name: value}).items() if text is not None}
    with pytest.raises(SettingsError, match=f"^the environment does not describe a stack: {name} is not set$"):
        Settings.from_environment(environ)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHUNK_SEGMENT_DURATION_SEC", "0"),
        ("CHUNK_SEGMENT_DURATION_SEC", "-3"),
        ("CHUNK_SEGMENT_DURATION_SEC", "five minutes"),
        ("CHUNK_SEGMENT_DURATION_SEC", "1/0"),
        ("CHUNK_SEGMENT_DURATION_SEC", "inf"),
        ("ENGINE", "gstreamer"),
        ("TRACKS", "both"),
        ("MAX_RECEIVE_COUNT", "0"),
        ("MAX_RECEIVE_COUNT", "2.5"),
    ],
)
def test_a_bad_variable_is_named_with_its_value(name: str, value: str) -> None:
    """A bad value stops the program at start."""
    with pytest.raises(SettingsError, match=f"{name}='{value}' is not usable"):
        Settings.from_environment(REQUIRED | {name: value})


def test_all_problems_are_reported_at_once() -> None:
    """One error names every variable."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_environment({"ENGINE": "x", "MAX_RECEIVE_COUNT": "x"})
    for name in (*REQUIRED, "ENGINE", "MAX_RECEIVE_COUNT"):
        assert name in str(caught.value)


def test_settings_are_frozen() -> None:
    """They cannot be changed after they were read."""
    settings = Settings.from_environment(REQUIRED)
    with pytest.raises(FrozenInstanceError):
        settings.aws_region = "elsewhere"  # type: ignore[misc]
