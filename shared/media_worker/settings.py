"""Settings: the environment, read once into a frozen record."""

import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from media_worker.errors import SettingsError

Engine: TypeAlias = Literal["auto", "copy", "ffmpeg"]
ENGINES: tuple[Engine, ...] = get_args(Engine)

# Where the tracks of the final other than the video come from.
Tracks: TypeAlias = Literal["auto", "source", "segments"]
TRACKS: tuple[Tracks, ...] = get_args(Tracks)


def _text(value: str) -> str:
    return value


def _duration_s(value: str) -> Fraction:
    seconds = Fraction(value)
    if seconds <= 0:
        raise ValueError("must be positive")
    return seconds


def _count(value: str) -> int:
    number = int(value)
    if number < 1:
        raise ValueError("must be at least 1")
    return number


_Choice = TypeVar("_Choice", bound=str)


def one_of(choices: tuple[_Choice, ...], value: object) -> _Choice:
    """The choice that equals the value.

    Raises:
        ValueError: there is none.
    """
    for choice in choices:
        if choice == value:
            return choice
    raise ValueError(f"{value!r} is not one of {', '.join(choices)}")


def _days(value: str) -> int | None:
    number = int(value)
    if number < 0:
        raise ValueError("must not be negative")
    return number or None


def _tag(value: str) -> tuple[str, str]:
    key, equals, tag_value = value.partition("=")
    if not key or not equals:
        raise ValueError("must be KEY=VALUE")
    return key, tag_value


def _program(value: str) -> str:
    """A path. A Linux program there must be built for this architecture: failing at start is better than failing each
    job with "Exec format error".

    Bytes 18 and 19 of an ELF file name the machine (https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html).
    """
    try:
        with Path(value).open("rb") as file:
            head = file.read(20)
    except OSError:
        return value
    machine = _ELF_MACHINES.get(int.from_bytes(head[18:20], "little"))
    if head.startswith(b"\x7fELF") and machine != os.uname().machine:
        raise ValueError(
            f"it is built for {machine or 'another architecture'}, and this machine is {os.uname().machine}: "
            "`sam build` and `sam deploy` need the same Architecture"
        )
    return value


_ELF_MACHINES = {62: "x86_64", 183: "aarch64"}

_PARSERS: dict[str, Callable[[str], Any]] = {
    "chunk_segment_duration_sec": _duration_s,
    "engine": partial(one_of, ENGINES),
    "tracks": partial(one_of, TRACKS),
    "max_receive_count": _count,
    "ffmpeg_path": _program,
    "job_expiration_days": _days,
    "expiry_tag": _tag,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The stack that the functions run in. Each field is the environment variable of the same name."""

    input_bucket_name: str
    output_bucket_name: str
    jobs_table_name: str
    segment_completions_table_name: str
    reassembly_triggered_table_name: str
    chunking_queue_url: str
    reassembly_queue_url: str
    # None: boto3 resolves it when the clients are made.
    aws_region: str | None = None
    aws_endpoint_url: str | None = None
    # For S3 alone: any S3-compatible server.
    aws_endpoint_url_s3: str | None = None
    chunk_segment_duration_sec: Fraction = Fraction(300)
    engine: Engine = "auto"
    tracks: Tracks = "auto"
    ffmpeg_path: str = "/opt/bin/ffmpeg"
    # The queues' maxReceiveCount. The last receive is not an attempt: see final_delivery.py.
    max_receive_count: int = 6
    # For segment workers, and for what reads their state. Workers do without the table.
    segment_queue_url: str | None = None
    segment_attempts_table_name: str | None = None
    # Days until the row of a job that has ended expires, if the Jobs table's TTL is on. None: never.
    job_expiration_days: int | None = None
    # Key and value of the tag by which a lifecycle rule of the output bucket removes objects.
    expiry_tag: tuple[str, str] = ("kind", "processed-segment")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Read the settings; an empty variable counts as missing.

        Raises:
            SettingsError: names every variable that is missing or bad, all at once.
        """
        values: dict[str, Any] = {}
        problems: list[str] = []
        for field in fields(cls):
            name = field.name.upper()
            if not (text := environ.get(name, "").strip()):
                if field.default is MISSING:
                    problems.append(f"{name} is not set")
                continue
            try:
                values[field.name] = _PARSERS.get(field.name, _text)(text)
            except (ValueError, ZeroDivisionError) as error:
                problems.append(f"{name}={text!r} is not usable: {error}")
        if problems:
            raise SettingsError("the environment does not describe a stack: " + "; ".join(problems))
        return cls(**values)
