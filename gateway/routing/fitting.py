"""Labelled prompts → two heads, calibrated on held-out folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gateway.routing.fitted import Fitted
from gateway.routing.head import Head
from gateway.routing.labelled import OUT_OF_SCOPE, BadLabels, Labelled
from gateway.routing.logits import energy, softmax
from gateway.routing.neighbours import Neighbours
from gateway.routing.scoring import auroc, measured, scope_aurocs
from gateway.routing.words import Floats, Words

if TYPE_CHECKING:  # only who fits needs it: 11 MB
    from scipy import sparse

Indices = NDArray[np.int64]

_FOLDS = 5
_MANY_TASKS = 50  # then each fold is long work, and three do
# Prompts of each task, on average, at which scikit-learn's C is 1; fewer are penalised less.
_PROMPTS_AT_C_1 = {"full": 1000, "static": 2000}
# What a step's regression sees is scaled by these: its embedding, the terms, and the shape.
_SCALES = {"full": (1.0, 1.0, 0.2), "static": (1.0, 0.7, 0.2)}
_REFUSED_SHARE = 0.03  # of what is in scope, where nothing is known of what is not
_CLEAR_STEPS = np.linspace(0.5, 0.99, 50)
_ERRORS = 2.0  # standard ones, that a difference may be by chance
_CLEAR_AT_LEAST = 0.85  # where nothing is known of what is out of scope
_NEARNESS_WEIGHTS = (0.0, 2.5, 5.0, 7.5, 10.0)
_NEVER = 2.0  # no probability is so high


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of n prompts.

    full: float32[n, dim]. static: float32[n, static dim]. terms: [n, terms], of `Words`. shapes:
    float32[n, 14].
    """

    full: Floats
    static: Floats
    terms: sparse.csr_array
    shapes: Floats

    def seen_by(self, step: str) -> sparse.csr_array:
        """What a step's regression sees."""
        from scipy import sparse

        parts = (self.full if step == "full" else self.static, self.terms, self.shapes)
        scaled = [
            sparse.csr_array(one) * scale for one, scale in zip(parts, _SCALES[step], strict=True)
        ]
        return sparse.hstack(scaled, format="csr")


@dataclass(frozen=True, slots=True)
class _Calibrated:
    """One step on the held-out folds. logits: [n, tasks], by temperature, `out_of_scope` in."""

    logits: Floats
    temperature: float
    strange: float  # the logit of `out_of_scope` where no prompt of it was there to learn from
    threshold: float
    chosen: Indices


@dataclass(frozen=True, slots=True)
class _Scope:
    """What nearness adds to the logit of `out_of_scope`. strangeness: [own], on held-out folds.

    aurocs: of each score that was weighed, on these folds.
    """

    strangeness: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    weight: float = 0.0
    neighbours: Neighbours | None = None
    aurocs: dict[str, float] = field(default_factory=dict)


def fit(
    own: Sequence[Labelled],
    library: Sequence[Labelled],
    known: Known,
    words: Words,
    *,
    expected_out_of_scope: float = 0.05,
    static_accuracy: float = 0.985,
) -> Fitted:
    """Multinomial logistic regressions (scikit-learn's), every task weighted alike.

    known: of own, then of library. The library's prompts are learned from, and never measured on.
    expected_out_of_scope: the share of requests that are; the threshold is the one that makes the
    fewest mistakes then. static_accuracy: asked of what the static step decides. Where no prompt is
    labelled `out_of_scope`, one is so whose energy is below that of all but three in a hundred.
    Raises BadLabels for fewer than two tasks, or a task with too few prompts for the folds.
    """
    labels = np.array([one.task for one in (*own, *library)])
    learned = tuple(sorted({one.task for one in own}))
    _check(labels[: len(own)], learned)
    tasks = tuple(sorted({*learned, OUT_OF_SCOPE}))
    truth = np.array([tasks.index(label) for label in labels[: len(own)]])
    folds = _folds(truth, 3 if len(tasks) > _MANY_TASKS else _FOLDS)
    steps: dict[str, _Calibrated] = {}
    heads: dict[str, Head] = {}
    scope_told: dict[str, float] = {}
    for name in ("static", "full"):
        rows = known.seen_by(name)
        held_out = np.empty((len(own), len(learned)), np.float32)
        for fold in folds:
            is_learned = np.ones(len(labels), bool)
            is_learned[fold] = False
            weights, bias = _regression(rows[is_learned], labels[is_learned], learned, name)
            held_out[fold] = rows[fold] @ weights.T + bias
        found = _Scope()
        if name == "full" and OUT_OF_SCOPE in learned:
            found = _scope(held_out, learned, known.full, labels, folds)
            held_out[:, learned.index(OUT_OF_SCOPE)] += found.weight * found.strangeness
            scope_told = found.aurocs
        step = steps[name] = _calibrated(held_out, learned, tasks, truth, expected_out_of_scope)
        head = _head(*_regression(rows, labels, learned, name), tasks, learned, step, known, name)
        weight = found.weight / step.temperature
        heads[name] = replace(head, neighbours=found.neighbours, weight=weight)
    knows_beyond = OUT_OF_SCOPE in learned
    sure = _sureness(steps["static"], None if knows_beyond else tasks.index(OUT_OF_SCOPE))
    clear = _clear(steps["static"], steps["full"], truth, sure, static_accuracy)
    if not knows_beyond:
        clear = max(clear, _CLEAR_AT_LEAST)
    facts = {
        "prompts": dict(sorted(Counter(labels[: len(own)].tolist()).items())),
        "library_prompts": len(library),
        "expected_out_of_scope": expected_out_of_scope,
        "static_accuracy": static_accuracy,
        "scope_aurocs": scope_told,
        **_held_out(steps, tasks, truth, sure >= clear, clear),
    }
    return Fitted(tasks, words, heads["static"], heads["full"], clear, knows_beyond, facts)


