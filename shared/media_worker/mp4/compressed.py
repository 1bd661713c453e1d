"""A compressed index, as old QuickTime exporters write it: `moov { cmov { dcom, cmvd } }`.

The data of `cmvd` is a whole `moov` box, deflated; its size comes first (QuickTime File Format Specification, 2001).
"""

from __future__ import annotations

import zlib

from .boxes import parse_boxes, read_box_header
from .errors import BrokenFile, Unsupported

# Such files are from the time before 2005 and small. The limit is for hostile ones.
MAX_DECOMPRESSED_BYTES = 64 << 20


def decompressed(moov: bytes) -> bytes:
    """The payload of a `moov` box, decompressed if it is compressed.

    Raises:
        Unsupported: it is compressed in another way, or is too large.
        BrokenFile: it cannot be decompressed.
    """
    if moov[4:8] != b"cmov":
        return moov
    boxes = {box.kind: bytes(box.payload) for box in parse_boxes(memoryview(moov)[8:], b"cmov")}
    method, packed = boxes.get(b"dcom", b"")[:4], boxes.get(b"cmvd", b"")
    if method != b"zlib":
        raise Unsupported(f"the index is compressed with {method!r}")
    size_bytes = int.from_bytes(packed[:4], "big")
    if size_bytes > MAX_DECOMPRESSED_BYTES:
        raise Unsupported(f"the compressed index has {size_bytes} bytes, more than the limit")
    try:
        content = zlib.decompressobj().decompress(packed[4:], max(1, size_bytes))
    except zlib.error as error:
        raise BrokenFile("the compressed index cannot be decompressed") from error
    header = read_box_header(content, 0)
    if header is None or (header.kind, header.size_bytes) != (b"moov", size_bytes) or len(content) != size_bytes:
        raise BrokenFile("the compressed index is not a complete moov box")
    return content[header.header_bytes :]
