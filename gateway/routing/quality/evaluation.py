"""What routing by estimates is worth, on prompts whose outcomes are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.routing.quality.curve import apgr, cost_curve, cost_for_quality, cpt, deferral_curve
from gateway.routing.quality.model import Estimates
from gateway.routing.quality.outcomes import Outcomes

Table = NDArray[np.float64]

_BINS = 15


def measured(outcomes: Outcomes, estimates: Estimates) -> dict[str, Any]:
    """estimates: of each prompt, float64[n, models].

    routed: mean score where the best estimate answers. best_single: the greatest mean score of one
    model. oracle: where the best score answers. part_of_oracle: the way from the best single model
    to the oracle that was gone. cost_at_best_quality: the least cost at which no worse than the
    best single model, in parts of that model's cost; null: not reached, or costs are not known.
    ece: the calibration error of all estimates, 15 bins. Of two models: apgr, cpt50 and cpt80, as
    RouteLLM measures them. Unknown scores count for nothing.
    """
    scores = outcomes.scores
    known = ~np.isnan(scores).all(1)
    means = _means(scores)
    best = int(np.argmax(means))
    chosen = scores[np.arange(len(scores)), estimates.quality.argmax(1)]
    told = chosen[~np.isnan(chosen)]
    routed = float(told.mean()) if len(told) else None
    oracle = float(np.nanmax(scores[known], 1).mean())
    single = float(means[best])
    found: dict[str, Any] = {
        "prompts": len(scores),
        "routed": routed,
        "best_single": single,
        "best_single_model": outcomes.models[best],
        "oracle": oracle,
        "part_of_oracle": _part(routed, single, oracle),
        "cost_at_best_quality": _cost_at(outcomes, estimates, best, single),
        "ece": _calibration_error(scores, estimates.quality),
    }
    if len(outcomes.models) == 2:
        found |= _of_two(scores, estimates.quality, best)
    return found


def _calibration_error(scores: Table, quality: Table) -> float:
    """Of scores from 0 to 1, as it is of right and wrong: the mean score takes accuracy's place."""
    known = ~np.isnan(scores)
    bins = np.clip((quality[known] * _BINS).astype(int), 0, _BINS - 1)
    apart = np.bincount(bins, quality[known] - scores[known], minlength=_BINS)
    return float(np.abs(apart).sum() / known.sum())


def _part(routed: float | None, single: float, oracle: float) -> float | None:
    if routed is None or oracle <= single:
        return None
    return (routed - single) / (oracle - single)


def drawn(outcomes: Outcomes, estimates: Estimates) -> dict[str, Any]:
    """What a plot shows. single: each model's mean score, and mean cost in USD where it is known.

    costs: the fleet's curve, from the cheapest point to the best estimate; empty where a model's
    costs are not known. calls: of two models, the share of calls to the better one and the quality.
    """
    scores, costs = outcomes.scores, outcomes.costs_usd
    means, spent = _means(scores), _means(costs)
    single = {
        model: {"quality": _told(means[i]), "cost_usd": _told(spent[i])}
        for i, model in enumerate(outcomes.models)
    }
    found: dict[str, Any] = {"single": single, "costs": [], "calls": []}
    if _has_costs(outcomes, estimates):
        curve = cost_curve(scores, costs, estimates.quality, estimates.cost_usd)
        points = zip(curve.costs_usd.tolist(), curve.qualities.tolist(), strict=True)
        kept = dict.fromkeys(points)  # many prices lead to the same choices
        found["costs"] = [{"cost_usd": cost, "quality": quality} for cost, quality in kept]
    if len(outcomes.models) == 2:
        pair = _pair(scores, estimates.quality, int(np.argmax(means)))
        if pair:
            calls = deferral_curve(*pair)
            points = zip(calls.shares.tolist(), calls.qualities.tolist(), strict=True)
            found["calls"] = [{"share": share, "quality": quality} for share, quality in points]
    return found


def _told(mean: float) -> float | None:
    return float(mean) if mean >= 0 else None


def _means(scores: Table) -> Table:
    """Of each model's known scores; below all where it has none."""
    known = ~np.isnan(scores)
    sums = np.where(known, scores, 0).sum(0)
    return np.where(known.any(0), sums / np.maximum(1, known.sum(0)), -1)


def _has_costs(outcomes: Outcomes, estimates: Estimates) -> bool:
    known = ~np.isnan(outcomes.costs_usd)
    return bool(known.any(0).all() and not np.isnan(estimates.cost_usd).any())


def _cost_at(outcomes: Outcomes, estimates: Estimates, best: int, quality: float) -> float | None:
    if not _has_costs(outcomes, estimates):
        return None
    costs = outcomes.costs_usd
    curve = cost_curve(outcomes.scores, costs, estimates.quality, estimates.cost_usd)
    least, whole = cost_for_quality(curve, quality), float(np.nanmean(costs[:, best]))
    return least / whole if least is not None and whole > 0 else None


def _pair(scores: Table, quality: Table, strong: int) -> tuple[Table, Table, Table] | None:
    """The strong model's scores, the weak one's, and how much the strong one is preferred; None
    where it is not the stronger on what both answered.
    """
    both = ~np.isnan(scores).any(1)
    better, worse = scores[both, strong], scores[both, 1 - strong]
    if not len(better) or better.mean() <= worse.mean():
        return None
    return better, worse, (quality[:, strong] - quality[:, 1 - strong])[both]


def _of_two(scores: Table, quality: Table, strong: int) -> dict[str, float]:
    pair = _pair(scores, quality, strong)
    if not pair:
        return {}
    curve = deferral_curve(*pair)
    ends = float(pair[0].mean()), float(pair[1].mean())
    return {
        "apgr": apgr(curve, *ends),
        "cpt50": cpt(curve, *ends, 0.5),
        "cpt80": cpt(curve, *ends, 0.8),
    }
