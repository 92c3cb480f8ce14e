"""What is promised of every choice."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.quality.choice import Option, choose

QUALITIES = st.floats(0, 1)
COSTS = st.integers(0, 5)  # few, so that many are equal
OPTIONS = st.lists(st.tuples(QUALITIES, COSTS), max_size=6).map(
    lambda drawn: [Option(f"m{i}", quality, cost) for i, (quality, cost) in enumerate(drawn)]
)
LIMITS = st.none() | COSTS


def no_limit(limit: int | None) -> float:
    return float("inf") if limit is None else limit


@given(OPTIONS, QUALITIES, LIMITS)
def test_the_cheapest_that_is_good_enough_else_the_best(
    options: list[Option], quality: float, limit: int | None
) -> None:
    chosen = choose(options, min_quality=quality, max_cost_nano_usd=limit)

    affordable = [one for one in options if one.cost_nano_usd <= no_limit(limit)]
    able = [one for one in affordable if one.quality >= quality]
    assert (chosen is None) == (not affordable)
    if chosen and able:
        assert chosen.cost_nano_usd == min(one.cost_nano_usd for one in able)
    elif chosen:
        assert chosen.quality == max(one.quality for one in affordable)


@given(OPTIONS, QUALITIES, QUALITIES, LIMITS)
def test_asking_for_more_quality_never_gives_less(
    options: list[Option], one: float, other: float, limit: int | None
) -> None:
    low, high = sorted((one, other))
    lower = choose(options, min_quality=low, max_cost_nano_usd=limit)
    higher = choose(options, min_quality=high, max_cost_nano_usd=limit)

    assert (lower is None) == (higher is None)
    if lower and higher:
        assert higher.quality >= lower.quality


@given(OPTIONS, QUALITIES, LIMITS, LIMITS)
def test_allowing_more_cost_never_gives_less_quality_asked_for(
    options: list[Option], quality: float, one: int | None, other: int | None
) -> None:
    """Less than asked for, that is: what is good enough may be replaced by nothing dearer."""
    low, high = sorted((one, other), key=no_limit)
    tighter = choose(options, min_quality=quality, max_cost_nano_usd=low)
    looser = choose(options, min_quality=quality, max_cost_nano_usd=high)

    if tighter:
        assert looser
        assert looser.quality >= tighter.quality


@given(OPTIONS, QUALITIES, LIMITS, st.randoms(use_true_random=False))
def test_the_order_of_the_options_does_not_show(
    options: list[Option], quality: float, limit: int | None, shuffler: random.Random
) -> None:
    shuffled = list(options)
    shuffler.shuffle(shuffled)

    first, second = (
        choose(one, min_quality=quality, max_cost_nano_usd=limit) for one in (options, shuffled)
    )
    assert first == second


@given(OPTIONS, QUALITIES, LIMITS, COSTS)
def test_a_model_of_no_known_quality_makes_nothing_dearer(
    options: list[Option], quality: float, limit: int | None, cost: int
) -> None:
    before = choose(options, min_quality=quality, max_cost_nano_usd=limit)
    newcomer = Option("new", 0.0, cost)
    after = choose([*options, newcomer], min_quality=quality, max_cost_nano_usd=limit)

    if before and after:
        assert after.cost_nano_usd <= before.cost_nano_usd


@given(OPTIONS, QUALITIES, LIMITS, QUALITIES, COSTS)
def test_an_option_that_is_not_chosen_changes_nothing(
    options: list[Option], quality: float, limit: int | None, its_quality: float, its_cost: int
) -> None:
    newcomer = Option("new", its_quality, its_cost)

    after = choose([*options, newcomer], min_quality=quality, max_cost_nano_usd=limit)

    if after != newcomer:
        assert after == choose(options, min_quality=quality, max_cost_nano_usd=limit)
