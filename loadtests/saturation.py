"""Where a fleet is saturated, and what becomes of it beyond. Pure.

Goodput is counted where answers end: good ones that ended in a step, by its seconds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from loadtests.figures import grouped, spread
from loadtests.record import Record
from loadtests.scenario import Stage

SATURATED = 0.85  # of what came; less is answered well in time: the ramp may end
SATURATED_STEP_COUNT = 2
# The overload's beginning does not count: a queue that still fills flatters it.
FILLING_S = 5.0


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a ramp; rates per second."""

    begin_s: float
    end_s: float
    offered_rate: float
    goodput: float
    refused_rate: float


def steps(records: Sequence[Record], stages: Sequence[Stage]) -> list[Step]:
    """A step for each stage in which requests came. records: of one phase."""
    found, begin_s = [], 0.0
    for stage in stages:
        end_s = begin_s + stage.seconds
        came = sum(begin_s <= one.at_s < end_s for one in records)
        ended = [one for one in records if begin_s <= one.end_s < end_s]
        if came:
            good, refused = (
                sum(one.is_good for one in ended),
                sum(bool(one.reason) for one in ended),
            )
            rates = (count / stage.seconds for count in (came, good, refused))
            found.append(Step(begin_s, end_s, *rates))
        begin_s = end_s
    return found


def whole_stages(stages: Sequence[Stage], end_s: float) -> tuple[Stage, ...]:
    """Those that were over by then."""
    ends = accumulate(one.seconds for one in stages)
    return tuple(one for one, over_s in zip(stages, ends, strict=True) if over_s <= end_s)


def is_saturated(found: Sequence[Step]) -> bool:
    """Whether the last steps brought more than was answered well."""
    last = found[-SATURATED_STEP_COUNT:]
    return len(last) == SATURATED_STEP_COUNT and all(
        one.goodput < SATURATED * one.offered_rate for one in last
    )


def knee_rate(found: Sequence[Step]) -> float:
    """The load that saturates: as many requests as are answered well at most.

    There the two lines meet that goodput follows: all that is offered, and the greatest there is.
    Two steps must have it: while lines fill, short answers overtake long ones, which are counted
    later.
    """
    pairs = zip(found, found[1:] or found, strict=False)
    return max((one.goodput + other.goodput) / 2 for one, other in pairs)


def class_figures(
    calm: Sequence[Record], crowded: Sequence[Record], seconds: float
) -> dict[str, dict[str, Any]]:
    """By caller: what becomes of it when the fleet has more to do than it can, and had before.

    seconds: how long requests came in each.
    """
    counted = [one for one in crowded if FILLING_S <= one.at_s < seconds]
    before, after = (grouped(records, _caller) for records in (calm, counted))
    found = {}
    for caller, own in after.items():
        firsts = [
            spread(one.first_token_s for one in records if one.is_answered)
            for records in (before.get(caller, ()), own)
        ]
        calm_s, crowded_s = (one["p99"] for one in firsts)
        found[caller] = {
            "offered_rate": len(own) / (seconds - FILLING_S),
            "good_share": sum(one.is_good for one in own) / len(own),
            "calm_first_token_s": firsts[0],
            "first_token_s": firsts[1],
            "first_token_factor": crowded_s / calm_s if calm_s and crowded_s else None,
        }
    return found


def shed_quantile_s(
    before: Mapping[str, float], after: Mapping[str, float], share: float
) -> float | None:
    """The least bound that this share of the refusals between two counts did not pass.

    Counts are cumulative, by bound in seconds; None where nothing was refused.
    """
    counts = {float(bound): count - before.get(bound, 0) for bound, count in after.items()}
    total = counts.get(math.inf, 0)
    if not total:
        return None
    return min(bound for bound, count in counts.items() if count >= share * total)


def _caller(record: Record) -> str:
    return record.caller


def saturation(
    ramp: Sequence[Record], stages: Sequence[Stage], overload: Sequence[Record], overload_s: float
) -> dict[str, Any]:
    """The figures of a ramp and of the overload after it."""
    found = steps(ramp, stages)
    ended = [one for one in overload if FILLING_S <= one.end_s < overload_s]
    came = [one for one in overload if FILLING_S <= one.at_s < overload_s]
    seconds = overload_s - FILLING_S
    peak = knee_rate(found)
    goodput = sum(one.is_good for one in ended) / seconds
    return {
        "steps": [asdict(one) for one in found],
        "knee_rate": knee_rate(found),
        "is_reached": is_saturated(found),
        "peak_goodput": peak,
        "overload_rate": len(came) / seconds,
        "overload_goodput": goodput,
        "kept": goodput / peak if peak else 0.0,
        "reasons": dict(sorted(Counter(one.reason for one in overload if one.reason).items())),
        "total_s": spread(one.total_s for one in overload if one.is_answered),
        "refusal_s": spread(one.total_s for one in overload if one.reason),
    }
