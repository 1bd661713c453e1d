"""What counts as a change that has to be deployed."""

from pathlib import Path

import pytest

from local.checkout import ROOT, fingerprint, state_directory


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "functions").mkdir()
    (tmp_path / "functions" / "app.py").write_text("one")
    (tmp_path / "template.yaml").write_text("Resources: {}")
    return tmp_path


def test_the_same_checkout_has_the_same_fingerprint(root: Path) -> None:
    """Times do not count, nor does what Python leaves beside the code, nor a document."""
    before = fingerprint(root, ("A=1",))
    (root / "functions" / "app.py").touch()
    (root / "functions" / "__pycache__").mkdir()
    (root / "functions" / "__pycache__" / "app.pyc").write_text("compiled")
    (root / "README.md").write_text("read me")
    assert fingerprint(root, ("A=1",)) == before


def test_what_is_deployed_changes_the_fingerprint(root: Path) -> None:
    """Content, names, run bits and parameters count."""
    seen = [fingerprint(root, ("A=1",)), fingerprint(root, ("A=2",))]
    app = root / "functions" / "app.py"
    for change in (lambda: app.write_text("two"), lambda: app.chmod(0o755), lambda: app.rename(app.with_name("b.py"))):
        change()
        seen.append(fingerprint(root, ("A=1",)))
    assert len(set(seen)) == len(seen)


def test_the_state_lies_in_the_checkout_unless_told_otherwise(tmp_path: Path) -> None:
    """A second cloud has a directory of its own."""
    assert state_directory({}) == ROOT / ".local"
    assert state_directory({"MEDIA_WORKER_STATE_DIR": str(tmp_path)}) == tmp_path
