"""What layers and functions weigh: `make sizes`. Over the limit is an error.

Lambda unpacks a function and all of its layers before the first call of each cold start, so weight is time.
"""

# ruff: noqa: T201 - a measurement prints

import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

# Ours; Lambda itself takes 250 MB, unzipped and together.
LIMIT_BYTES = 90_000_000


@dataclass(frozen=True, slots=True)
class Weight:
    """A built layer or function."""

    name: str
    unzipped_bytes: int
    zipped_bytes: int

    @property
    def is_layer(self) -> bool:
        """Whether it is unpacked for both functions."""
        return self.name.endswith("Layer")


def weigh(folder: Path) -> Weight:
    """Weigh a folder that `sam build` has made, zipped as `sam deploy` zips it."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    with tempfile.TemporaryFile() as archive:
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for path in files:
                packed.write(path, path.relative_to(folder))
        return Weight(folder.name, sum(path.stat().st_size for path in files), archive.tell())


def unpacked_together_bytes(weights: list[Weight]) -> int:
    """What Lambda unpacks at a cold start of the heavier function."""
    layers = sum(weight.unzipped_bytes for weight in weights if weight.is_layer)
    return layers + max(weight.unzipped_bytes for weight in weights if not weight.is_layer)


def main(build: Path) -> int:
    """Print a table of a build; 1 when it is too heavy."""
    # A nested stack has a folder too, which holds its template alone.
    folders = [path for path in sorted(build.iterdir()) if path.is_dir() and not (path / "template.yaml").exists()]
    weights = [weigh(folder) for folder in folders]
    for weight in weights:
        print(f"{weight.name:20} {_mb(weight.unzipped_bytes)} unzipped {_mb(weight.zipped_bytes)} zipped")
    total = unpacked_together_bytes(weights)
    verdict = "within" if total <= LIMIT_BYTES else "OVER"
    print(f"{'layers + function':20} {_mb(total)} unzipped, {verdict} the limit of{_mb(LIMIT_BYTES)}")
    return 0 if total <= LIMIT_BYTES else 1


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:8.2f} MB"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