def _scope(
    held_out: Floats,
    learned: tuple[str, ...],
    rows: Floats,
    labels: NDArray[Any],
    folds: Sequence[Indices],
) -> _Scope:
    """The weight of nearness that tells best what is out of scope.

    held_out: logits, [own, learned].
    """
    is_beyond = labels == OUT_OF_SCOPE
    strangeness = np.empty(len(held_out), np.float32)
    for fold in folds:
        is_learned = np.ones(len(labels), bool)
        is_learned[fold] = False
        near = Neighbours.of(rows[is_learned], is_beyond[is_learned])
        strangeness[fold] = near.strangeness(rows[fold])
    place, truth = learned.index(OUT_OF_SCOPE), is_beyond[: len(held_out)]
    aurocs = scope_aurocs(place, held_out, truth)
    aurocs["nearest prompts"] = auroc(strangeness.astype(np.float64), truth)
    lead = held_out[:, place] - energy(np.delete(held_out, place, axis=1))
    found = {
        weight: auroc((lead + weight * strangeness).astype(np.float64), truth)
        for weight in _NEARNESS_WEIGHTS
    }
    weight = max(found, key=lambda one: (found[one], -one))
    aurocs["probability and nearest prompts"] = found[weight]
    return _Scope(strangeness, weight, Neighbours.of(rows, is_beyond), aurocs)


def _check(labels: NDArray[Any], tasks: tuple[str, ...]) -> None:
    in_scope = [task for task in tasks if task != OUT_OF_SCOPE]
    if len(tasks) < 2 or not in_scope:
        raise BadLabels(f"a router tells at least two tasks apart, and here is {list(tasks)}")
    for task in tasks:
        count = int((labels == task).sum())
        if count < 2:
            raise BadLabels(f"task {task!r} has {count} prompt: two at least, better twenty")


def _folds(truth: Indices, count: int) -> list[Indices]:
    """Each prompt is in one fold; every task is spread over them evenly."""
    random = np.random.default_rng(0)
    fold_of = np.empty(len(truth), np.int64)
    for task in np.unique(truth):
        places = random.permutation(np.flatnonzero(truth == task))
        fold_of[places] = (np.arange(len(places)) + random.integers(count)) % count
    return [np.flatnonzero(fold_of == fold) for fold in range(count) if (fold_of == fold).any()]


def _regression(
    rows: sparse.csr_array, labels: NDArray[Any], tasks: tuple[str, ...], step: str
) -> tuple[Floats, Floats]:
    """Returns float32[tasks, columns] and float32[tasks]."""
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression

    strength = float(np.clip(_PROMPTS_AT_C_1[step] * len(tasks) / len(labels), 0.3, 30))
    model = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000, tol=1e-3)
    model.fit(sparse.csr_matrix(rows), labels)
    if len(tasks) == 2:  # one row of weights tells two tasks apart
        weights = np.concatenate([-model.coef_, model.coef_]) / 2
        bias = np.concatenate([-model.intercept_, model.intercept_]) / 2
    else:
        weights, bias = model.coef_, model.intercept_
    return np.asarray(weights, np.float32), np.asarray(bias, np.float32)


def _head(
    weights: Floats,
    bias: Floats,
    tasks: tuple[str, ...],
    learned: tuple[str, ...],
    step: _Calibrated,
    known: Known,
    name: str,
) -> Head:
    """The regression's columns told apart, with a row for `out_of_scope` if it had none."""
    cooled, cooled_bias = weights / step.temperature, bias / step.temperature
    if OUT_OF_SCOPE not in learned:
        place = tasks.index(OUT_OF_SCOPE)
        cooled = np.insert(cooled, place, 0, axis=0)
        cooled_bias = np.insert(cooled_bias, place, step.strange)
    width = (known.full if name == "full" else known.static).shape[1]
    ends = (width, width + known.terms.shape[1])
    parts = zip(np.split(cooled, ends, axis=1), _SCALES[name], strict=True)
    dense, terms, shape = (part * np.float32(scale) for part, scale in parts)
    heads = (_in_order(dense), _in_order(terms.T), _in_order(shape), _in_order(cooled_bias))
    return Head(tasks, *heads, step.threshold)


