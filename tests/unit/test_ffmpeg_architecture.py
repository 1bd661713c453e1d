"""FFMPEG_PATH: a program that was built for another CPU architecture is refused at start."""

import os
import struct
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from media_worker.errors import SettingsError
from media_worker.settings import Settings
from media_worker_cli.local.ffmpeg import ffmpeg_path

REQUIRED = {field.name.upper(): "x" for field in fields(Settings) if field.default is MISSING}
MACHINES = {"x86_64": 62, "aarch64": 183}


def elf(path: Path, machine: int) -> Path:
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, machine) + bytes(44))
    return path


def settings(path: Path) -> Settings:
    return Settings.from_environment(REQUIRED | {"FFMPEG_PATH": str(path)})


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    """The error names the setting, both architectures, and what to do."""
    own = os.uname().machine
    other = next(name for name in MACHINES if name != own)
    with pytest.raises(
        SettingsError,
        match=rf"FFMPEG_PATH='.*' is not usable: it is built for {other}, and this machine is {own}: .*Architecture",
    ):
        settings(elf(tmp_path / "ffmpeg", MACHINES[other]))


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    """An architecture that Lambda does not have is refused too."""
    with pytest.raises(SettingsError, match="it is built for another architecture"):
        settings(elf(tmp_path / "ffmpeg", 243))


def test_this_architecture_is_accepted(tmp_path: Path) -> None:
    """The layer's ffmpeg, a script, and a path without a file yet are accepted."""
    script = tmp_path / "ffmpeg.sh"
    script.write_text("#!/bin/sh\n")
    for path in (ffmpeg_path(), script, tmp_path / "later"):
        assert settings(path).ffmpeg_path == str(path)
