"""What a routing is worth: curves of quality against calls, and against cost. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_STEPS = 400  # prices of a dollar that are tried


@dataclass(frozen=True, slots=True)
class Curve:
    """Quality against the share of requests that go to the strong model.

    shares: from 0 to 1, rising. qualities: mean score of what then answers.
    """

    shares: Floats
    qualities: Floats


def deferral_curve(
    strong: Floats, weak: Floats, preference: Floats, threshold_count: int = 10
) -> Curve:
    """As RouteLLM draws it (Ong et al. 2024, arXiv:2406.18665).

    strong, weak: [n], the models' scores. preference: [n], how much the strong one is preferred.
    Thresholds are the preference's quantiles; what is at one or above goes to the strong model, and
    at the last, which is the greatest, only what is above.
    """
    edges = np.quantile(preference, np.linspace(0, 1, threshold_count + 1))
    points = []
    for place, edge in enumerate(edges):
        goes = preference > edge if place == threshold_count else preference >= edge
        points.append((float(goes.mean()), float(np.where(goes, strong, weak).mean())))
    points.sort()
    shares, qualities = (np.array(one) for one in zip(*points, strict=True))
    return Curve(shares, qualities)


def apgr(curve: Curve, strong: float, weak: float) -> float:
    """Average performance gap recovered: the curve's area over the weak model's quality, in parts
    of what the strong model's would be. Random choice has 0.5; the best can have more than 1.

    strong, weak: mean scores of the two models, which differ.
    """
    span = curve.shares[-1] - curve.shares[0]
    area = float(np.trapezoid(curve.qualities, curve.shares))
    return float((area - weak * span) / ((strong - weak) * span))


def cpt(curve: Curve, strong: float, weak: float, part: float) -> float:
    """Call-performance threshold: the least share of calls to the strong model that recovers a part
    of the gap, between points of the curve by line. 1 where none does.
    """
    wanted = weak + part * (strong - weak)
    for place, quality in enumerate(curve.qualities):
        if quality >= wanted:
            if place == 0:
                return float(curve.shares[0])
            low, high = curve.qualities[place - 1], quality
            left, right = curve.shares[place - 1], curve.shares[place]
            return float(left + (right - left) * (wanted - low) / (high - low))
    return 1.0


@dataclass(frozen=True, slots=True)
class CostCurve:
    """What a fleet gives at each price of a dollar, in units of quality.

    prices: falling, the last is 0: the best estimate whatever it costs. qualities: mean score of
    what answers then. costs_usd: its mean cost.
    """

    prices: Floats
    qualities: Floats
    costs_usd: Floats


def cost_curve(
    scores: Floats, costs_usd: Floats, estimates: Floats, expected_usd: Floats
) -> CostCurve:
    """Each prompt goes to the model with the greatest estimate less price times expected cost.

    scores, costs_usd: [n, models], what came of each; NaN where unknown, which counts for nothing.
    estimates, expected_usd: [n, models], all known.
    """
    every = np.arange(len(scores))
    prices = _prices(expected_usd)
    points = []
    for price in prices:
        chosen = (estimates - price * expected_usd).argmax(1)
        points.append((_mean(scores[every, chosen]), _mean(costs_usd[every, chosen])))
    qualities, costs = (np.array(one) for one in zip(*points, strict=True))
    return CostCurve(prices, qualities, costs)


def _prices(expected_usd: Floats) -> Floats:
    """From where cost alone decides to where it does not count."""
    spreads = expected_usd.max(1) - expected_usd.min(1)
    spreads = spreads[spreads > 0]
    if not len(spreads):
        return np.zeros(1)
    least, greatest = 1e-4 / spreads.max(), 2 / np.quantile(spreads, 0.05)
    return np.append(np.geomspace(greatest, min(least, greatest / 2), _STEPS), 0.0)


def cost_for_quality(curve: CostCurve, quality: float) -> float | None:
    """The least mean cost, in USD, of a point with at least this quality. None: no point has it."""
    reached = curve.costs_usd[curve.qualities >= quality]
    return float(reached.min()) if len(reached) else None


def quality_for_cost(curve: CostCurve, cost_usd: float) -> float | None:
    """The greatest quality of a point that costs at most this. None: every point costs more."""
    reached = curve.qualities[curve.costs_usd <= cost_usd]
    return float(reached.max()) if len(reached) else None


def _mean(values: Floats) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