def _in_order(values: NDArray[Any]) -> Floats:
    return np.ascontiguousarray(values, np.float32)


def _calibrated(
    held_out: Floats,
    learned: tuple[str, ...],
    tasks: tuple[str, ...],
    truth: Indices,
    expected: float,
) -> _Calibrated:
    places = np.array([tasks.index(task) for task in learned])
    temperature = _temperature(held_out, np.searchsorted(places, truth))
    logits = held_out / np.float32(temperature)
    place = tasks.index(OUT_OF_SCOPE)
    strange = 0.0
    if OUT_OF_SCOPE not in learned:
        strange = float(np.quantile(energy(logits), _REFUSED_SHARE))
        logits = np.insert(logits, place, strange, axis=1)
    probabilities = softmax(logits)
    threshold = _threshold(probabilities, place, truth, expected)
    inside = probabilities.copy()
    inside[:, place] = -1
    chosen = np.where(probabilities[:, place] >= threshold, place, inside.argmax(1))
    return _Calibrated(logits, temperature, strange, threshold, chosen)


def _temperature(logits: Floats, truth: Indices) -> float:
    """What logits are divided by for the least negative log-likelihood, between 0.1 and 10."""
    found = np.exp(np.linspace(-np.log(10), np.log(10), 121))
    losses = [
        -np.log(softmax(logits / t)[np.arange(len(truth)), truth] + 1e-12).mean() for t in found
    ]
    return float(found[int(np.argmin(losses))])


def _threshold(probabilities: Floats, place: int, truth: Indices, expected: float) -> float:
    beyond = probabilities[:, place].astype(np.float64)
    is_beyond = truth == place
    if not is_beyond.any():
        return float(np.nextafter(np.float32(0.5), np.float32(1)))  # what is at the edge stays
    inside = probabilities.copy()
    inside[:, place] = -1
    is_right = inside.argmax(1) == truth
    candidates = np.unique(np.quantile(beyond, np.linspace(0, 1, 1001)))
    worth = [
        (1 - expected) * (is_right & (beyond < t))[~is_beyond].mean()
        + expected * (beyond >= t)[is_beyond].mean()
        for t in candidates
    ]
    return float(candidates[int(np.argmax(worth))])


def _sureness(step: _Calibrated, unknown: int | None) -> Floats:
    """The probability of what was chosen; 0 where that is unknown, a task without prompts."""
    found = softmax(step.logits)[np.arange(len(step.chosen)), step.chosen]
    return np.asarray(np.where(step.chosen == unknown, 0, found), np.float32)


def _clear(
    static: _Calibrated, full: _Calibrated, truth: Indices, sure: Floats, wanted: float
) -> float:
    """The least probability from which on the static step may decide.

    What it decides then is right as often as wanted, by Laplace's rule of succession, so that few
    prompts prove little; and the cascade is so as often as the full step alone, as far as these
    prompts can tell: but for two standard errors of the difference.
    """
    is_right, is_right_in_full = static.chosen == truth, full.chosen == truth
    for step in _CLEAR_STEPS:
        stands = sure >= step
        lost = np.where(stands, is_right_in_full.astype(float) - is_right, 0)
        is_as_right = lost.mean() <= _ERRORS * lost.std() / np.sqrt(len(lost))
        rate = (is_right[stands].sum() + 1) / (stands.sum() + 2)
        if is_as_right and rate >= wanted:
            return float(step)
    return _NEVER


def _held_out(
    steps: dict[str, _Calibrated],
    tasks: tuple[str, ...],
    truth: Indices,
    is_static: NDArray[np.bool_],
    clear: float,
) -> dict[str, Any]:
    static, full = steps["static"], steps["full"]
    chosen = np.where(is_static, static.chosen, full.chosen)
    probabilities = np.where(is_static[:, None], softmax(static.logits), softmax(full.logits))
    place = tasks.index(OUT_OF_SCOPE)
    found: dict[str, Any] = {
        "held_out": measured(place, probabilities, chosen, truth),
        "held_out_static": measured(place, softmax(static.logits), static.chosen, truth),
        "held_out_full": measured(place, softmax(full.logits), full.chosen, truth),
        "static_share": float(is_static.mean()),
        "clear": clear,
        "temperatures": {name: step.temperature for name, step in steps.items()},
    }
    return found
