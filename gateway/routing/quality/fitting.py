"""Outcomes → a model of quality, measured on held-out folds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gateway.routing.quality.costs import Costs
from gateway.routing.quality.evaluation import measured
from gateway.routing.quality.forest import Forest, guessed
from gateway.routing.quality.model import (
    Estimates,
    Learners,
    QualityModel,
    blended,
    distances,
    reduced,
)
from gateway.routing.quality.neighbours import Neighbours
from gateway.routing.quality.outcomes import BadOutcomes, Outcomes
from gateway.routing.quality.reading import GRAM_COUNT, LEAST_SPREAD, Reading

Floats = NDArray[np.float32]
Table = NDArray[np.float64]
Places = NDArray[np.int64]

_FEWEST_PROMPTS = 20
_FOLDS = 5
_AXES = 48
_FOREST_ALONE = 50  # prompts that would have it that the forest is all that counts
_LINEAR_STRENGTH = 30.0  # of the ridge
_LINEAR_OTHERS = 0.2  # how far a standard deviation of what is beside the embedding counts
_LEAF, _LEAF_ROWS = 0.15, (3, 12)  # a leaf's fewest rows: this by the root of all, between these
_TREES = {"max_features": 0.3, "random_state": 0, "n_jobs": 1}
_TREE_COUNT, _FOLD_TREE_COUNT = 200, 100


def fit_quality(outcomes: Outcomes, rows: Floats) -> QualityModel:
    """rows: float32[n, dim], the prompts' unit embeddings.

    Its facts have the figures of held-out folds; only the blend, six numbers, has seen these.
    Raises BadOutcomes where there are too few prompts.
    """
    if len(outcomes.prompts) < _FEWEST_PROMPTS:
        raise BadOutcomes(f"{len(outcomes.prompts)} prompts: {_FEWEST_PROMPTS} at least are needed")
    guesses, expected = _held_out(outcomes, rows)
    means = _means(outcomes.scores)
    blend = _blend(guesses, outcomes.scores, means)
    held_out = blended(guesses, means, blend)
    facts = {
        "prompts": len(outcomes.prompts),
        "held_out": measured(outcomes, Estimates(held_out, expected)),
    }
    reading = Reading.fit(outcomes.prompts)
    read = reading.read_all(outcomes.prompts, rows, is_seen=True)
    learners = _learners(read, rows.shape[1], outcomes.scores, _TREE_COUNT)
    costs = Costs.fit(read[:, rows.shape[1] :].astype(np.float64), outcomes.costs_usd)
    known = Estimates(means, costs.means)
    return QualityModel(outcomes.models, reading, learners, costs, known, blend, facts)


def _held_out(outcomes: Outcomes, rows: Floats) -> tuple[Table, Table]:
    """Guesses, float64[3, n, models], and expected costs of what has not seen the prompt."""
    guesses, costs = np.empty((3, *outcomes.scores.shape)), np.empty(outcomes.scores.shape)
    dim = rows.shape[1]
    for seen, unseen in _folds(len(outcomes.prompts)):
        part, rest = outcomes.only(seen), outcomes.only(unseen)
        reading = Reading.fit(part.prompts)
        read = reading.read_all(part.prompts, rows[seen], is_seen=True)
        new = reading.read_all(rest.prompts, rows[unseen])
        learners = _learners(read, dim, part.scores, _FOLD_TREE_COUNT)
        guesses[:, unseen] = learners.guesses(new, _means(part.scores))
        fitted = Costs.fit(read[:, dim:].astype(np.float64), part.costs_usd)
        costs[unseen] = fitted.expected(new[:, dim:].astype(np.float64))
    return guesses, costs


def _folds(count: int) -> list[tuple[Places, Places]]:
    from sklearn.model_selection import KFold

    return list(KFold(_FOLDS, shuffle=True, random_state=0).split(np.zeros(count)))


def _learners(read: Floats, dim: int, scores: Table, tree_count: int) -> Learners:
    """The forest learns from guesses that have not seen the prompt, either."""
    complete = guessed(scores)
    axes = _axes(read[:, :dim])
    short = reduced(read, axes)
    line, near = (np.empty(complete.shape, np.float32) for _ in range(2))
    for seen, unseen in _folds(len(read)):
        weights, bias = _linear(read[seen], dim, complete[seen])
        line[unseen] = read[unseen] @ weights + bias
        near[unseen] = _neighbours(short[seen], complete[seen], axes).guess(short[unseen])
    inputs = np.concatenate([short, line, near], 1)
    leaf = int(np.clip(_LEAF * np.sqrt(len(read)), *_LEAF_ROWS))
    forest = Forest.grow(inputs, scores, n_estimators=tree_count, min_samples_leaf=leaf, **_TREES)
    weights, bias = _linear(read, dim, complete)
    return Learners(axes, weights, bias, _neighbours(short, complete, axes), forest)


def _neighbours(short: Floats, scores: Table, axes: Floats) -> Neighbours:
    return Neighbours.fit(short, scores, axes.shape[1], GRAM_COUNT)


def _linear(read: Floats, dim: int, scores: Table) -> tuple[Floats, Floats]:
    """A ridge regression: float32[width, models] and float32[models]."""
    from sklearn.linear_model import Ridge

    spread = read.std(0)
    scale = np.where(spread > LEAST_SPREAD, _LINEAR_OTHERS / np.maximum(spread, LEAST_SPREAD), 0)
    scale[:dim] = 1
    ridge = Ridge(_LINEAR_STRENGTH).fit(read * scale, scores)
    weights = ridge.coef_.reshape(scores.shape[1], -1).T * scale[:, None]
    return weights.astype(np.float32), np.asarray(ridge.intercept_, np.float32).reshape(-1)


def _axes(rows: Floats) -> Floats:
    """float32[dim, axes], the directions in which the rows vary most."""
    _, _, directions = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    return np.ascontiguousarray(directions[:_AXES].T.astype(np.float32))


def _means(scores: Table) -> Table:
    """Of each model's known scores; of all models' where it has none."""
    known = ~np.isnan(scores)
    sums, counts = np.where(known, scores, 0).sum(0), known.sum(0)
    overall = sums.sum() / counts.sum()
    return np.asarray(np.where(counts > 0, sums / np.maximum(1, counts), overall))


def _blend(guesses: Table, scores: Table, means: Table) -> Table:
    """float64[3, 2], see blended: by least squares over what is known, none below 0.

    That the forest alone is right is assumed, as if some more prompts had shown it.
    """
    from scipy.optimize import nnls

    known = ~np.isnan(scores)
    common, apart = distances(guesses, means)
    told = np.concatenate([np.broadcast_to(common, guesses.shape)[:, known], apart[:, known]])
    spread = np.repeat(np.sqrt(np.mean(told[[0, 3]] ** 2, axis=1)), 3)
    prior = np.diag(np.sqrt(_FOREST_ALONE * scores.shape[1]) * spread + 1e-9)
    rows = np.concatenate([told.T, prior])
    aims = np.concatenate([(scores - means)[known], prior[0] + prior[3]])
    found, _ = nnls(rows, aims)
    return np.ascontiguousarray(found.reshape(2, 3).T)
