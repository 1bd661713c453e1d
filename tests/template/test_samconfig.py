"""samconfig.toml: the build and the deployment get the same parameters."""

import shutil
from pathlib import Path

import pytest
from samcli.lib.config.samconfig import SamConfig  # type: ignore[import-untyped]

COMMANDS = ("build", "deploy")


@pytest.fixture
def config(root: Path, tmp_path: Path) -> Path:
    """A copy with the line that docs/deploy.md tells the user to add."""
    path = tmp_path / "samconfig.toml"
    shutil.copy(root / "samconfig.toml", path)
    section = "[default.global.parameters]\n"
    text = path.read_text()
    assert section in text
    path.write_text(text.replace(section, section + 'parameter_overrides = "Architecture=arm64"\n'))
    return path


def overrides(config: Path, command: str) -> object:
    return SamConfig(config.parent, config.name).get_all([command], "parameters").get("parameter_overrides")


def test_the_architecture_reaches_the_build_and_the_deployment(config: Path) -> None:
    """Both read the section of all commands."""
    assert {str(overrides(config, command)) for command in COMMANDS} == {"Architecture=arm64"}


def test_what_guided_saves_reaches_the_deployment_only(config: Path) -> None:
    """The documentation therefore says not to use `sam deploy --guided`."""
    section = "[default.deploy.parameters]\n"
    guided = section + 'parameter_overrides = "Architecture=\\"x86_64\\""\n'
    config.write_text(config.read_text().replace(section, guided))
    build, deploy = (str(overrides(config, command)) for command in COMMANDS)
    assert "arm64" in build
    assert "x86_64" in deploy


def test_no_page_tells_the_user_to_deploy_with_guided(root: Path) -> None:
    """The one in deploy.md says not to."""
    told = [path.name for path in (root / "README.md", *(root / "docs").glob("*.md")) if "--guided" in path.read_text()]
    assert told == ["deploy.md"]
