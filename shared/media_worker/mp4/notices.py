"""What a user should know about a plan: why a video is one segment, or has segments that are longer than wanted."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from array import array
    from collections.abc import Sequence
    from fractions import Fraction

    from .split import SplitPlan
    from .split_rule import SplitRule

_ADVICE = "re-encode with a keyframe every few seconds to process it in parallel"
# How many cut times or segments a notice names.
_NAMED = 10


def notice_of(plan: SplitPlan, rule: SplitRule, sync: array[int] | None, *, has_plain_edits: bool) -> str | None:
    """Why the video cannot be split as wanted, or None if it can.

    `sync`: its sync samples, None for all. `has_plain_edits`: its edit list presents it in media order.
    """
    if not plan.segments:
        return None
    why_one = _why_one(sync, has_plain_edits=has_plain_edits)
    if not has_plain_edits and rule.segment_duration_s is None:
        return f"one segment: {why_one}"
    too_long = _too_long(plan, rule.max_duration_s) if plan.total_segments > 1 else None
    notices = (_lost_cuts(plan, rule.tolerance_s), too_long or _longer_than_wanted(plan, rule, why_one))
    return "; ".join(filter(None, notices)) or None


def _lost_cuts(plan: SplitPlan, tolerance_s: Fraction) -> str | None:
    """Which wanted cut times have no sync sample near them."""
    lost = [f"{float(each.wanted_s):g}" for each in plan.matched_cuts if each.got_s is None]
    if not lost:
        return None
    return (
        f"the source has no keyframe within {float(tolerance_s):g} s of {len(lost)} of {len(plan.matched_cuts)} wanted "
        f"cut times: {_listed(lost)} s; it was not cut there"
    )


def _too_long(plan: SplitPlan, max_duration_s: Fraction | None) -> str | None:
    """Which segments are longer than the maximum."""
    if max_duration_s is None:
        return None
    too_long = [str(index) for index, each in enumerate(plan.segments) if each.duration_s > max_duration_s]
    if not too_long:
        return None
    longest_s = max(each.duration_s for each in plan.segments)
    which = f"segment {too_long[0]} lasts" if len(too_long) == 1 else f"segments {_listed(too_long)} last up to"
    return (
        f"{which} {float(longest_s):.1f} s, more than the maximum of {float(max_duration_s):g} s: the source has "
        f"no keyframe in between at which it can be cut; {_ADVICE}"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _longer_than_wanted(plan: SplitPlan, rule: SplitRule, why_one: str) -> str | None:
    """Which segment is much longer than the others should be, or why there is a single one."""
    wanted_s = rule.segment_duration_s or rule.max_duration_s
    if rule.segments is not None:
        wanted_s = (plan.segments[-1].end_s - plan.segments[0].start_s) / rule.segments
    if wanted_s is None:
        return None
    longest = max(range(plan.total_segments), key=lambda index: plan.segments[index].duration_s)
    longest_s = plan.segments[longest].duration_s
    if plan.total_segments == 1:
        return f"one segment: {why_one}" if longest_s > wanted_s else None
    if longest_s <= 2 * wanted_s:
        return None
    return (
        f"segment {longest} lasts {float(longest_s):.1f} s, more than twice the wanted {float(wanted_s):g} s: the "
        f"source has no keyframe in between at which it can be cut; {_ADVICE}"
    )


def _why_one(sync: array[int] | None, *, has_plain_edits: bool) -> str:
    if not has_plain_edits:
        return "an edit list repeats media or changes the speed; export without edits to process it in parallel"
    if sync is not None and len(sync) <= 1:
        return f"the source has a single keyframe; {_ADVICE}"
    return f"the source has no keyframe after the first at which it can be cut; {_ADVICE}"
