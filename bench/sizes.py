"""The sizes of layers and functions: `make sizes`. More than the limit is an error.

Lambda unpacks a function and all of its layers before the first call of each cold start, so size is time.
"""

# ruff: noqa: T201 - a benchmark prints

import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

# Our own limit. Lambda allows 250 MB, unzipped and together.
LIMIT_BYTES = 90_000_000


@dataclass(frozen=True, slots=True)
class Size:
    """The size of a built layer or function."""

    name: str
    unzipped_bytes: int
    zipped_bytes: int

    @property
    def is_layer(self) -> bool:
        """Whether it is a layer, which both functions unpack."""
        return self.name.endswith("Layer")


def measure(folder: Path) -> Size:
    """Measure a folder that `sam build` has made, unzipped, and zipped as `sam deploy` zips it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    with tempfile.TemporaryFile() as archive:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in files:
                packed.write(path, path.relative_to(folder))
        return Size(folder.name, sum(path.stat().st_size for path in files), archive.tell())


def unpacked_together_bytes(measured: list[Size]) -> int:
    """What Lambda unpacks at a cold start of the larger function."""
    layers = sum(size.unzipped_bytes for size in measured if size.is_layer)
    return layers + max(size.unzipped_bytes for size in measured if not size.is_layer)


def main(build: Path) -> int:
    """Print the table of a build; 1 if it is too large."""
    # The folder of a nested stack has only its template.
    folders = [path for path in sorted(build.iterdir()) if path.is_dir() and not (path / "template.yaml").exists()]
    measured = [measure(folder) for folder in folders]
    for size in measured:
        print(f"{size.name:20} {_mb(size.unzipped_bytes)} unzipped {_mb(size.zipped_bytes)} zipped")
    total = unpacked_together_bytes(measured)
    verdict = "within" if total <= LIMIT_BYTES else "OVER"
    print(f"{'layers + function':20} {_mb(total)} unzipped, {verdict} the limit of{_mb(LIMIT_BYTES)}")
    return 0 if total <= LIMIT_BYTES else 1


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:8.2f} MB"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
