"""Measures of routing, against values that are known otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from gateway.routing.scoring import (
    auroc,
    expected_calibration_error,
    reliability,
)


@pytest.mark.parametrize("levels", [3, 1000])
def test_auroc_is_scikit_learn_s(levels: int) -> None:
    random = np.random.default_rng(levels)
    scores = random.integers(levels, size=500).astype(float)
    is_positive = random.random(500) < 0.3

    assert auroc(scores, is_positive) == pytest.approx(roc_auc_score(is_positive, scores))


def test_auroc_needs_both_kinds() -> None:
    with pytest.raises(ValueError, match="positives and negatives"):
        auroc(np.array([0.1, 0.2]), np.array([True, True]))


def test_calibrated_answers_have_no_error() -> None:
    confidences = np.repeat([0.25, 0.75], 400)
    is_right = np.concatenate([np.arange(400) % 4 == 0, np.arange(400) % 4 != 0])

    bins = reliability(confidences, is_right)

    assert [(one.count, one.accuracy) for one in bins] == [(400, 0.25), (400, 0.75)]
    assert expected_calibration_error(bins) == pytest.approx(0)
    shifted = reliability(confidences + 0.1, is_right)
    assert expected_calibration_error(shifted) == pytest.approx(0.1)


def test_certain_answers_are_in_the_last_bin() -> None:
    (only,) = reliability(np.ones(3), np.array([True, True, False]))

    assert (only.high, only.count) == (1.0, 3)
    assert only.accuracy == pytest.approx(2 / 3)
