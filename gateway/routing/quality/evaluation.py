"""What routing by estimates is worth, on prompts whose outcomes are known."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.routing.quality.curve import apgr, cost_curve, cost_for_quality, cpt, deferral_curve
from gateway.routing.quality.model import Estimates
from gateway.routing.quality.outcomes import Outcomes

Table = NDArray[np.float64]


def measured(outcomes: Outcomes, estimates: Estimates) -> dict[str, Any]:
    """estimates: of each prompt, float64[n, models].

    routed: mean score where the best estimate answers. best_single: the greatest mean score of one
    model. oracle: where the best score answers. part_of_oracle: the way from the best single model
    to the oracle that was gone. cost_at_best_quality: the least cost at which no worse than the
    best single model, in parts of that model's cost; null: not reached, or costs are not known. Of
    two models: apgr, cpt50 and cpt80, as RouteLLM measures them. Unknown scores count for nothing.
    """
    scores = outcomes.scores
    known = ~np.isnan(scores).all(1)
    means = _means(scores)
    best = int(np.argmax(means))
    chosen = scores[np.arange(len(scores)), estimates.quality.argmax(1)]
    routed, oracle = float(np.nanmean(chosen)), float(np.nanmax(scores[known], 1).mean())
    single = float(means[best])
    found: dict[str, Any] = {
        "prompts": len(scores),
        "routed": routed,
        "best_single": single,
        "best_single_model": outcomes.models[best],
        "oracle": oracle,
        "part_of_oracle": (routed - single) / (oracle - single) if oracle > single else None,
        "cost_at_best_quality": _cost_at(outcomes, estimates, best, single),
    }
    if len(outcomes.models) == 2:
        found |= _of_two(scores, estimates.quality, best)
    return found


def _means(scores: Table) -> Table:
    """Of each model's known scores; below all where it has none."""
    known = ~np.isnan(scores)
    sums = np.where(known, scores, 0).sum(0)
    return np.where(known.any(0), sums / np.maximum(1, known.sum(0)), -1)


def _cost_at(outcomes: Outcomes, estimates: Estimates, best: int, quality: float) -> float | None:
    costs = outcomes.costs_usd
    if np.isnan(costs).all(0).any() or np.isnan(estimates.cost_usd).any():
        return None
    whole = float(np.nanmean(costs[:, best]))
    curve = cost_curve(outcomes.scores, costs, estimates.quality, estimates.cost_usd)
    least = cost_for_quality(curve, quality)
    return least / whole if least is not None and whole > 0 else None


def _of_two(scores: Table, quality: Table, strong: int) -> dict[str, float]:
    both = ~np.isnan(scores).any(1)
    better, worse = scores[both, strong], scores[both, 1 - strong]
    if not len(better) or better.mean() <= worse.mean():
        return {}
    curve = deferral_curve(better, worse, (quality[:, strong] - quality[:, 1 - strong])[both])
    ends = float(better.mean()), float(worse.mean())
    return {
        "apgr": apgr(curve, *ends),
        "cpt50": cpt(curve, *ends, 0.5),
        "cpt80": cpt(curve, *ends, 0.8),
    }
