"""Figures of answers, and the calibration that all baselines share."""

import numpy as np
import pytest

from benchmarks.routing.answers import Answered, Answers, figures, recalls
from benchmarks.routing.calibration import EXPECTED_OUT_OF_SCOPE, best_threshold, calibrate

FOUR = Answered(
    ("sql", "math", "out_of_scope", "out_of_scope"),
    Answers(
        ("sql", "sql", "out_of_scope", "math"),
        ("sql", "sql", "out_of_scope", "math"),
        np.array([0.9, 0.6, 0.8, 0.5]),
        np.array([0.1, 0.2, 0.8, 0.15]),
    ),
)


def test_figures_of_four_prompts():
    found = figures([FOUR])

    assert found["count"] == 4
    assert found["accuracy"] == 0.5
    assert found["in_scope_accuracy"] == 0.5
    assert found["out_of_scope_recall"] == 0.5
    assert found["auroc"] == 0.75
    assert found["ece"] == pytest.approx((0.1 + 0.6 + 0.2 + 0.5) / 4)


def test_kinds_are_told_apart():
    assert recalls([FOUR], ["es", "es", "es", "de"]) == {"de": (1, 0.0), "es": (3, 2 / 3)}


def test_what_was_not_tested_has_no_figure():
    in_scope = Answers(("sql",), ("sql",), np.array([0.9]), np.array([0.1]))

    found = figures([Answered(("sql",), in_scope)])

    assert "out_of_scope_recall" not in found
    assert "auroc" not in found


def test_the_threshold_weighs_mistakes_by_how_often_they_are_expected():
    beyond = np.array([0.1, 0.4, 0.3, 0.9])
    is_beyond = np.array([False, False, True, True])

    threshold, worth = best_threshold(beyond, is_beyond, is_right=~is_beyond)

    assert 0.4 < threshold <= 0.9  # few are out of scope: rather miss one than refuse another
    few = EXPECTED_OUT_OF_SCOPE
    assert worth == pytest.approx((1 - few) + few / 2)


def test_calibrated_baselines_refuse_what_looks_out_of_scope():
    labels = ("math", "out_of_scope", "sql")
    scores = np.array([[0.9, 0.1, 0.2], [0.8, 0.3, 0.1], [0.2, 0.9, 0.3], [0.1, 0.2, 0.9]])

    found = calibrate(labels, scores, ("math", "math", "out_of_scope", "sql")).answers(scores)

    assert found.chosen == ("math", "math", "out_of_scope", "sql")
    assert found.best == found.chosen
