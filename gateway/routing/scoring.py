"""How good decisions are. Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
