"""Measures of routing by estimates, on outcomes small enough to work out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from gateway.routing.quality.evaluation import drawn, measured
from gateway.routing.quality.model import Estimates
from gateway.routing.quality.outcomes import Outcomes

PROMPTS = ("a", "b", "c", "d")
SCORES = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, np.nan], [1.0, 1.0]])  # dear, cheap
COSTS = np.tile([4.0, 1.0], (4, 1))
QUALITY = np.array([[0.9, 0.1], [0.2, 0.8], [0.9, 0.1], [0.9, 0.8]])


def outcomes(scores: np.ndarray = SCORES, costs: np.ndarray = COSTS) -> Outcomes:
    names = ("dear", "cheap", "other")[: scores.shape[1]]
    return Outcomes(PROMPTS[: len(scores)], names, scores, costs)


def test_what_routing_is_worth() -> None:
    found = measured(outcomes(), Estimates(QUALITY, COSTS))

    assert found["routed"] == 1
    assert found["best_single"] == 0.75
    assert found["best_single_model"] == "dear"
    assert found["oracle"] == 1
    assert found["part_of_oracle"] == 1
    # b and d go to the cheap one, which is as good at d: no cheaper choice is right as often
    assert found["cost_at_best_quality"] == pytest.approx((4 + 1 + 4 + 1) / 4 / 4)


def test_two_models_are_measured_as_routellm_measures_them() -> None:
    scores = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    preferring = np.array([[0.9, 0.1], [0.9, 0.8], [0.9, 0.2], [0.9, 0.9]])

    right = measured(outcomes(scores), Estimates(preferring, COSTS))
    wrong = measured(outcomes(scores), Estimates(preferring[::-1], COSTS))

    assert right["apgr"] == pytest.approx(0.75)
    assert right["cpt50"] == pytest.approx(0.25)
    assert right["cpt80"] == pytest.approx(0.4)
    assert right["apgr"] > wrong["apgr"]
    calls = drawn(outcomes(scores), Estimates(preferring, COSTS))["calls"]
    assert (calls[0], calls[-1]) == (
        {"share": 0, "quality": 0.5},
        {"share": 1, "quality": 1},
    )


def test_estimates_that_are_right_on_average_are_calibrated() -> None:
    """In the bins that they fall in: 0.5 for what is right half of the time, and 0.1 for 0.3."""
    scores = np.array([[1.0, 0.3], [0.0, 0.3], [1.0, np.nan], [0.0, 0.3]])
    quality = np.tile([0.5, 0.1], (4, 1))

    found = measured(outcomes(scores), Estimates(quality, COSTS))

    assert found["ece"] == pytest.approx(0.2 * 3 / 7)


def test_without_costs_there_is_no_cost() -> None:
    costs = COSTS.copy()
    costs[:, 0] = np.nan

    found = measured(outcomes(costs=costs), Estimates(QUALITY, COSTS))
    curves = drawn(outcomes(costs=costs), Estimates(QUALITY, COSTS))

    assert found["cost_at_best_quality"] is None
    assert curves["costs"] == []
    assert curves["single"]["dear"]["cost_usd"] is None
    assert curves["single"]["cheap"] == {"quality": pytest.approx(2 / 3), "cost_usd": 1}


def test_what_is_drawn_ends_at_the_best_estimate() -> None:
    curves = drawn(outcomes(), Estimates(QUALITY, COSTS))

    assert curves["costs"][0]["cost_usd"] == 1
    assert curves["costs"][-1]["quality"] == 1
    assert curves["calls"] == []  # neither is the stronger on what both answered


def test_models_that_nothing_chosen_is_known_of() -> None:
    scores = np.array([[np.nan, 0.5]])
    quality = np.array([[0.9, 0.1]])

    found = measured(outcomes(scores, COSTS[:1]), Estimates(quality, COSTS[:1]))

    assert found["routed"] is None
    assert found["part_of_oracle"] is None
    assert "apgr" not in found


def test_three_models_have_no_calls() -> None:
    scores = np.hstack([SCORES, np.zeros((4, 1))])
    costs = np.ones((4, 3))
    estimates = Estimates(np.nan_to_num(scores), costs)

    assert drawn(outcomes(scores, costs), estimates)["calls"] == []
    assert "apgr" not in measured(outcomes(scores, costs), estimates)
