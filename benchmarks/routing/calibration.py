"""Scores of labels → probabilities and a threshold, found on held-out folds, for all baselines.

It is what our own fitting does, so that only what is compared differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.routing.answers import Answers
from gateway.routing.labelled import OUT_OF_SCOPE

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
EXPECTED_OUT_OF_SCOPE = 0.05  # of requests; the default of `deltafleet router fit`
_TEMPERATURES = np.exp(np.linspace(np.log(1e-3), np.log(1e2), 201))


@dataclass(frozen=True, slots=True)
class Calibration:
    """temperature: what scores are divided by before a softmax. threshold: of the probability of
    `out_of_scope`, at and above which a prompt is.
    """

    labels: tuple[str, ...]
    temperature: float
    threshold: float

    def answers(self, scores: Floats) -> Answers:
        """scores: float64[n, labels]."""
        return _answers(self.labels, softmax(scores / self.temperature), self.threshold)


def calibrate(labels: tuple[str, ...], scores: Floats, truth: Sequence[str]) -> Calibration:
    """scores: float64[n, labels], of prompts not learned from. truth: [n], their labels."""
    right = np.array([labels.index(one) for one in truth])
    temperature = _temperature(scores, right)
    found = _answers(labels, softmax(scores / temperature), 2.0)  # nothing is out of scope yet
    is_right = np.array(found.chosen) == np.array(truth)
    threshold, _ = best_threshold(found.beyond, np.array(truth) == OUT_OF_SCOPE, is_right)
    return Calibration(labels, temperature, threshold)


def best_threshold(beyond: Floats, is_beyond: Flags, is_right: Flags) -> tuple[float, float]:
    """The one with the fewest mistakes, were EXPECTED_OUT_OF_SCOPE of the prompts out of scope, and
    the accuracy that it then has.

    beyond: [n]. is_right: [n], of the task chosen where nothing is out of scope.
    """
    candidates = np.unique(np.quantile(beyond, np.linspace(0, 1, 1001)))
    worth = [
        (1 - EXPECTED_OUT_OF_SCOPE) * (is_right & (beyond < one))[~is_beyond].mean()
        + EXPECTED_OUT_OF_SCOPE * (beyond >= one)[is_beyond].mean()
        for one in candidates
    ]
    best = int(np.argmax(worth))
    return float(candidates[best]), float(worth[best])


def softmax(scores: Floats) -> Floats:
    """Along the last axis."""
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _answers(labels: tuple[str, ...], probabilities: Floats, threshold: float) -> Answers:
    place = labels.index(OUT_OF_SCOPE)
    inside = probabilities.copy()
    inside[:, place] = -1
    beyond = probabilities[:, place]
    chosen = np.where(beyond >= threshold, place, inside.argmax(1))
    return Answers(
        tuple(labels[i] for i in chosen),
        tuple(labels[i] for i in probabilities.argmax(1)),
        probabilities.max(1),
        beyond,
    )


def _temperature(scores: Floats, right: NDArray[np.int64]) -> float:
    """The one of least negative log-likelihood."""
    places = np.arange(len(right))
    losses = [-np.log(softmax(scores / t)[places, right] + 1e-12).mean() for t in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])
