"""What fits on a card: no tier overflows, nothing is lost, more memory never holds fewer."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_pool.capacity import (
    CARDS,
    GIB,
    PRESETS,
    Card,
    DeltaSizes,
    Limits,
    ModelShape,
    Plan,
    Tier,
    cache_bytes_per_token,
    plan,
    tensor_shapes,
    typical,
)

# Small numbers meet the edges more often than gigabytes would.
sizes = st.integers(1, 60)
cards = st.builds(Card, st.just("card"), st.integers(0, 400), *[st.just(1.0)] * 2, st.just(""))
models = st.builds(ModelShape, st.just("7b"), sizes, sizes, st.integers(1, 3))
fleets = st.lists(st.builds(DeltaSizes, st.just("sql"), sizes, sizes), max_size=12)
limits = st.builds(
    Limits,
    context_token_count=st.integers(1, 12),
    context_count=st.integers(1, 4),
    host_memory_bytes=st.integers(0, 200),
    share=st.floats(0.1, 1),
    overhead_bytes=st.integers(0, 20),
)

SEVEN_B = ModelShape("7b", 14_500_000_000, 14_500_000_000, 131_072)
LIMITS = Limits(context_token_count=4096)
ONEBIT = DeltaSizes("sql", 1_100_000_000, 1_000_000_000)


def in_memory(found: Plan) -> int:
    return len(found.held[Tier.CARD]) + len(found.held[Tier.HOST])


@given(cards, models, fleets, limits)
def test_no_tier_is_filled_beyond_its_budget(
    card: Card, model: ModelShape, deltas: list[DeltaSizes], limits: Limits
) -> None:
    found = plan(card, model, deltas, limits)

    assert found.host_used_bytes <= limits.host_memory_bytes
    for tier in (Tier.CARD, Tier.HOST):
        assert found.held_bytes(tier) <= found.rooms[tier]
    if found.fits:
        assert found.card_used_bytes == found.budget_bytes <= card.memory_bytes
        assert found.context_count >= 1
    else:
        assert found.budget_bytes + found.shortage_bytes == (
            model.weights_bytes
            + limits.overhead_bytes
            + limits.context_token_count * model.cache_bytes_per_token
        )


@given(cards, models, fleets, limits)
def test_every_delta_is_in_one_tier_and_the_most_recent_are_in_the_fastest(
    card: Card, model: ModelShape, deltas: list[DeltaSizes], limits: Limits
) -> None:
    held = plan(card, model, deltas, limits).held

    assert [delta for tier in Tier for delta in held[tier]] == deltas


@given(cards, models, fleets, limits)
def test_the_cache_has_its_contexts_before_anything_else_is_on_the_card(
    card: Card, model: ModelShape, deltas: list[DeltaSizes], limits: Limits
) -> None:
    found = plan(card, model, deltas, limits)

    if found.base_tier is Tier.CARD:
        assert found.context_count >= limits.context_count
    else:
        assert not found.held[Tier.CARD]
        assert found.base_tier is Tier.HOST or not found.held[Tier.HOST]


@given(cards, models, fleets, limits, st.integers(0, 100), st.integers(0, 100))
def test_more_memory_never_fits_fewer(
    card: Card,
    model: ModelShape,
    deltas: list[DeltaSizes],
    limits: Limits,
    more_card_bytes: int,
    more_host_bytes: int,
) -> None:
    small = plan(card, model, deltas, limits)
    larger_card = replace(card, memory_bytes=card.memory_bytes + more_card_bytes)
    roomier = replace(limits, host_memory_bytes=limits.host_memory_bytes + more_host_bytes)
    large = plan(larger_card, model, deltas, roomier)

    assert large.shortage_bytes <= small.shortage_bytes
    assert len(large.held[Tier.CARD]) >= len(small.held[Tier.CARD])
    assert in_memory(large) >= in_memory(small)


@given(cards, models, fleets, limits, st.sampled_from(Tier))
def test_a_switch_from_a_slower_tier_takes_no_less_time(
    card: Card, model: ModelShape, deltas: list[DeltaSizes], limits: Limits, tier: Tier
) -> None:
    found = plan(card, model, deltas, limits)
    delta = DeltaSizes("sql", 10, 9)
    times = [found.switch_s(tier, delta) for tier in Tier]

    assert times == sorted(times)
    assert found.switch_s(tier, None) < times[0]


def test_an_h100_keeps_base_and_deltas_and_an_a10_neither() -> None:
    h100 = plan(CARDS["h100"], SEVEN_B, [ONEBIT] * 100, LIMITS)
    a10 = plan(CARDS["a10"], SEVEN_B, [ONEBIT] * 100, LIMITS)

    assert h100.base_tier is Tier.CARD
    assert len(h100.held[Tier.CARD]) >= 20
    assert 0.01 < h100.switch_s(Tier.CARD, ONEBIT) < 0.03
    assert a10.base_tier is Tier.HOST
    assert a10.context_count > 8
    assert 0.5 < a10.switch_s(Tier.HOST, ONEBIT) < 1


def test_a_switch_is_bytes_over_bandwidth() -> None:
    found = plan(CARDS["h100"], SEVEN_B, [ONEBIT], replace(LIMITS, host_memory_bytes=0))
    moved_s = (14.5 + 14.5 + 1.1) / (0.8 * 3350)

    assert found.switch_s(Tier.CARD, ONEBIT) == pytest.approx(0.003 + moved_s)
    assert found.switch_s(Tier.HOST, ONEBIT) == pytest.approx(0.003 + moved_s + 1.1 / 50)
    assert found.switch_s(Tier.DISK, ONEBIT) == pytest.approx(
        0.003 + moved_s + 1.1 / 50 + 1.0 / 3 + 1.1 / 2
    )


def test_a_base_that_fits_nowhere_is_read_from_disk() -> None:
    found = plan(CARDS["a10"], SEVEN_B, [ONEBIT], replace(LIMITS, host_memory_bytes=8 * GIB))

    assert found.fits
    assert found.base_tier is Tier.DISK
    assert found.switch_s(Tier.DISK, None) > 14.5 / 3


def test_what_does_not_fit_says_by_how_much() -> None:
    model = replace(SEVEN_B, weights_bytes=30_000_000_000)
    found = plan(CARDS["a10"], model, [ONEBIT], LIMITS)

    assert not found.fits
    assert found.shortage_bytes == 30e9 + 1.5e9 + 4096 * 131_072 - found.budget_bytes


# As the models' own cards and papers give them.
PARAMETER_COUNTS = {
    "mistral-7b": 7_241_732_096,
    "llama-2-7b": 6_738_415_616,
    "qwen2.5-7b": 7_615_616_512,
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_its_models_parameters(name: str) -> None:
    total = sum(math.prod(shape) for _, shape in tensor_shapes(PRESETS[name]))
    assert total == PARAMETER_COUNTS[name]


def test_cache_bytes_per_token() -> None:
    assert cache_bytes_per_token(PRESETS["mistral-7b"], 2) == 131_072
    own = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64, "head_dim": 32}
    assert cache_bytes_per_token(own, 1) == 2 * 2 * 4 * 32
    with pytest.raises(KeyError, match="num_hidden_layers"):
        cache_bytes_per_token({"num_attention_heads": 4, "hidden_size": 64}, 2)


def test_the_typical_delta_is_the_mean() -> None:
    assert typical([DeltaSizes("a", 1, 10), DeltaSizes("b", 3, 20)]) == DeltaSizes("typical", 2, 15)
