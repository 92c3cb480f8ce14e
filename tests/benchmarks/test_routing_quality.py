"""What routed answers are worth, on fleets small enough to tell by hand."""

import numpy as np
import pytest

from benchmarks.routing.estimators import BASELINES, Estimates
from benchmarks.routing.quality import fleet, fleet_figures, measure, pair_figures
from gateway.routing.quality.outcomes import Outcomes

NAN = float("nan")
SCORES = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
COSTS = np.array([[0.1, 0.01]] * 4)
FOUR = Outcomes(("a", "b", "c", "d"), ("big", "small"), SCORES, COSTS)


def test_an_oracle_goes_all_the_way_for_less():
    found = fleet_figures(FOUR, Estimates(SCORES.copy(), COSTS))

    assert found["mean"] == 1.0
    assert found["part"] == 1.0
    assert found["cost_part"] < 1


def test_the_best_single_model_goes_none_of_the_way_at_its_own_cost():
    always = np.array([[0.75, 0.5]] * 4)

    found = fleet_figures(FOUR, Estimates(always, COSTS))

    assert found["mean"] == 0.75
    assert found["part"] == 0
    assert found["cost_part"] == pytest.approx(1.0)


def test_a_fleet_that_never_is_as_good_has_no_cost_at_equal_quality():
    wrong = 1 - SCORES

    assert fleet_figures(FOUR, Estimates(wrong, COSTS))["cost_part"] is None


def test_unknown_scores_count_for_nothing():
    scores = SCORES.copy()
    scores[0, 0] = NAN
    outcomes = Outcomes(FOUR.prompts, FOUR.models, scores, np.full_like(COSTS, NAN))

    assert fleet(outcomes)["means"] == {"big": pytest.approx(2 / 3), "small": 0.5}
    assert "cost_part" not in fleet_figures(outcomes, Estimates(SCORES, COSTS))


def test_a_pair_that_is_told_apart_recovers_more_than_one_that_is_not():
    knowing = pair_figures(FOUR, Estimates(SCORES.copy(), COSTS))
    mistaken = pair_figures(FOUR, Estimates(1 - SCORES, COSTS))

    assert knowing["apgr"] > 0.5 > mistaken["apgr"]
    assert knowing["cpt80"] < mistaken["cpt80"]


class Bits:
    """Rows that tell prompts apart by their first letter."""

    def encode(self, texts: list[str]) -> np.ndarray:
        """See Embedding."""
        return np.array([[1.0, 0.0] if text[0] == "x" else [0.0, 1.0] for text in texts])


def test_estimates_are_of_prompts_that_were_not_learned_from():
    prompts = tuple(f"{'xy'[i % 2]} {i}" for i in range(200))
    scores = np.array([[i % 2, 1 - i % 2, 0] for i in range(200)], float)
    outcomes = Outcomes(prompts, ("odd", "even", "none"), scores, np.full((200, 3), NAN))
    estimators = {name: BASELINES[name] for name in ("ridge", "40 nearest neighbours")}

    found = measure("letters", outcomes, estimators, Bits(), 4)["estimators"]

    assert found["ridge"]["mean"] == 1.0  # the letter tells all
    assert found["40 nearest neighbours"]["mean"] == 1.0
