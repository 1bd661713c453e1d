"""Byte ranges of objects and files, the one way in which media is named before it is moved. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ByteRange:
    """`length` bytes from `offset` of source number `source`; what the sources are is up to the caller's list."""

    source: int
    offset: int
    length: int

    @property
    def end(self) -> int:
        """The offset of the byte behind the last one."""
        return self.offset + self.length

    def split(self, at: int) -> "tuple[ByteRange, ByteRange]":
        """The first `at` bytes, and the rest."""
        return (
            ByteRange(self.source, self.offset, at),
            ByteRange(self.source, self.offset + at, self.length - at),
        )
