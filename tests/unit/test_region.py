"""The region: AWS_REGION, else what boto3 resolves, else us-east-1."""

from pathlib import Path

import pytest
from media_worker.aws import Aws
from media_worker.settings import Settings
from media_worker_cli import stack
from media_worker_cli.stack import find_stack

from tests.unit.cli.test_stack import OUTPUTS
from tests.unit.test_settings import REQUIRED

PROFILE = "[default]\nregion = eu-west-1\n[profile north]\nregion = eu-north-1\n"


@pytest.mark.parametrize(
    ("environ", "region"),
    [
        ({}, "eu-west-1"),
        ({"AWS_PROFILE": "north"}, "eu-north-1"),
        ({"AWS_DEFAULT_REGION": "ap-southeast-2"}, "ap-southeast-2"),
        ({"AWS_DEFAULT_REGION": "ap-southeast-2", "AWS_REGION": "sa-east-1"}, "sa-east-1"),
        ({"AWS_CONFIG_FILE": "/dev/null"}, "us-east-1"),
    ],
)
def test_where_the_region_comes_from(
    environ: dict[str, str], region: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Functions, `serve`, workers and the command line agree, and the settings name the region that the clients use."""
    config = tmp_path / "config"
    config.write_text(PROFILE)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ({"AWS_CONFIG_FILE": str(config)} | environ).items():
        monkeypatch.setenv(name, value)
    aws = Aws.connect(Settings.from_environment(REQUIRED | environ))
    assert {client.meta.region_name for client in (aws.s3, aws.sqs, aws.dynamodb)} == {region}
    assert aws.settings.aws_region == region
    outputs = [{"OutputKey": name, "OutputValue": value} for name, value in OUTPUTS.items()]
    monkeypatch.setattr(stack, "_describe", lambda *_: {"Outputs": outputs})
    found = find_stack("mine", environ)
    assert (found.aws.s3.meta.region_name, found.environment["AWS_REGION"]) == (region, region)
