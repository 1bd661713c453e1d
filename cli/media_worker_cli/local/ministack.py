"""Start ministack with the bodies of its S3 objects on disk: `python -m media_worker_cli.local.ministack`.

ministack keeps every object in memory, and each part copy and each completed upload is a new copy. Here an object is a
list of byte ranges of files, so a part copy copies nothing. The files are in S3_DATA_DIR.

It also forgets the attributes of a nested stack's unchanged resources when the stack is updated, so a second deployment
fails where another resource refers to them (`!GetAtt`).

ministack has no interface for that, so a few expressions of it are replaced. Another version of ministack may differ
there: then it does not start.
"""

import hashlib
import inspect
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from ministack import app
from ministack.core.responses import StreamingResponse
from ministack.services import s3 as s3_service
from ministack.services.cloudformation import provisioners

_READ_BYTES = 1024 * 1024
# Of each function, expressions that are in it exactly once, and what replaces them. `bodies` is this module.
Replacements: TypeAlias = Mapping[str, Sequence[tuple[str, str]]]
_ON_DISK: Replacements = {
    "_build_object_record": (('"body": body,', '"body": bodies.store(body),'),),
    "_put_object": (('prior_obj = bucket["objects"]', 'body = obj["body"]; prior_obj = bucket["objects"]'),),
    "_upload_part": (('"body": body,', '"body": bodies.store(body),'),),
    "_upload_part_copy": (("md5_hash(src_body)", "src_body.md5()"),),
    "_complete_multipart_upload": (
        # The ETag of a part is its MD5.
        ('hashlib.md5(stored["body"]).digest()', "bytes.fromhex(stored['etag'].strip('\"'))"),
        ('b"".join(combined_parts)', "bodies.join(combined_parts)"),
    ),
    # Other services parse what they read from S3.
    "_get_object_data": (("_read_body(bucket_name, key, obj)", "bytes(_read_body(bucket_name, key, obj))"),),
}
_WITH_ATTRIBUTES: Replacements = {
    "_cfn_nested_stack_deploy": (
        (
            "old_tagged, new_tagged, child_name, child_logical_id,",
            "old_tagged, new_tagged, child_name, child_logical_id, prev.get('Attributes'),",
        ),
    ),
}

Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]


class UnknownMinistack(Exception):
    """The replacements are for another version of ministack."""


class _File:
    """A file, deleted with the last body that uses it."""

    def __init__(self, content: bytes) -> None:
        with tempfile.NamedTemporaryFile(dir=s3_service.DATA_DIR, delete=False) as file:
            self.path = Path(file.name)
            file.write(content)

    def __del__(self) -> None:
        with suppress(OSError):
            self.path.unlink()


@dataclass(frozen=True, slots=True)
class _Range:
    file: _File
    start: int
    length: int

    def part(self, start: int, stop: int) -> "_Range":
        """The bytes that are in this part of the body, which may begin before and end after this range."""
        start, stop = max(start, 0), min(stop, self.length)
        return _Range(self.file, self.start + start, stop - start)

    def chunks(self) -> Iterator[bytes]:
        with self.file.path.open("rb") as file:
            file.seek(self.start)
            for offset in range(0, self.length, _READ_BYTES):
                yield file.read(min(_READ_BYTES, self.length - offset))


class Body(StreamingResponse):  # type: ignore[misc]
    """The bytes of an object or a part, on disk. A slice is another view of the same files.

    ministack sends it as a response in chunks. Where it needs bytes, this can be used like them.
    """

    __slots__ = ("ranges", "size_bytes")

    def __init__(self, ranges: Iterable[_Range]) -> None:
        self.ranges = tuple(ranges)
        self.size_bytes = sum(part.length for part in self.ranges)

    def __len__(self) -> int:
        return self.size_bytes

    def __getitem__(self, item: slice) -> "Body":
        start, stop, _ = item.indices(len(self))
        return Body(self._between(start, stop))

    def __bytes__(self) -> bytes:
        return b"".join(self.chunks())

    def __buffer__(self, _flags: int) -> memoryview:
        return memoryview(bytes(self))

    def chunks(self) -> Iterator[bytes]:
        """The bytes, in chunks of at most a mebibyte."""
        for part in self.ranges:
            yield from part.chunks()

    def md5(self) -> str:
        """The MD5 of the bytes, in hexadecimal."""
        digest = hashlib.md5(usedforsecurity=False)
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()

    async def runner(self, send: Send, _receive: object) -> None:
        """Send the bytes as the body of an ASGI response."""
        for chunk in self.chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _between(self, start: int, stop: int) -> Iterator[_Range]:
        offset = 0
        for part in self.ranges:
            if offset < stop and start < offset + part.length:
                yield part.part(start - offset, stop - offset)
            offset += part.length


def store(content: bytes) -> Body:
    """A body with this content, written to a new file."""
    return Body([_Range(_File(content), 0, len(content))] if content else [])


def join(bodies: Iterable[Body]) -> Body:
    """One body after the other."""
    return Body(part for body in bodies for part in body.ranges)


def keep_on_disk(s3: ModuleType) -> None:
    """Change ministack's S3 service so that it keeps bodies on disk.

    Raises:
        UnknownMinistack: its code is not as expected.
    """
    vars(s3)["bodies"] = sys.modules[__name__]
    _replace(s3, _ON_DISK)


def keep_attributes(provisioners: ModuleType) -> None:
    """Change ministack's CloudFormation so that unchanged resources of nested stacks keep their attributes.

    Raises:
        UnknownMinistack: its code is not as expected.
    """
    _replace(provisioners, _WITH_ATTRIBUTES)


def _replace(module: ModuleType, functions: Replacements) -> None:
    for name, replacements in functions.items():
        try:
            lines, number = inspect.getsourcelines(getattr(module, name))
        except (AttributeError, OSError, TypeError) as error:
            raise UnknownMinistack(name) from error
        source = "".join(lines)
        for old, new in replacements:
            if source.count(old) != 1:
                raise UnknownMinistack(name)
            source = source.replace(old, new)
        # The empty lines keep the line numbers of tracebacks.
        exec(compile("\n" * (number - 1) + source, inspect.getfile(module), "exec"), vars(module))  # noqa: S102 - see above


def main() -> None:
    """Start ministack."""
    Path(s3_service.DATA_DIR).mkdir(parents=True, exist_ok=True)
    try:
        keep_on_disk(s3_service)
        keep_attributes(provisioners)
    except UnknownMinistack as error:
        raise SystemExit(
            f"ministack {version('ministack')} is not the version that this media-worker can use "
            f"({error} is different): install `media-worker[local]` again"
        ) from None
    app.main()


if __name__ == "__main__":
    main()
