"""How good decisions are. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gateway.routing.logits import energy, softmax

if TYPE_CHECKING:  # which imports numba; some only measure
    from gateway.routing.head import Decision

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


def auroc(scores: Floats, is_positive: Flags) -> float:
    """Probability that a positive's score is above a negative's, ties counted half.

    scores: [n]. is_positive: [n]. Raises ValueError unless there are both.
    """
    positive, negative = int(is_positive.sum()), int((~is_positive).sum())
    if not positive or not negative:
        raise ValueError("AUROC needs positives and negatives")
    ranks = _ranks(scores)
    return float((ranks[is_positive].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _ranks(scores: Floats) -> Floats:
    """From 1; equal scores share the mean of their ranks."""
    order = np.argsort(scores, kind="stable")
    _, first, counts = np.unique(scores[order], return_index=True, return_counts=True)
    ranks = np.empty(len(scores))
    ranks[order] = np.repeat(first + (counts + 1) / 2, counts)
    return ranks


@dataclass(frozen=True, slots=True)
class Bin:
    """One bar of a reliability diagram. confidence, accuracy: means over its count."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(confidences: Floats, is_right: Flags, bin_count: int = 15) -> tuple[Bin, ...]:
    """Bins of equal width over [0, 1], empty ones left out (Guo et al. 2017, arXiv:1706.04599).

    confidences: [n], the probability given to the answer. is_right: [n].
    """
    places = np.clip((confidences * bin_count).astype(int), 0, bin_count - 1)
    found = []
    for place in np.unique(places):
        here = places == place
        found.append(
            Bin(
                place / bin_count,
                (place + 1) / bin_count,
                int(here.sum()),
                float(confidences[here].mean()),
                float(is_right[here].mean()),
            )
        )
    return tuple(found)


def expected_calibration_error(bins: tuple[Bin, ...]) -> float:
    """ECE: the mean distance between confidence and accuracy, by bin, weighted by count."""
    total = sum(one.count for one in bins)
    return sum(one.count * abs(one.confidence - one.accuracy) for one in bins) / max(1, total)


def measured(
    place: int,
    probabilities: NDArray[np.float32],
    chosen: NDArray[np.int64],
    truth: NDArray[np.int64],
) -> dict[str, Any]:
    """What decisions are worth.

    place: of `out_of_scope` among the tasks. probabilities: [n, tasks]. chosen, truth: [n], places
    of tasks. accuracy: of task, or out of scope. in_scope_accuracy, out_of_scope_recall: of each
    kind alone. auroc: of telling the two apart by the probability of `out_of_scope`. ece: of the
    most probable task's probability, 15 bins.
    """
    is_beyond, is_right = truth == place, chosen == truth
    beyond = probabilities[:, place].astype(np.float64)
    bins = reliability(probabilities.max(1).astype(np.float64), probabilities.argmax(1) == truth)
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
        found["auroc"] = auroc(beyond, is_beyond)
    return found


def scope_aurocs(place: int, logits: NDArray[np.float32], is_beyond: Flags) -> dict[str, float]:
    """How well each of several scores tells what is out of scope: AUROC.

    logits: [n, tasks]; place: of `out_of_scope`, which was learned; is_beyond: [n].
    """
    inside = np.delete(logits, place, axis=1)
    scores = {
        "probability": softmax(logits)[:, place],
        "one minus the greatest probability": 1 - softmax(inside).max(1),
        "greatest logit": -inside.max(1),
        "energy": -energy(inside),
    }
    return {name: auroc(one.astype(np.float64), is_beyond) for name, one in scores.items()}


def bins_of(decisions: Sequence[Decision], truth: Sequence[str]) -> tuple[Bin, ...]:
    """The reliability diagram of each decision's most probable task, `out_of_scope` among them."""
    likeliest = [one.tasks[int(one.probabilities.argmax())] for one in decisions]
    confidences = np.array([one.probabilities.max() for one in decisions], np.float64)
    is_right = [left == right for left, right in zip(likeliest, truth, strict=True)]
    return reliability(confidences, np.array(is_right, bool))
