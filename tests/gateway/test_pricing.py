"""What closed APIs charge: properties that hold for every price, and cases worked by hand."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from gateway.pricing import TextSize, Tier, TokenPrice, baseline_costs_nano_usd, to_nano_usd, to_usd

COUNTS = st.integers(0, 10**7)
USD_PER_MTOK = st.decimals(0, 500, places=4)
RATIOS = st.decimals(Decimal("0.5"), 10, places=3)
SHARES = st.decimals(0, 1, places=3)


@st.composite
def prices(draw: st.DrawFn) -> TokenPrice:
    """Any price; a longer prompt's tokens are never cheaper, as with every provider."""
    rising = sorted(draw(st.lists(USD_PER_MTOK, min_size=6, max_size=6)))
    thresholds = sorted(draw(st.sets(st.integers(1, 300_000), max_size=2)))
    is_cached = draw(st.booleans())
    discount = draw(SHARES)
    levels = [
        (one, two, one * discount if is_cached else None)
        for one, two in zip(rising[:3], rising[3:], strict=True)
    ]
    return TokenPrice(
        *levels[0][:2],
        draw(RATIOS),
        levels[0][2],
        tuple(Tier(at, *level) for at, level in zip(thresholds, levels[1:], strict=False)),
        cached_input_share=draw(SHARES),
        reasoning_multiplier=draw(st.decimals(1, 20, places=2)),
    )


@given(prices(), COUNTS, COUNTS, COUNTS, COUNTS)
def test_more_text_never_costs_less(
    price: TokenPrice, prompt: int, output: int, more_prompt: int, more_output: int
) -> None:
    less = price.estimated_cost_nano_usd(TextSize(prompt), TextSize(output))
    more = price.estimated_cost_nano_usd(
        TextSize(prompt + more_prompt), TextSize(output + more_output)
    )
    assert 0 <= less <= more


@given(prices(), COUNTS, COUNTS, st.data())
def test_a_cached_prompt_is_never_dearer(
    price: TokenPrice, prompt: int, output: int, data: st.DataObject
) -> None:
    fewer = data.draw(st.integers(0, prompt))
    more = data.draw(st.integers(fewer, prompt))
    assert price.cost_nano_usd(prompt, output, more) <= price.cost_nano_usd(prompt, output, fewer)


@given(prices(), st.lists(st.tuples(COUNTS, COUNTS), max_size=20))
def test_without_tiers_parts_cost_what_the_whole_costs(
    price: TokenPrice, parts: list[tuple[int, int]]
) -> None:
    flat = replace(price, tiers=())
    whole = flat.cost_nano_usd(sum(one for one, _ in parts), sum(two for _, two in parts))
    # Each amount is rounded once, by at most half a nano-dollar.
    error = abs(sum(flat.cost_nano_usd(*part) for part in parts) - whole)
    assert 2 * error <= len(parts) + 1


@given(prices(), COUNTS, COUNTS)
def test_thoughts_are_never_free(price: TokenPrice, prompt: int, output: int) -> None:
    cost = price.estimated_cost_nano_usd(TextSize(prompt), TextSize(output))
    plain = replace(price, reasoning_multiplier=Decimal(1))
    assert plain.estimated_cost_nano_usd(TextSize(prompt), TextSize(output)) <= cost


@given(st.integers(0, 10**9), RATIOS)
def test_tokens_are_rounded_up_exactly(character_count: int, ratio: Decimal) -> None:
    count = TokenPrice(Decimal(1), Decimal(1), ratio).token_count(TextSize(character_count))
    assert (count - 1) * ratio < character_count <= count * ratio


@given(st.integers(-(10**15), 10**15))
def test_money_survives_being_shown(nano_usd: int) -> None:
    assert to_nano_usd(to_usd(nano_usd)) == nano_usd


def test_a_long_prompt_costs_its_tier_for_all_of_it() -> None:
    tier = Tier(200_000, Decimal("2.5"), Decimal(15), Decimal("0.25"))
    price = TokenPrice(
        Decimal("1.25"), Decimal(10), cached_input_usd_per_mtok=Decimal("0.125"), tiers=(tier,)
    )
    assert price.cost_nano_usd(200_000, 10) == 200_000 * 1250 + 10 * 10_000
    assert price.cost_nano_usd(200_001, 10) == 200_001 * 2500 + 10 * 15_000
    assert price.cost_nano_usd(200_001, 10, 200_000) == 2500 + 200_000 * 250 + 10 * 15_000


def test_a_baseline_that_thinks_is_billed_for_its_thoughts() -> None:
    price = TokenPrice(Decimal(1), Decimal(5), Decimal(4), reasoning_multiplier=Decimal("2.5"))
    # 3 tokens of prompt; 3 visible ones of output are 7.5, so 8 are billed.
    assert baseline_costs_nano_usd({"b": price}, TextSize(9), TextSize(12)) == {
        "b": 3 * 1000 + 8 * 5000
    }


def test_a_share_of_the_prompt_comes_from_the_cache() -> None:
    price = TokenPrice(
        Decimal(1),
        Decimal(5),
        cached_input_usd_per_mtok=Decimal("0.1"),
        cached_input_share=Decimal("0.75"),
    )
    # 10 tokens of prompt, of which 7 whole ones are cached.
    assert price.estimated_cost_nano_usd(TextSize(40), TextSize(4)) == 3 * 1000 + 7 * 100 + 5000


def test_counted_tokens_come_before_a_ratio_of_characters() -> None:
    price = TokenPrice(Decimal(1), Decimal(5), tokenizer="o200k_base")
    assert price.token_count(TextSize(400, {"o200k_base": 7, "cl100k_base": 9})) == 7
    assert price.token_count(TextSize(400, {"cl100k_base": 9})) == 100
