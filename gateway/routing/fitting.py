"""Labelled prompts → a head, calibrated on held-out folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gateway.routing.head import Floats, Head, scope_scores, softmax
from gateway.routing.labelled import OUT_OF_SCOPE, BadLabels, Labelled
from gateway.routing.scoring import auroc, expected_calibration_error, reliability

Indices = NDArray[np.int64]

_FOLDS = 5
_STRENGTH = 10.0  # scikit-learn's C: the inverse of the regularisation
_REFUSED_SHARE = 0.05  # of what is in scope, where nothing is known of what is not


def fit(
    own: Sequence[Labelled],
    rows: Floats,
    library: Sequence[Labelled],
    library_rows: Floats,
    *,
    expected_out_of_scope: float = 0.15,
) -> Head:
    """A multinomial logistic regression (scikit-learn's), every task weighted alike.

    rows, library_rows: float32[n, dim], the prompts' unit embeddings. The library's prompts are
    learned from, and never measured on. expected_out_of_scope: the share of requests that are;
    the threshold is the one that makes the fewest mistakes then, on held-out folds.
    Raises BadLabels for fewer than two tasks, or a task with too few prompts for the folds.
    """
    labels = np.array([one.task for one in own])
    tasks = tuple(sorted(set(labels)))
    _check(labels, tasks)
    all_rows = np.concatenate([rows, library_rows]) if len(library) else rows
    all_labels = np.concatenate([labels, np.array([one.task for one in library])])
    truth = np.array([tasks.index(label) for label in labels])

    held_out = np.empty((len(own), len(tasks)), np.float32)
    for fold in _folds(truth):
        is_learned = np.ones(len(all_rows), bool)
        is_learned[fold] = False
        weights, bias = _regression(all_rows[is_learned], all_labels[is_learned], tasks)
        held_out[fold] = rows[fold] @ weights.T + bias
    temperature = _temperature(held_out, truth)
    probabilities = softmax(held_out / temperature)
    threshold = _threshold(tasks, probabilities, truth, expected_out_of_scope)
    weights, bias = _regression(all_rows, all_labels, tasks)
    facts = {
        "prompts": dict(sorted(Counter(labels.tolist()).items())),
        "library_prompts": len(library),
        "temperature": temperature,
        "expected_out_of_scope": expected_out_of_scope,
        "held_out": measured(tasks, probabilities, truth, threshold),
    }
    scale = np.float32(1 / temperature)
    return Head(tasks, weights * scale, bias * scale, threshold, facts)


def measured(
    tasks: tuple[str, ...], probabilities: Floats, truth: Indices, threshold: float
) -> dict[str, Any]:
    """What decisions are worth. truth: [n], places in tasks.

    accuracy: of task, or out of scope. in_scope_accuracy, out_of_scope_recall: of each kind alone.
    auroc: of telling the two apart. ece: of the most probable task's probability, 15 bins.
    """
    beyond = scope_scores(tasks, probabilities)
    is_beyond = truth == _place(tasks)
    best = _inside(tasks, probabilities).argmax(1)
    is_right = np.where(is_beyond, beyond >= threshold, (beyond < threshold) & (best == truth))
    top = probabilities.argmax(1)
    bins = reliability(probabilities.max(1).astype(np.float64), top == truth)
    found: dict[str, Any] = {
        "count": len(truth),
        "accuracy": float(is_right.mean()),
        "ece": expected_calibration_error(bins),
    }
    if (~is_beyond).any():
        found["in_scope_accuracy"] = float(is_right[~is_beyond].mean())
    if is_beyond.any():
        found["out_of_scope_recall"] = float(is_right[is_beyond].mean())
    if is_beyond.any() and (~is_beyond).any():
        found["auroc"] = auroc(beyond.astype(np.float64), is_beyond)
    return found


def _check(labels: NDArray[Any], tasks: tuple[str, ...]) -> None:
    in_scope = [task for task in tasks if task != OUT_OF_SCOPE]
    if len(tasks) < 2 or not in_scope:
        raise BadLabels(f"a router tells at least two tasks apart, and here is {list(tasks)}")
    for task in tasks:
        count = int((labels == task).sum())
        if count < 2:
            raise BadLabels(f"task {task!r} has {count} prompt: two at least, better twenty")


def _folds(truth: Indices) -> list[Indices]:
    """Each prompt is in one fold; every task is spread over them evenly."""
    random = np.random.default_rng(0)
    fold_of = np.empty(len(truth), np.int64)
    for task in np.unique(truth):
        places = random.permutation(np.flatnonzero(truth == task))
        fold_of[places] = (np.arange(len(places)) + random.integers(_FOLDS)) % _FOLDS
    return [np.flatnonzero(fold_of == fold) for fold in range(_FOLDS) if (fold_of == fold).any()]


def _regression(
    rows: Floats, labels: NDArray[Any], tasks: tuple[str, ...]
) -> tuple[Floats, Floats]:
    """Returns float32[tasks, dim] and float32[tasks]."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=_STRENGTH, class_weight="balanced", max_iter=1000)
    model.fit(rows, labels)
    if len(tasks) == 2:  # one row of weights tells two tasks apart
        weights = np.concatenate([-model.coef_, model.coef_]) / 2
        bias = np.concatenate([-model.intercept_, model.intercept_]) / 2
    else:
        weights, bias = model.coef_, model.intercept_
    return np.asarray(weights, np.float32), np.asarray(bias, np.float32)


def _temperature(logits: Floats, truth: Indices) -> float:
    """What logits are divided by for the least negative log-likelihood, between 0.1 and 10."""
    found = np.exp(np.linspace(-np.log(10), np.log(10), 121))
    losses = [
        -np.log(softmax(logits / t)[np.arange(len(truth)), truth] + 1e-12).mean() for t in found
    ]
    return float(found[int(np.argmin(losses))])


def _threshold(
    tasks: tuple[str, ...], probabilities: Floats, truth: Indices, expected: float
) -> float:
    beyond = scope_scores(tasks, probabilities).astype(np.float64)
    is_beyond = truth == _place(tasks)
    if not is_beyond.any():
        edge = np.float32(np.quantile(beyond, 1 - _REFUSED_SHARE))
        return float(np.nextafter(edge, np.float32(2)))  # what is at the edge stays
    is_right = _inside(tasks, probabilities).argmax(1) == truth
    candidates = np.unique(np.quantile(beyond, np.linspace(0, 1, 1001)))
    worth = [
        (1 - expected) * (is_right & (beyond < t))[~is_beyond].mean()
        + expected * (beyond >= t)[is_beyond].mean()
        for t in candidates
    ]
    return float(candidates[int(np.argmax(worth))])


def _place(tasks: tuple[str, ...]) -> int:
    return tasks.index(OUT_OF_SCOPE) if OUT_OF_SCOPE in tasks else -1


def _inside(tasks: tuple[str, ...], probabilities: Floats) -> Floats:
    """Probabilities with those of `out_of_scope` below all others."""
    if OUT_OF_SCOPE not in tasks:
        return probabilities
    found = probabilities.copy()
    found[:, _place(tasks)] = -1
    return found
