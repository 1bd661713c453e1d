"""Which changes need a new deployment, and the environment that reaches only the local cloud."""

from pathlib import Path

import pytest
from media_worker_cli.local.cloud import state_directory
from media_worker_cli.local.deployment import ROOT, fingerprint, isolated


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "app.py").write_text("one")
    (tmp_path / "template.yaml").write_text("Resources: {}")
    return tmp_path


def test_the_same_checkout_has_the_same_fingerprint(root: Path) -> None:
    """File times, compiled Python files and documents do not count."""
    before = fingerprint(root, ("A=1",))
    (root / "functions" / "app.py").touch()
    (root / "functions" / "__pycache__").mkdir()
    (root / "functions" / "__pycache__" / "app.pyc").write_text("compiled")
    (root / "README.md").write_text("read me")
    assert fingerprint(root, ("A=1",)) == before


def test_a_deployed_change_changes_the_fingerprint(root: Path) -> None:
    """Content, file names, execute bits and parameters count."""
    seen = [fingerprint(root, ("A=1",)), fingerprint(root, ("A=2",))]
    app = root / "functions" / "app.py"
    for change in (lambda: app.write_text("two"), lambda: app.chmod(0o755), lambda: app.rename(app.with_name("b.py"))):
        change()
        seen.append(fingerprint(root, ("A=1",)))
    assert len(set(seen)) == len(seen)


def test_the_state_directory_is_in_the_checkout_by_default(tmp_path: Path) -> None:
    """MEDIA_WORKER_STATE_DIR names another one, for a second cloud."""
    assert state_directory({}) == ROOT / ".local"
    assert state_directory({"MEDIA_WORKER_STATE_DIR": str(tmp_path)}) == tmp_path


def test_the_users_aws_settings_do_not_reach_the_local_cloud() -> None:
    """Credentials, profiles and endpoints of single services are removed. Other variables are kept."""
    mine = {"AWS_PROFILE": "work", "AWS_ENDPOINT_URL_S3": "https://elsewhere", "AWS_SESSION_TOKEN": "x", "HOME": "/me"}
    environment = isolated(mine, "http://127.0.0.1:4566")
    assert environment["AWS_ENDPOINT_URL"] == "http://127.0.0.1:4566"
    assert environment["HOME"] == "/me"
    assert not {"AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"} & set(environment)
