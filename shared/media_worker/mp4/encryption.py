"""Detecting encrypted tracks (ISO/IEC 23001-7, Common Encryption; Apple FairPlay; Microsoft PIFF).

An encrypted sample cannot be decoded without a key, which no service here has. ffmpeg copies such samples and decodes
them to noise, so encrypted files are refused and never handed to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .boxes import FULL_BOX_BYTES, Box
from .errors import Encrypted, Unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

# The sample entries that replace the codec's own one (14496-12, 8.12), and those of FairPlay.
ENCRYPTED_ENTRIES = frozenset(
    {b"encv", b"enca", b"enct", b"encs", b"encm", b"encf", b"encp", b"ench", b"enc3", b"drmi", b"drms", b"drmt"}
)
PIFF_SENC = bytes.fromhex("a2394f525a9b4f14a2446c427c648df4")  # the `senc` of PIFF 1.1, a uuid box
_SCHEMES = frozenset({b"cenc", b"cens", b"cbc1", b"cbcs", b"sve1", b"piff"})
_HAS_AUX_INFO_TYPE = 1
_GROUPS = (b"sgpd", b"sbgp", b"csgp")


def refuse_encrypted_track(trak: Box, name: str, codecs: Sequence[bytes]) -> None:
    """Check a `trak` with these sample entries.

    Raises:
        Encrypted: its samples are encrypted, also if only some of them are.
        Unsupported: its samples have auxiliary information of an unknown kind.
    """
    for codec in codecs:
        if codec in ENCRYPTED_ENTRIES:
            raise Encrypted(f"sample entry {codec.decode()} in {name}")
    for holder in (trak, trak.find(b"mdia", b"minf", b"stbl")):
        if holder is not None:
            refuse_encrypted_samples(holder, name)


def refuse_encrypted_samples(holder: Box, name: str) -> None:
    """Check the boxes of a `stbl`, `trak` or `traf`. A clear sample entry proves nothing: a sample group overrides it.

    Raises:
        Encrypted: they describe encryption.
        Unsupported: they describe auxiliary information of an unknown kind, whose offsets would become wrong.
    """
    for box in holder.children or ():
        kind = box.kind.decode("latin-1")
        if box.kind == b"senc" or (box.kind == b"uuid" and bytes(box.payload[:16]) == PIFF_SENC):
            raise Encrypted(f"box senc in {name}")
        if box.kind in _GROUPS and _grouping_type(box) == b"seig":
            raise Encrypted(f"sample group seig in {name}")
        if box.kind in {b"saiz", b"saio"}:
            if _aux_info_type(box) in _SCHEMES:
                raise Encrypted(f"box {kind} in {name}")
            raise Unsupported(f"the samples of {name} have auxiliary information (box {kind})")


def _grouping_type(box: Box) -> bytes:
    """All three boxes have it behind version and flags (8.9.2, 8.9.3, 8.9.5)."""
    return bytes(box.payload[FULL_BOX_BYTES : FULL_BOX_BYTES + 4])


def _aux_info_type(box: Box) -> bytes:
    """The kind of auxiliary information. Without one it is that of the protection scheme (8.7.8.3)."""
    is_explicit = len(box.payload) >= FULL_BOX_BYTES and box.payload[3] & _HAS_AUX_INFO_TYPE
    return bytes(box.payload[FULL_BOX_BYTES : FULL_BOX_BYTES + 4]) if is_explicit else b"cenc"
