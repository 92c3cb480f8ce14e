"""How good and how cheap the answers of a fleet are, by who chooses the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.routing.estimators import Estimates, Estimator, Floats
from benchmarks.routing.splits import grouped_folds
from benchmarks.timing import say
from gateway.routing.quality.curve import apgr, cost_curve, cost_for_quality, cpt, deferral_curve
from gateway.routing.quality.outcomes import Outcomes
from gateway.routing.task_router import FullEncoder

Places = NDArray[np.int64]
_FINE = 100  # thresholds of a drawn curve
_BOOTSTRAPS = 200


def measure(
    name: str,
    outcomes: Outcomes,
    estimators: Mapping[str, Estimator],
    embedding: FullEncoder,
    fold_count: int = 5,
) -> dict[str, Any]:
    """Figures of the models alone and of each estimator; every prompt is estimated once, by what
    has not seen it.
    """
    is_pair = len(outcomes.models) == 2
    found: dict[str, Any] = {"prompts": len(outcomes.prompts), "fleet": fleet(outcomes)}
    for title, estimator in estimators.items():
        began = time.perf_counter()
        estimates = _held_out(outcomes, estimator, embedding, fold_count)
        told = pair_figures if is_pair else fleet_figures
        found.setdefault("estimators", {})[title] = told(outcomes, estimates)
        taken = time.perf_counter() - began
        say(f"{name}, {title}: mean score {_last(found, title)['mean']:.4f}, {taken:.0f} s")
    return found


def fleet(outcomes: Outcomes) -> dict[str, Any]:
    """Without any routing. means, costs_usd: by model. oracle: the mean of each prompt's best."""
    means = np.nanmean(outcomes.scores, 0)
    found: dict[str, Any] = {
        "means": dict(zip(outcomes.models, means.tolist(), strict=True)),
        "best": outcomes.models[int(means.argmax())],
        "oracle": float(np.nanmax(outcomes.scores, 1).mean()),
    }
    if has_costs(outcomes):
        costs = np.nanmean(outcomes.costs_usd, 0)
        found["costs_usd"] = dict(zip(outcomes.models, costs.tolist(), strict=True))
    return found


def pair_figures(outcomes: Outcomes, estimates: Estimates) -> dict[str, Any]:
    """Of a strong and a weak model, as RouteLLM measures them. mean: where the estimate is best."""
    strong, weak = outcomes.scores.T
    preference = estimates.qualities[:, 0] - estimates.qualities[:, 1]
    curve = deferral_curve(strong, weak, preference)
    ends = (float(strong.mean()), float(weak.mean()))
    fine = deferral_curve(strong, weak, preference, _FINE)
    return {
        "mean": _mean_chosen(outcomes.scores, estimates.qualities),
        "apgr": apgr(curve, *ends),
        "apgr_error": _error(outcomes, lambda drawn: _apgr(outcomes.scores, preference, drawn)),
        "cpt50": cpt(curve, *ends, 0.5),
        "cpt80": cpt(curve, *ends, 0.8),
        "curve": [fine.shares.tolist(), fine.qualities.tolist()],
    }


def fleet_figures(outcomes: Outcomes, estimates: Estimates) -> dict[str, Any]:
    """mean: of the model estimated best. part: of the way from the best single model to the oracle.

    cost_part: the least mean cost with the best single model's mean score, in parts of its cost;
    None where that score is never reached, and where no costs are known.
    """
    alone = fleet(outcomes)
    best = alone["means"][alone["best"]]
    mean = _mean_chosen(outcomes.scores, estimates.qualities)
    found: dict[str, Any] = {"mean": mean, "part": (mean - best) / (alone["oracle"] - best)}
    found["part_error"] = _error(
        outcomes, lambda drawn: _part(outcomes.scores[drawn], estimates.qualities[drawn])
    )
    if has_costs(outcomes):
        curve = cost_curve(
            outcomes.scores, outcomes.costs_usd, estimates.qualities, estimates.costs_usd
        )
        least = cost_for_quality(curve, best)
        cost = alone["costs_usd"][alone["best"]]
        found["cost_part"] = None if least is None else least / cost
        found["curve"] = [curve.costs_usd.tolist(), curve.qualities.tolist()]
    return found


def _error(outcomes: Outcomes, figure: Callable[[Places], float]) -> float:
    """Standard error of a figure by bootstrap: prompts are drawn anew, estimates stay."""
    random = np.random.default_rng(0)
    count = len(outcomes.prompts)
    drawn = [figure(random.integers(count, size=count)) for _ in range(_BOOTSTRAPS)]
    return float(np.nanstd(drawn))


def _apgr(scores: Floats, preference: Floats, drawn: Places) -> float:
    """NaN where the drawn prompts do not tell the two models apart."""
    strong, weak = scores[drawn].T
    if strong.mean() == weak.mean():
        return float("nan")
    curve = deferral_curve(strong, weak, preference[drawn])
    return apgr(curve, float(strong.mean()), float(weak.mean()))


def _part(scores: Floats, qualities: Floats) -> float:
    best = float(np.nanmean(scores, 0).max())
    oracle = float(np.nanmax(scores, 1).mean())
    if oracle == best:  # too few prompts to say anything
        return float("nan")
    return (_mean_chosen(scores, qualities) - best) / (oracle - best)


def has_costs(outcomes: Outcomes) -> bool:
    """Whether any are known."""
    return not bool(np.isnan(outcomes.costs_usd).all())


def _held_out(
    outcomes: Outcomes, estimator: Estimator, embedding: FullEncoder, fold_count: int
) -> Estimates:
    qualities, costs = (np.full(outcomes.scores.shape, np.nan) for _ in range(2))
    for split in grouped_folds(outcomes.prompts, fold_count):
        learned, tested = outcomes.only(split.learned), outcomes.only(split.tested)
        found = estimator(learned, tested, embedding)
        qualities[split.tested], costs[split.tested] = found.qualities, found.costs_usd
    return Estimates(qualities, costs)


def _mean_chosen(scores: Floats, qualities: Floats) -> float:
    """A score that is unknown counts for nothing."""
    return float(np.nanmean(scores[np.arange(len(scores)), qualities.argmax(1)]))


def _last(found: Mapping[str, Any], title: str) -> Any:
    return found["estimators"][title]
