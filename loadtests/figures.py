"""Records → figures. Pure."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from loadtests.record import Record

SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
TOKENS_PER_PRICE = 10**6


def quantile(values: Sequence[float], share: float) -> float | None:
    """The least value that this share of them does not exceed; None without any."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def spread(values: Iterable[float | None]) -> dict[str, float | None]:
    """Quantiles of those that are there."""
    known = [value for value in values if value is not None]
    return {name: quantile(known, share) for name, share in SHARES.items()}


def summarise(records: Sequence[Record], seconds: float) -> dict[str, Any]:
    """What became of these requests. seconds: how long they came."""
    answered = [one for one in records if one.is_answered]
    good_count = sum(one.is_good for one in records)
    return {
        "sent": len(records),
        "answered": len(answered),
        "good": good_count,
        "errors": dict(sorted(Counter(one.reason for one in records if one.reason).items())),
        "seconds": seconds,
        "offered_rate": len(records) / seconds,
        "goodput": good_count / seconds,
        "total_s": spread(one.total_s for one in answered),
        "first_token_s": spread(one.first_token_s for one in answered),
        "per_token_s": spread(one.per_token_s for one in answered),
        "route_accuracy": _share(one.is_routed for one in answered),
        "answer_accuracy": _share(one.is_right for one in answered),
        "prompt_token_count": sum(one.prompt_token_count for one in answered),
        "output_token_count": sum(one.output_token_count for one in answered),
        "cost_nano_usd": sum(one.cost_nano_usd for one in answered),
        "baselines_nano_usd": _sum_up(one.baselines for one in answered),
    }


def grouped(records: Iterable[Record], key: Callable[[Record], str]) -> dict[str, list[Record]]:
    """By key, sorted."""
    found: dict[str, list[Record]] = defaultdict(list)
    for one in records:
        found[key(one)].append(one)
    return dict(sorted(found.items()))


def prices(records: Iterable[Record]) -> dict[str, dict[str, Any]]:
    """By model that answered: its tokens, and USD per million of them, ours and each closed API's.

    The tokens are the answering model's, prompts' and output; a closed API's own tokenizer may
    count the same texts otherwise.
    """
    answered = [one for one in records if one.is_answered]
    found = {}
    for model, own in grouped(answered, lambda one: one.model).items():
        tokens = sum(one.prompt_token_count + one.output_token_count for one in own)
        baselines = _sum_up(one.baselines for one in own)
        cost = sum(one.cost_nano_usd for one in own)
        found[model] = {
            "token_count": tokens,
            "cost_nano_usd": cost,
            "baselines_nano_usd": baselines,
            "usd_per_mtok": usd_per_mtok(cost, tokens),
            "baselines_usd_per_mtok": {
                name: usd_per_mtok(theirs, tokens) for name, theirs in baselines.items()
            },
        }
    return found


def usd_per_mtok(nano_usd: int, token_count: int) -> float | None:
    """None without tokens."""
    return nano_usd / 1e9 * TOKENS_PER_PRICE / token_count if token_count else None


def _share(marks: Iterable[bool | None]) -> float | None:
    known = [mark for mark in marks if mark is not None]
    return sum(known) / len(known) if known else None


def _sum_up(costs: Iterable[Mapping[str, int]]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for one in costs:
        sums.update(one)
    return dict(sorted(sums.items()))
