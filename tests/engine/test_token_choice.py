"""Choosing tokens: greedy, by temperature and by nucleus, each row by itself."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from model_pool.engine import Sampling
from model_pool.token_choice import Chooser, choose_tokens, log_probabilities

LOGITS = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))


def chooser(**sampling: float) -> Chooser:
    return Chooser.of(Sampling(max_output_token_count=1, **sampling))


def shares(drawing: Chooser, count: int = 10000) -> list[float]:
    drawn = Counter(
        token
        for _ in range(count // 100)
        for token in choose_tokens(LOGITS.expand(100, -1), [drawing] * 100)
    )
    return [drawn[token] / count for token in range(4)]


def test_temperature_zero_takes_the_likeliest() -> None:
    assert choose_tokens(torch.tensor([[0.0, 3.0], [2.0, 1.0]]), [chooser()] * 2) == [1, 0]


def test_drawn_tokens_follow_their_probabilities() -> None:
    assert shares(chooser(temperature=1.0, seed=1)) == pytest.approx(
        [0.5, 0.3, 0.15, 0.05], abs=0.02
    )
    squared = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    expected = (squared / squared.sum()).tolist()
    assert shares(chooser(temperature=0.5, seed=1)) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [(1e-9, [1, 0, 0, 0]), (0.5, [1, 0, 0, 0]), (0.6, [0.625, 0.375, 0, 0])],
)
def test_a_nucleus_holds_the_fewest_tokens_that_reach_top_p(top_p, expected) -> None:
    drawn = shares(chooser(temperature=1.0, top_p=top_p, seed=2))

    assert drawn == pytest.approx(expected, abs=0.02)


def test_a_row_draws_the_same_whatever_its_neighbours_do() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    kinds = [{"temperature": 1.3, "seed": 7}, {"temperature": 0.8, "top_p": 0.7, "seed": 8}, {}]
    alone = [choose_tokens(logits[i : i + 1], [chooser(**kind)])[0] for i, kind in enumerate(kinds)]

    assert choose_tokens(logits, [chooser(**kind) for kind in kinds]) == alone


def test_log_probabilities_are_the_models_own_and_only_where_wanted() -> None:
    shifted = LOGITS.expand(3, -1) + 5
    found = log_probabilities(shifted, [0, 3, 1], [True, False, True])

    assert found[1] is None
    assert [math.exp(found[0]), math.exp(found[2])] == pytest.approx([0.5, 0.3])
    assert log_probabilities(shifted, [0, 3, 1], [False] * 3) == [None] * 3


def test_logits_that_are_not_finite_are_refused() -> None:
    with pytest.raises(FloatingPointError):
        choose_tokens(torch.tensor([[0.0, float("nan")]]), [chooser()])
