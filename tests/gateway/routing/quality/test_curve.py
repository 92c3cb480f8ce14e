"""Curves of quality, against values that are known otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.quality.curve import (
    apgr,
    cost_curve,
    cost_for_quality,
    cpt,
    deferral_curve,
    quality_for_cost,
)


def test_random_choice_recovers_half_of_the_gap() -> None:
    random = np.random.default_rng(0)
    strong, weak = (random.random(50_000) < share for share in (0.8, 0.6))

    curve = deferral_curve(strong.astype(float), weak.astype(float), random.random(50_000))

    assert apgr(curve, strong.mean(), weak.mean()) == pytest.approx(0.5, abs=0.02)
    assert cpt(curve, strong.mean(), weak.mean(), 0.5) == pytest.approx(0.5, abs=0.03)


def test_an_oracle_recovers_more_than_all() -> None:
    strong, weak = np.array([1.0, 1, 1, 0, 1]), np.array([1.0, 0, 0, 1, 1])

    curve = deferral_curve(strong, weak, strong - weak)

    assert (curve.shares[0], curve.shares[-1]) == (0, 1)
    assert apgr(curve, strong.mean(), weak.mean()) > 1
    assert cpt(curve, strong.mean(), weak.mean(), 1.0) <= 0.4
    assert cpt(curve, strong.mean(), weak.mean(), 0.0) == 0


def test_equal_preferences_go_to_the_strong_model_together() -> None:
    curve = deferral_curve(np.ones(4), np.zeros(4), np.zeros(4))

    assert sorted(set(curve.shares)) == [0, 1]


def test_a_perfect_estimate_pays_for_the_strong_model_only_where_it_helps() -> None:
    scores = np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])  # cheap, dear
    costs = np.tile([0.001, 0.010], (4, 1))

    curve = cost_curve(scores, costs, scores, costs)

    assert curve.qualities[0] == 0.5
    assert curve.costs_usd[0] == pytest.approx(0.001)
    assert cost_for_quality(curve, 0.75) == pytest.approx((3 * 0.001 + 0.010) / 4)
    assert cost_for_quality(curve, 0.76) is None
    assert quality_for_cost(curve, 0.002) == 0.5
    assert quality_for_cost(curve, 0.010) == 0.75
    assert quality_for_cost(curve, 0.0001) is None


def test_what_is_unknown_counts_for_nothing() -> None:
    scores = np.array([[np.nan, 0.0], [1.0, 0.0]])
    costs = np.array([[np.nan, 2.0], [1.0, 2.0]])
    estimates = np.array([[0.9, 0.1], [0.9, 0.1]])

    curve = cost_curve(scores, costs, estimates, np.array([[1.0, 2.0], [1.0, 2.0]]))

    assert curve.qualities[-1] == 1
    assert curve.costs_usd[-1] == 1


def test_models_of_one_cost_have_one_point() -> None:
    curve = cost_curve(np.eye(2), np.ones((2, 2)), np.eye(2), np.ones((2, 2)))

    assert curve.prices.tolist() == [0]
    assert curve.qualities.tolist() == [1]


@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 5))
def test_a_dearer_dollar_never_costs_more(seed: int, prompts: int, models: int) -> None:
    """Where costs are what was expected; and where estimates are right, quality falls with it."""
    random = np.random.default_rng(seed)
    scores, costs = random.random((prompts, models)), random.random((prompts, models))

    curve = cost_curve(scores, costs, scores, costs)

    assert (np.diff(curve.costs_usd) >= -1e-12).all()
    assert (np.diff(curve.qualities) >= -1e-12).all()
    assert curve.qualities[-1] == pytest.approx(scores.max(1).mean())
