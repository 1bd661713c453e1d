"""Sample groups: which samples share a property such as "needs one sample of pre-roll" (ISO/IEC 14496-12, 8.9)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .boxes import Box, full_box, unpack, version_and_flags
from .errors import BrokenFile
from .runs import Runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_PAIR = struct.Struct(">II")


@dataclass(frozen=True, slots=True)
class SampleGroup:
    """One `sbgp` with the `sgpd` it points into (kept as found)."""

    grouping: bytes  # grouping type, and in version 1 its parameter
    members: Runs  # description index for each sample, 0: in no group
    description: bytes  # payload of the sgpd box

    def slice(self, first: int, end: int) -> SampleGroup:
        """The memberships of samples `first` to `end` (exclusive)."""
        return replace(self, members=self.members.slice(first, end))

    @staticmethod
    def concat(parts: Sequence[tuple[tuple[SampleGroup, ...], int]]) -> tuple[SampleGroup, ...]:
        """Groups of several sample tables (with their sample counts), as groups of the tables in a row.

        A grouping survives when all tables describe it alike; else its indexes would mean different things.
        """
        filled = [(groups, count) for groups, count in parts if count]
        keys = dict.fromkeys((group.grouping, group.description) for groups, _ in filled for group in groups)
        joined = []
        for grouping, description in keys:
            if sum(other == grouping for other, _ in keys) == 1:
                members = Runs.concat(_members(groups, grouping, count) for groups, count in filled)
                joined.append(SampleGroup(grouping, members, description))
        return tuple(joined)


def _members(groups: Iterable[SampleGroup], grouping: bytes, count: int) -> Runs:
    found = next((group.members for group in groups if group.grouping == grouping), None)
    return Runs.constant(count, 0) if found is None else found


def parse_groups(stbl: Box, sample_count: int) -> tuple[SampleGroup, ...]:
    """All sample groups of a track; an `sbgp` without its `sgpd` says nothing and is left out."""
    descriptions = {bytes(box.payload[4:8]): bytes(box.payload) for box in stbl.find_all(b"sgpd")}
    groups = []
    for box in stbl.find_all(b"sbgp"):
        version, _ = version_and_flags(box)
        grouping = bytes(box.payload[4 : 8 if version == 0 else 12])
        if (description := descriptions.get(grouping[:4])) is not None:
            members = _parse_members(box, 4 + len(grouping)).resized(sample_count, 0)
            groups.append(SampleGroup(grouping, members, description))
    return tuple(groups)


def _parse_members(box: Box, offset: int) -> Runs:
    (count,) = unpack(struct.Struct(">I"), box, offset)
    end = offset + 4 + count * _PAIR.size
    if end > len(box.payload):
        raise BrokenFile("sbgp holds more entries than its box")
    pairs = list(_PAIR.iter_unpack(box.payload[offset + 4 : end]))
    return Runs.of((pair[0] for pair in pairs), (pair[1] for pair in pairs))


def build_groups(groups: Sequence[SampleGroup]) -> list[Box]:
    """`sgpd` and `sbgp` boxes; descriptions first, each of them once."""
    boxes = [Box(b"sgpd", description) for description in dict.fromkeys(group.description for group in groups)]
    for group in groups:
        version = 1 if group.grouping[4:] else 0
        head = full_box(version) + group.grouping + struct.pack(">I", len(group.members.counts))
        pairs = zip(group.members.counts, group.members.values, strict=True)
        boxes.append(Box(b"sbgp", head + b"".join(_PAIR.pack(*pair) for pair in pairs)))
    return boxes
