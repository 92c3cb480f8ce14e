"""What each model's answer to a prompt will be worth, estimated from others' outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from gateway.routing.quality.outcomes import Outcomes
from gateway.routing.task_router import FullEncoder

Floats = NDArray[np.float64]
_RIDGE_STRENGTH = 3.0
_NEIGHBOURS = 40
_PRIOR_COUNT = 5  # prompts of the overall mean that a kind's mean counts with
_NEIGHBOUR_WIDTH = 0.05  # of the cosine distance at which a neighbour counts e times less


@dataclass(frozen=True, slots=True, eq=False)
class Estimates:
    """qualities, costs_usd: float64[prompts, models]; costs are NaN where none are known."""

    qualities: Floats
    costs_usd: Floats


Estimator = Callable[[Outcomes, Outcomes, FullEncoder], Estimates]


def random_choice(learned: Outcomes, tested: Outcomes, embedding: FullEncoder) -> Estimates:
    """Knows nothing."""
    qualities = np.random.default_rng(0).random(tested.scores.shape)
    return Estimates(qualities, _mean_costs(learned, len(qualities)))


def ridge(learned: Outcomes, tested: Outcomes, embedding: FullEncoder) -> Estimates:
    """scikit-learn's ridge regression over the embedding."""
    old, new = _rows(learned, embedding), _rows(tested, embedding)
    found = Ridge(_RIDGE_STRENGTH).fit(old, _filled(learned.scores)).predict(new)
    return Estimates(np.asarray(found), _mean_costs(learned, len(new)))


def neighbours(learned: Outcomes, tested: Outcomes, embedding: FullEncoder) -> Estimates:
    """The mean score of the nearest prompts, nearer ones counting more."""
    cosines = _rows(tested, embedding) @ _rows(learned, embedding).T
    nearest = np.argpartition(-cosines, _NEIGHBOURS - 1, axis=1)[:, :_NEIGHBOURS]
    weights = np.exp((np.take_along_axis(cosines, nearest, 1) - 1) / _NEIGHBOUR_WIDTH)
    weights /= weights.sum(1, keepdims=True)
    found = (_filled(learned.scores)[nearest] * weights[:, :, None]).sum(1)
    return Estimates(np.asarray(found), _mean_costs(learned, len(found)))


def by_true_kind(kinds: Mapping[str, str]) -> Estimator:
    """Told what no router is told: each prompt's data set or subject. Each kind's mean scores."""

    def estimates(learned: Outcomes, tested: Outcomes, embedding: FullEncoder) -> Estimates:
        scores, overall = _filled(learned.scores), np.nanmean(learned.scores, 0)
        listed = np.array([kinds[prompt] for prompt in learned.prompts])
        means = {}
        for kind in set(listed.tolist()):
            own = scores[listed == kind]
            means[kind] = (own.sum(0) + _PRIOR_COUNT * overall) / (len(own) + _PRIOR_COUNT)
        found = np.array([means.get(kinds[prompt], overall) for prompt in tested.prompts])
        return Estimates(found, _mean_costs(learned, len(found)))

    return estimates


BASELINES: dict[str, Estimator] = {
    "random": random_choice,
    "ridge": ridge,
    f"{_NEIGHBOURS} nearest neighbours": neighbours,
}


def _rows(outcomes: Outcomes, embedding: FullEncoder) -> Floats:
    return np.asarray(embedding.encode(list(outcomes.prompts)), float)


def _filled(scores: Floats) -> Floats:
    """Unknown scores are the model's mean."""
    return np.where(np.isnan(scores), np.nanmean(scores, 0), scores)


def _mean_costs(learned: Outcomes, count: int) -> Floats:
    if np.isnan(learned.costs_usd).all():
        return np.full((count, len(learned.models)), np.nan)
    return np.tile(np.nanmean(learned.costs_usd, 0), (count, 1))
