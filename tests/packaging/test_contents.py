"""What the wheel and the source distribution hold."""

import email
import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

from tests.packaging.build import ROOT, build

LAYOUT = {"shared/media_worker/": "media_worker/", "cli/media_worker_cli/": "media_worker_cli/"}
CHECKOUT = "media_worker_cli/local/checkout/"
DEPLOYED = ("functions", "layers", "shared", "template.yaml", "events.yaml", "watching.yaml")
BESIDE = ("CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml", "samconfig.toml")


def tracked(*paths: str) -> set[str]:
    """The files of the checkout that git knows."""
    listed = subprocess.run(["git", "ls-files", "-z", *paths], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()}


def members(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def test_the_wheel_has_the_packages_and_what_the_local_cloud_deploys(wheel: Path) -> None:
    """Every tracked file of both packages, and nothing else."""
    packages = {new + name.removeprefix(old) for old, new in LAYOUT.items() for name in tracked(old)}
    assert members(wheel) == packages | {CHECKOUT + name for name in tracked(*DEPLOYED)}
    assert {"media_worker/py.typed", "media_worker_cli/py.typed"} <= members(wheel)


def test_the_source_distribution_can_build_the_wheel(distributions: Path, wheel: Path, tmp_path: Path) -> None:
    """It holds the sources without tests and documentation, and the same wheel is built from it."""
    (archive,) = distributions.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {member.name.partition("/")[2] for member in opened if member.isfile()}
        opened.extractall(tmp_path, filter="data")
    assert names - {"PKG-INFO", ".gitignore"} == tracked("cli", *DEPLOYED, *BESIDE)
    (source,) = tmp_path.iterdir()
    (again,) = build(source, tmp_path / "again", "--wheel").glob("*.whl")
    assert again.read_bytes() == wheel.read_bytes()


def test_builds_are_reproducible(distributions: Path, tmp_path: Path) -> None:
    """Another folder, other file times and another umask give the same bytes."""
    for name in (*tracked("cli", *DEPLOYED, *BESIDE), ".gitignore"):
        copy = tmp_path / "copy" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy)
        os.utime(copy, (1, 1_000_000_000))
    before = os.umask(0o077)
    try:
        build(tmp_path / "copy", tmp_path / "again")
    finally:
        os.umask(before)
    built = {path.name: path.read_bytes() for path in distributions.iterdir() if path.suffix in {".whl", ".gz"}}
    assert len(built) == 2
    assert built == {name: (tmp_path / "again" / name).read_bytes() for name in built}


def test_the_metadata_name_python_and_boto3(wheel: Path) -> None:
    """Python 3.10 or newer; boto3 is the only dependency without an extra."""
    opened = zipfile.ZipFile(wheel)
    (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(opened.read(name))
    assert metadata["Requires-Python"] == ">=3.10"
    assert {"local", "rich", "serve", "ui"} == set(metadata.get_all("Provides-Extra", []))
    required = [each for each in metadata.get_all("Requires-Dist", []) if "extra ==" not in each]
    assert [each.partition(">")[0] for each in required] == ["boto3"]
